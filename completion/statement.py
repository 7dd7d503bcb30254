"""The statement around a cursor, judged by Python's own parser, which is stricter than tree-sitter.

Tree-sitter reads on over a stray comma or an indent that nothing opened, and in text that is broken
already it may not count one error more. The statement alone is short enough for `ast`.
"""

from __future__ import annotations

import re
from functools import partial

from completion.brackets import first_unmatched, scan
from completion.region import outermost_function
from models.source_tree import parse

_LOOK_BACK = 8_000
_LOOK_AHEAD = 4_000
_PIECES = 20
"""Brackets that one statement may close and open again behind the cursor."""
_FIRST_COLUMN = re.compile(r"[A-Za-z_@]")
# None of these stands at the beginning of a line inside brackets.
_ONLY_A_STATEMENT = re.compile(
    r"^[ \t]*(?:(?:def|class|return|import|raise|assert|with|while|del|pass)\b|try:|@\w)",
    re.MULTILINE,
)
# Newer than the oldest Python that the server runs on: PEP 695 and 696, 701, 758.
_NEWER = re.compile(
    r"""^[ \t]*(?:(?:async[ ]+)?def|class)[ ]+\w+\[|^[ \t]*type[ ]+\w+|^[ \t]*except[ ]+[\w.]+,"""
    r"""|\b[fF][rR]?["'][^\n]*\{[^}\n]*["'\\]|\b[tT]["']""",
    re.MULTILINE,
)
_BRANCHES = {"else": "if 1", "elif": "if 1", "except": "try", "finally": "try"}
_WORD = re.compile(r"\w*")
_SPECIAL = re.compile(r"[(\[{\"'\\]")


def breaks_statement(prefix: str, insert: str, rest: str, string: int = 0) -> bool:
    r"""Whether the statement that `insert` completes is none, or the lines below cannot follow it.

    Where the statement cannot be made out (too long, say), the answer is no. A line that opens a
    block (`if x:`) may still lack its body, and inside a string any text is right that does not
    end it.

    Args:
        prefix: document before the cursor, `\n` line ends.
        insert: the suggestion.
        rest: document after the suggestion.
        string: characters before the cursor of the string that it is inside of.
    """
    begun = _begun(prefix, string) if insert else None
    if begun is None or begun.lstrip().startswith("#"):
        return False
    if string and scan(begun + insert).quote:
        return False
    near = rest[:_LOOK_AHEAD]
    text = begun + insert + near
    written = len(begun) + len(insert)
    start, end = 0, _logical_end(text, 0)
    while end is not None and end < written:
        start, end = end + 1, _logical_end(text, end + 1)
    if end is None:
        # What the user has left open need not be closed by a suggestion.
        state, before = scan(text[start:written]), scan(begun)
        if state.quote or len(state.open) <= len(before.open):
            return False
        return len(near) == len(rest) or _ONLY_A_STATEMENT.search(text, written) is not None
    statement, last = text[:end], text[start:end]
    if last.lstrip().startswith("#"):
        return False
    below = text[end + 1 :]
    return (
        not _parses(statement, last) or _indented_below(last, below) or _closed_below(last, below)
    )


def _begun(prefix: str, string: int) -> str | None:
    """The statement before the cursor from its first line on; None where that cannot be told."""
    base = start = prefix.rfind("\n") + 1
    while base > 0 and start - base < _LOOK_BACK:
        base = prefix.rfind("\n", 0, base - 1) + 1
        if _FIRST_COLUMN.match(prefix, base):
            break
    else:
        if base > 0:
            # The text may begin inside a string here.
            inner = outermost_function(prefix[base:start])
            if inner is None:
                return None
            base += inner
    above = prefix[base:start]
    position = 0
    while position < len(above):
        end = _logical_end(above, position)
        if end is None and _ONLY_A_STATEMENT.search(above, _line_end(above, position)):
            # Never closed, and not by what is typed now: the error of another line.
            end = _line_end(above, position)
        if end is None or end >= len(above):
            break
        position = end + 1
    begun = above[position:] + prefix[start:]
    # Begun in the middle of a string, code would be string and string code.
    outside = begun[: len(begun) - string] if string else above[position:]
    return None if string > len(begun) or scan(outside).quote else begun


def _logical_end(text: str, start: int) -> int | None:
    """Where the logical line that begins at `start` ends; None if `text` does not hold its end."""
    end = _line_end(text, start)
    for _ in range(_PIECES):
        chunk = text[start:end]
        if not _SPECIAL.search(chunk):
            return end
        state = scan(chunk)
        if len(state.quote) == 3:
            closing = text.find(state.quote, end)
            found = None if closing < 0 else closing + 3
        elif state.open:
            inner = state.open[1:]
            offset = first_unmatched("", text[end:], partial(tuple, inner))
            found = None if offset is None else end + offset
        elif chunk.endswith("\\"):
            found = end + 1 if end < len(text) else None
        else:
            return end
        if found is None:
            return None
        end = _line_end(text, found)
    return None


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _parses(text: str, last: str) -> bool:
    """Whether `text`, whose last statement is `last`, is Python, given what belongs around it.

    What a newer Python than this one may read is let through.
    """
    indent = _indent(text)
    body = last[: _indent(last)] + " "
    if _opens_block(last):
        case = "case _: " if _word(last) == "match" else ""
        text += f"\n{body}{case}pass"
    elif last.lstrip().startswith("@"):
        text += f"\n{last[: _indent(last)]}def f(): pass"
    first = _word(text)
    margin = text[:indent]
    if first in _BRANCHES:
        text = f"{margin}{_BRANCHES[first]}:\n{margin} pass\n{text}"
    if indent:
        text = f"{'match 1' if first == 'case' else 'if 1'}:\n{text}"
    return is_python(text) or _NEWER.search(text) is not None


def is_python(text: str) -> bool:
    """Whether the running Python's parser reads `text`."""
    return parse(text + "\n") is not None


def _word(text: str) -> str:
    found = _WORD.match(text, _indent(text))
    return found.group() if found is not None else ""


def _opens_block(text: str) -> bool:
    line = text.rpartition("\n")[2]
    return line.partition(" #")[0].rstrip().endswith(":")


def _indented_below(last: str, below: str) -> bool:
    """Whether the next line is deeper though `last`, above it, opens no block."""
    following = next((line for line in below.split("\n") if line.strip()), "")
    if _opens_block(last) or following.lstrip().startswith("#"):
        return False
    return _indent(following) > _indent(last)


def _closed_below(last: str, below: str) -> bool:
    """Whether a line below closes a bracket that `last`, being complete, no longer has open."""
    position = 0
    for line in below.split("\n"):
        if line.strip() and _indent(line) <= _indent(last):
            return line.lstrip()[0] in ")]}" and not scan(below[:position]).open
        position += len(line) + 1
    return False


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))
