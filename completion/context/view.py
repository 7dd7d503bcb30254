"""An index as it was before a file was written, for samples and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from completion.context.types import Chunk, Definition, Index
from completion.context.words import telling_lines

_COPY = 0.5
"""A file with this share of its lines in another one, or the other way round, is its copy."""


class View:
    """An index without some files; implements `completion.context.types.Index`."""

    def __init__(self, index: Index, hidden: Callable[[str], bool]) -> None:
        """`hidden` tells by path."""
        self._index = index
        self._known: dict[str, bool] = {}
        self._hidden = hidden

    def _open(self, path: str) -> bool:
        if path not in self._known:
            self._known[path] = not self._hidden(path)
        return self._known[path]

    @property
    def generation(self) -> int:
        """Constant."""
        return self._index.generation

    def search(self, terms: Sequence[str], limit: int) -> list[tuple[Chunk, float]]:
        """As the whole index, hidden files left out."""
        found = self._index.search(terms, 4 * limit)
        return [(chunk, score) for chunk, score in found if self._open(chunk.path)][:limit]

    def following(self, chunk: Chunk) -> Chunk | None:
        """As the whole index."""
        return self._index.following(chunk) if self._open(chunk.path) else None

    def chunks(self, path: str) -> list[Chunk]:
        """As the whole index."""
        return self._index.chunks(path) if self._open(path) else []

    def definitions(self, name: str, limit: int) -> list[Definition]:
        """As the whole index."""
        found = self._index.definitions(name, 10 * limit)
        return [one for one in found if self._open(one.path)][:limit]

    def definitions_in(self, path: str) -> list[Definition]:
        """As the whole index."""
        return self._index.definitions_in(path) if self._open(path) else []

    def resolve(self, module: str, importer: str) -> list[str]:
        """As the whole index."""
        return [path for path in self._index.resolve(module, importer) if self._open(path)]


def without_copies(index: Index, files: Mapping[str, str], path: str) -> View:
    """`index` without the file at `path` and without its copies, which would tell what it says."""
    own = set(telling_lines(files[path]))

    def hidden(other: str) -> bool:
        if other == path:
            return True
        lines = set(telling_lines(files[other]))
        return len(own & lines) >= _COPY * max(1, min(len(own), len(lines)))

    return View(index, hidden)
