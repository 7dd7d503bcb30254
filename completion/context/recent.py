"""Which documents the user was in lately, and what they changed there: from the requests alone."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from completion.context.types import Chunk

_DOCUMENTS = 12
_MOST_CHARACTERS = 200_000
"""Longer documents are not kept for comparison."""
_EDITS = 20
_BEFORE, _BEHIND = 3, 6
"""Lines shown around a change."""


@dataclass(slots=True)
class _Edit:
    uri: str
    first: int
    last: int


class Recent:
    """The latest text of a few documents, and where it changed. Not thread-safe."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._edits: deque[_Edit] = deque(maxlen=_EDITS)

    def observe(self, uri: str, text: str) -> None:
        """The text of a document is now this."""
        if len(text) > _MOST_CHARACTERS:
            self.forget(uri)
            return
        before = self._texts.pop(uri, None)
        self._texts[uri] = text
        while len(self._texts) > _DOCUMENTS:
            self.forget(next(iter(self._texts)))
        if before is not None and before != text:
            self._changed(uri, before, text)

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._texts.pop(uri, None)
        self._edits = deque((one for one in self._edits if one.uri != uri), _EDITS)

    def texts(self) -> dict[str, str]:
        """Text by URI, latest first."""
        return dict(reversed(self._texts.items()))

    def edits(self) -> list[tuple[str, Chunk]]:
        """URI and surroundings of the latest changes (the chunk's path is empty), latest first."""
        found = []
        for edit in reversed(self._edits):
            lines = self._texts[edit.uri].splitlines(keepends=True)
            first, last = max(0, edit.first - _BEFORE), min(len(lines), edit.last + 1 + _BEHIND)
            if first < last:
                found.append((edit.uri, Chunk("", first, last, "".join(lines[first:last]))))
        return found

    def _changed(self, uri: str, before: str, text: str) -> None:
        start = _common(before, text)
        most = min(len(before), len(text)) - start
        end = _common(before[::-1][:most], text[::-1][:most])
        first, last = text.count("\n", 0, start), text.count("\n", 0, len(text) - end)
        shift = text.count("\n") - before.count("\n")
        kept = deque[_Edit](maxlen=_EDITS)
        for one in self._edits:
            if one.uri == uri and one.first > last - shift:
                one.first, one.last = one.first + shift, one.last + shift
            near = one.uri == uri and one.first <= last + _BEHIND and first <= one.last + _BEHIND
            if near:
                first, last = min(first, one.first), max(last, one.last)
            else:
                kept.append(one)
        # A long change is shown by its end.
        kept.append(_Edit(uri, max(first, last - 2 * _BEHIND), last))
        self._edits = kept


def _common(left: str, right: str) -> int:
    """Length of the longest common prefix, by bisection over slices."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
