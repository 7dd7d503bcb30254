"""Where accepted text stands while the document changes, and how much of it is left.

All offsets and lengths are code points.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field

SEARCH_WINDOW = 20_000
"""How far from where text was last seen altered text is looked for."""
_MOST_LINES = 2000
_MOST_CHARS = 500
_CUTS = 100
_LEAST_SIMILAR = 1 / 3
_LEAST_ALIKE = 0.5
_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Edit:
    """`removed`, which stood at `start`, became `inserted`."""

    start: int
    removed: str
    inserted: str

    @property
    def end(self) -> int:
        """End of the removed text before the edit."""
        return self.start + len(self.removed)

    @property
    def growth(self) -> int:
        """How much longer the document is after the edit."""
        return len(self.inserted) - len(self.removed)


@dataclass(slots=True)
class _Cut:
    """A deletion at the range or at another cut, and what undoing it means."""

    at: int
    text: str
    made_at: int
    start_back: int
    """How far undoing moves the range's start."""
    end_back: int
    earlier: list[tuple[_Cut, int]]
    """The cuts before this one and where they were, as they are again once it is undone."""


@dataclass(slots=True)
class Range:
    """A range that follows edits.

    What is typed inside belongs to it, what is typed at its borders does not. Text that is
    deleted and comes back at the same place (undo, redo, a branch switched to and back)
    belongs to it again; pasted elsewhere it does not.
    """

    start: int
    end: int
    _cuts: list[_Cut] = field(default_factory=list)

    def follow(self, edit: Edit) -> None:
        """Move with an edit. Take replacements apart with `refine` first."""
        if self._cuts and not edit.removed and self._undo(edit):
            return
        start, end = self._moved(edit)
        touches = edit.start < self.end and edit.end > self.start
        if touches or any(edit.start <= cut.at <= edit.end for cut in self._cuts):
            earlier = [(cut, cut.at) for cut in self._cuts]
        else:
            earlier = None
        self._cuts = [cut for cut in self._cuts if not edit.start < cut.at < edit.end]
        for cut in self._cuts:
            if edit.end <= cut.at:
                cut.at += edit.growth
        if earlier is not None and edit.removed:
            back = self.start - start, self.end - end
            self._cuts.append(_Cut(edit.start, edit.removed, edit.start, *back, earlier))
            del self._cuts[:-_CUTS]
        self.start, self.end = start, end

    def _moved(self, edit: Edit) -> tuple[int, int]:
        if edit.end <= self.start and (edit.start < self.start or not edit.removed):
            return self.start + edit.growth, self.end + edit.growth
        if edit.start >= self.end:
            return self.start, self.end
        begins_before, ends_behind = edit.start < self.start, edit.end > self.end
        if begins_before and ends_behind:
            return edit.start, edit.start
        if ends_behind:
            return self.start, edit.start
        start = edit.start + len(edit.inserted) if begins_before else self.start
        return start, self.end + edit.growth

    def _undo(self, edit: Edit) -> bool:
        same = (c for c in reversed(self._cuts) if (c.at, c.text) == (edit.start, edit.inserted))
        if (cut := next(same, None)) is None:
            return False
        self._cuts = [other for other, _ in cut.earlier]
        for other, at in cut.earlier:
            other.at = at + cut.at - cut.made_at
        self.start += cut.start_back
        self.end += cut.end_back
        return True


def refine(edit: Edit) -> Iterator[Edit]:
    """The smaller edits that a replacement consists of, to be applied one after the other.

    An editor that reloads or reformats a file replaces all of it, although little changed.
    """
    old, new = edit.removed, edit.inserted
    head = _common(old, new)
    old, new = old[head:], new[head:]
    tail = _common(old[::-1], new[::-1])
    old, new = old[: len(old) - tail], new[: len(new) - tail]
    at = edit.start + head
    if not old or not new:
        if old or new:
            yield Edit(at, old, new)
        return
    old_lines, new_lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if len(old_lines) > 1 or len(new_lines) > 1:
        if max(len(old_lines), len(new_lines)) > _MOST_LINES:
            yield Edit(at, old, new)
            return
        matcher = difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False)
        for _, low, high, new_low, new_high in matcher.get_opcodes():
            before, after = "".join(old_lines[low:high]), "".join(new_lines[new_low:new_high])
            if before != after:
                yield from _refine_characters(Edit(at, before, after))
            at += len(after)
    else:
        yield from _refine_characters(Edit(at, old, new))


