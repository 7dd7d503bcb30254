"""Code of other files that a client sends along (`input_extra`), as an index for each document.

Nothing is shared between documents: what one client sends is never shown to another's prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count

from pydantic import BaseModel

from completion.context.memory import MemoryIndex
from completion.context.types import Index

_MOST_CHARACTERS = 64_000
"""Of one document's index: building it takes 15 ms. Clients send 16 pieces of 64 lines."""


class ExtraPiece(BaseModel):
    """Lines of another file, or of this one far from the cursor."""

    text: str = ""
    filename: str = ""


class _SentIndex(MemoryIndex):
    """An index that another one replaces when other code is sent."""

    def __init__(self, pieces: tuple[tuple[str, str], ...], number: int) -> None:
        files: dict[str, list[str]] = defaultdict(list)
        for name, text in pieces:
            files[name].append(text)
        super().__init__({name: "\n".join(texts) for name, texts in files.items()})
        self.pieces = pieces
        self._number = number

    @property
    def generation(self) -> int:
        """Another one for other code."""
        return self._number


class SentFiles:
    """The code that came with each document's requests. Confined to the engine's thread."""

    def __init__(self) -> None:
        self._by_uri: dict[str, _SentIndex] = {}
        self._numbers = count()

    def put(self, uri: str, pieces: Sequence[ExtraPiece], text: str) -> None:
        """Take what was sent with a document; pieces that its `text` holds are left out."""
        left, kept = _MOST_CHARACTERS, list[tuple[str, str]]()
        # The latest are last.
        for piece in reversed(pieces):
            left -= len(piece.text)
            if left < 0:
                break
            if piece.text.strip() and piece.text.strip() not in text:
                kept.append((piece.filename, piece.text))
        wanted = tuple(reversed(kept))
        known = self._by_uri.get(uri)
        if not wanted:
            self._by_uri.pop(uri, None)
        elif known is None or known.pieces != wanted:
            self._by_uri[uri] = _SentIndex(wanted, next(self._numbers))

    def find(self, uri: str) -> tuple[Index, str] | None:
        """See `completion.context.types.Find`; what the document itself is called is not known."""
        index = self._by_uri.get(uri)
        return None if index is None else (index, "")

    def forget(self, uri: str) -> None:
        """The document is given up."""
        self._by_uri.pop(uri, None)
