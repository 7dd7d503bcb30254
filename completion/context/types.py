"""The seam between the index of a workspace and the retrievers that read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of whole lines of one file.

    Attributes:
        path: relative to the workspace folder, with forward slashes.
        start_line: first line, counted from 0.
        end_line: line behind the last one.
        text: the lines, line breaks included.
        name: qualified name of the definition that the chunk is (part of), or "".
    """

    path: str
    start_line: int
    end_line: int
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """A function, class or constant that other code can use.

    Attributes:
        name: the bare name.
        path, line: where it stands; as in `Chunk`.
        signature: its head and docstring's first line, as code that fits into a prompt.
    """

    name: str
    path: str
    line: int
    signature: str


class Index(Protocol):
    """What retrievers ask of an indexed workspace. Reading only; never blocks on indexing."""

    @property
    def generation(self) -> int:
        """Grows whenever the content changes: what was retrieved before may be outdated."""
        ...

    def search(self, terms: Sequence[str], limit: int) -> list[tuple[Chunk, float]]:
        """Chunks by BM25, best first, with scores (higher is better)."""
        ...

    def following(self, chunk: Chunk) -> Chunk | None:
        """The chunk behind `chunk` in the same file."""
        ...

    def chunks(self, path: str) -> list[Chunk]:
        """The chunks of one file in order; empty where it is not indexed."""
        ...

    def definitions(self, name: str, limit: int) -> list[Definition]:
        """Definitions of a bare name anywhere in the workspace."""
        ...

    def definitions_in(self, path: str) -> list[Definition]:
        """The definitions of one file in order."""
        ...

    def resolve(self, module: str, importer: str) -> list[str]:
        """Paths of the files that importing `module` (dotted, perhaps relative) from `importer`
        may mean; empty where it is not part of the workspace."""
        ...


Find = Callable[[str], tuple[Index, str] | None]
"""The index that has a document (by URI) and its path in it; None where it is in no workspace.
Called whenever a prompt's window begins: it must not wait."""
