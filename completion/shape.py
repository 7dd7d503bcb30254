"""From raw model text to what may be shown: fitted to the line, or hidden with a reason.

Pure functions over the text around the cursor. The table-driven cases under
`tests/completion/golden/` are the specification by example.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from completion.brackets import CLOSERS, State, first_unmatched, open_before, scan
from completion.trigger import closing_only
from completion.types import HiddenReason

MIN_VISIBLE_CHARACTERS = 2
_REPETITION = re.compile(r"(.{3,}?)\1{5,}", re.DOTALL)
_WORD_PAIR = re.compile(r"\w\w")
_COMPARED_LINES = 3


@dataclass(frozen=True, slots=True)
class Shaped:
    """Text to insert at the cursor, replacing `replace_right` characters right of it."""

    insert: str
    replace_right: int = 0


def line_around(prefix: str, suffix: str) -> tuple[str, str]:
    """The cursor's line, left and right of the cursor, without its line break."""
    return prefix[prefix.rfind("\n") + 1 :], suffix.partition("\n")[0]


def shape(raw: str, prefix: str, suffix: str, *, max_lines: int = 1) -> Shaped | HiddenReason:
    r"""Fit `raw` between `prefix` and `suffix` (normalised text), or say why to hide it.

    Args:
        raw: decoded text, `\n` line ends.
        prefix: document before the cursor.
        suffix: document after the cursor.
        max_lines: as in `DecodePolicy`; 1 keeps the rest of the cursor's line only, so that
            a text that begins with a line break is empty.
    """
    left, right = line_around(prefix, suffix)
    text = (raw.partition("\n")[0] if max_lines == 1 else raw).rstrip()
    if _REPETITION.search(text):
        return HiddenReason.REPETITION
    following = suffix[len(right) :]
    if "\n" in text:
        text = _without_repeated_tail(text, following)
    shaped = _fit(text, prefix, left, right)
    replaced = right[: shaped.replace_right]
    if not visible_enough(shaped.insert, replaced):
        return HiddenReason.EMPTY
    if _repeats(left + shaped.insert + right[shaped.replace_right :], following):
        return HiddenReason.REPEATS_SUFFIX
    return shaped


def visible_enough(insert: str, replaced: str = "") -> bool:
    """Whether `insert` adds enough to `replaced` to be worth a look."""
    return _visible(insert) - _visible(replaced) >= MIN_VISIBLE_CHARACTERS


def _visible(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _fit(text: str, prefix: str, left: str, right: str) -> Shaped:
    """Keep brackets and quotes balanced against both sides of the cursor."""
    tail = right.rstrip()
    if not tail:
        # Nothing but blanks right of the cursor: a suggestion reaches the line's end.
        return Shaped(_without_stray_closers(text, prefix, left), len(right))
    if not closing_only(right):
        return Shaped(_without_overlap(text, right))
    before = scan(left + tail)
    for insert in (text, _without_stray_closers(text, prefix, left), _closed_within(text, left)):
        # A suggestion that ends with the tail means the tail; else as little as balances.
        whole = [len(tail)] if insert.endswith(tail) else []
        for count in [*whole, *range(len(tail) + 1)]:
            if _as_balanced(scan(left + insert + tail[count:]), before, tail[count:]):
                count = _over_repeated_end(insert, tail, count)
                return Shaped(insert, len(right) if count == len(tail) else count)
    return Shaped(_without_stray_closers(text, prefix, left))


def _as_balanced(after: State, before: State, rest: str) -> bool:
    """Whether the completed line is no less balanced than the line was, `rest` still being code."""
    return (
        len(after.unmatched) <= len(before.unmatched)
        and len(after.open) <= len(before.open)
        and after.quote == before.quote
        and (not after.comment or before.comment or not rest)
    )


def _over_repeated_end(insert: str, tail: str, count: int) -> int:
    """Extend the replaced part over `:`, `,` or `;` that `insert` ends with as well."""
    rest = tail[count:].strip()
    repeated = rest and not rest.strip(":,;") and insert.endswith(rest)
    return len(tail) if repeated else count


def _without_overlap(text: str, right: str) -> str:
    """Cut the end of `text` where it repeats the beginning of `right`."""
    for length in range(min(len(text), len(right)), 0, -1):
        if text.endswith(right[:length]) and right[:length].strip():
            inside_word = _WORD_PAIR.fullmatch(right[length - 1 : length + 1])
            if not inside_word:
                return text[:-length]
    return text


def _without_stray_closers(text: str, prefix: str, left: str) -> str:
    """Cut `text` before the first closing bracket that closes nothing."""
    at = first_unmatched(left, text, lambda: open_before(prefix[: len(prefix) - len(left)]))
    return text if at is None else text[:at].rstrip()


def _closed_within(text: str, left: str) -> str:
    """`text` up to the last closing bracket that the cursor's own line opened."""
    at = first_unmatched(left, text, lambda: ())
    return text if at is None else text[:at].rstrip()


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def _repeats(completed: str, following: str) -> bool:
    """Whether the completed lines are, one for one, the next lines of the document."""
    ours = _lines(completed)[:_COMPARED_LINES]
    # A line of closing brackets repeats its neighbour in perfectly good code.
    if not ours or all(character in CLOSERS or character.isspace() for character in ours[0]):
        return False
    head = following[: 4 * len(completed) + 1000]
    return _lines(head)[: len(ours)] == ours


def _without_repeated_tail(text: str, following: str) -> str:
    """Cut last lines of a multi-line `text` that are the document's next lines."""
    lines = text.split("\n")
    following_lines = _lines(following[: 2 * len(text) + 1000])
    for count in range(min(len(lines) - 1, len(following_lines)), 0, -1):
        tail = [line.rstrip() for line in lines[-count:]]
        if tail == following_lines[:count]:
            return "\n".join(lines[:-count]).rstrip()
    return text
