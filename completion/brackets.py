"""Brackets and quotes of unfinished code: what is open, what closes nothing.

A scanner, not a parser: it skips string literals and `#` comments and must make sense of half a
line, which is what stands around a cursor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CLOSERS = {")": "(", "]": "[", "}": "{"}
_OPENERS = frozenset(CLOSERS.values())
_INTERESTING = re.compile(r"\"\"\"|'''|\\.|[()\[\]{}\"'#\n]", re.DOTALL)
# Brackets opened further above than this are not looked for.
_LOOK_BACK_CHARACTERS = 16_000
_STATEMENT = re.compile(r"[A-Za-z_@]")


@dataclass(frozen=True, slots=True)
class State:
    """Where a scan ended.

    Attributes:
        unmatched: closing brackets that closed nothing, in order.
        open: opening brackets still open, outermost first.
        quote: the quote whose string is still open; empty for none.
        comment: whether the text ends inside a comment.
    """

    unmatched: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    quote: str = ""
    comment: bool = False


def _walk(text: str, on_unmatched: Callable[[int, str], bool]) -> State:
    """Scan `text`; `on_unmatched(offset, closer)` returns whether to go on."""
    stack: list[str] = []
    unmatched: list[str] = []
    quote, comment = "", False
    for match in _INTERESTING.finditer(text):
        mark = match.group()
        if mark == "\n":
            comment = False
            # A plain string ends with its line.
            quote = quote if len(quote) == 3 else ""
        elif comment or mark[0] == "\\":
            continue
        elif quote:
            quote = _after_quote(quote, mark)
        elif mark[0] in "\"'":
            quote = mark
        elif mark == "#":
            comment = True
        elif mark in _OPENERS:
            stack.append(mark)
        elif stack and stack[-1] == CLOSERS[mark]:
            stack.pop()
        else:
            unmatched.append(mark)
            if not on_unmatched(match.start(), mark):
                break
    return State(tuple(unmatched), tuple(stack), quote, comment)


def _after_quote(quote: str, mark: str) -> str:
    """The open quote after `mark` inside a string that `quote` opened."""
    if mark == quote:
        return ""
    if len(quote) == 1 and mark == quote * 3:
        # The string ends and an empty one follows.
        return ""
    return quote


def scan(text: str) -> State:
    """What is open and what closed nothing at the end of `text`."""
    return _walk(text, lambda offset, closer: True)


def open_before(text: str) -> tuple[str, ...]:
    """Brackets that the lines of `text` leave open, outermost first.

    Looks back to the last statement in the first column, so that a look-back that begins
    inside a docstring cannot turn code into string and string into code.
    """
    end = len(text.rstrip("\n"))
    limit = max(0, end - _LOOK_BACK_CHARACTERS)
    while True:
        line_feed = text.rfind("\n", limit, end)
        if line_feed < 0 or _STATEMENT.match(text, line_feed + 1):
            return scan(text[max(line_feed + 1, limit) :]).open
        end = line_feed


def first_unmatched(left: str, text: str, outer: Callable[[], Sequence[str]]) -> int | None:
    """Offset in `text` of its first closing bracket that nothing opened, or None.

    Args:
        left: the cursor's line before the cursor.
        text: what would be inserted.
        outer: brackets open before the line, outermost first; asked for only when needed.
    """
    found: list[int] = []
    remaining: list[str] | None = None

    def on_unmatched(offset: int, closer: str) -> bool:
        nonlocal remaining
        if remaining is None:
            remaining = list(outer())
        if remaining and remaining[-1] == CLOSERS[closer]:
            remaining.pop()
            return True
        if offset < len(left):
            return True
        found.append(offset - len(left))
        return False

    _walk(left + text, on_unmatched)
    return found[0] if found else None