def _refine_characters(edit: Edit) -> Iterator[Edit]:
    old, new, at = edit.removed, edit.inserted, edit.start
    if max(len(old), len(new)) > _MOST_CHARS:
        yield edit
        return
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _LEAST_ALIKE:
        # Letters in common by chance are no sign of the old text.
        yield edit
        return
    for _, low, high, new_low, new_high in matcher.get_opcodes():
        before, after = old[low:high], new[new_low:new_high]
        if before != after:
            yield Edit(at, before, after)
        at += len(after)


def _common(left: str, right: str) -> int:
    """Length of the common prefix, by halving."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def distance(left: str, right: str) -> int:
    """Levenshtein distance (Myers 1999, bit-parallel in the formulation of Hyyrö 2001)."""
    if not left or not right:
        return len(left) + len(right)
    *_, last = _distances(left, right, anywhere=False)
    return last


def _distances(pattern: str, text: str, *, anywhere: bool) -> Iterator[int]:
    """Distance of `pattern` to every prefix of `text`; with `anywhere`, to its nearest suffix."""
    masks: dict[str, int] = {}
    for index, char in enumerate(pattern):
        masks[char] = masks.get(char, 0) | 1 << index
    ones, last = (1 << len(pattern)) - 1, 1 << (len(pattern) - 1)
    up, down, score = ones, 0, len(pattern)
    for char in text:
        equal = masks.get(char, 0)
        vertical = equal | down
        horizontal = ((((equal & up) + up) ^ up) | equal) & ones
        right, left = down | ~(horizontal | up) & ones, up & horizontal
        score += bool(right & last) - bool(left & last)
        right = (right << 1 | (not anywhere)) & ones
        left = left << 1 & ones
        up, down = left | ~(vertical | right) & ones, right & vertical
        yield score


def locate(text: str, wanted: str, near: int) -> Range:
    """Where `wanted`, last seen at `near`, is in `text`, possibly altered.

    The nearest exact match, else the most similar text within `SEARCH_WINDOW`; an empty
    range if nothing is at least a third alike.
    """
    near = min(near, len(text))
    if not wanted:
        return Range(near, near)
    behind = text.find(wanted, near)
    before = text.rfind(wanted, 0, near + len(wanted) - 1)
    exact = [at for at in (behind, before) if at >= 0]
    if exact:
        at = min(exact, key=lambda found: abs(found - near))
        return Range(at, at + len(wanted))
    low = max(near - SEARCH_WINDOW, 0)
    window = text[low : near + SEARCH_WINDOW]
    scores = list(_distances(wanted, window, anywhere=True))
    best = min(scores, default=len(wanted))
    if 1 - best / len(wanted) < _LEAST_SIMILAR:
        return Range(near, near)
    ends = [low + end for end, score in enumerate(scores, 1) if score == best]
    ends.sort(key=lambda end: abs(end - near - len(wanted)))
    places = [_ending_at(text, wanted, end) for end in ends[:_CANDIDATES]]
    return min(places, key=lambda place: abs(place.end - place.start - len(wanted)))


def _ending_at(text: str, wanted: str, end: int) -> Range:
    """The text most similar to `wanted` that ends at `end`, of its length if there is a choice."""
    backwards = text[max(end - 2 * len(wanted), 0) : end][::-1]
    scores = enumerate(_distances(wanted[::-1], backwards, anywhere=False), 1)
    length, _ = min(scores, key=lambda found: (found[1], abs(found[0] - len(wanted))))
    return Range(end - length, end)
