"""An index in memory: for benchmarks, training samples and tests, where a store is not needed."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from completion.context.types import Chunk, Definition, Find, Index
from completion.context.words import terms

_K1, _B = 1.2, 0.75
"""BM25's usual constants (Robertson and Zaragoza, 2009)."""
_MOST_LINES, _LEAST_LINES = 24, 6
_HEAD = re.compile(r"(?:async\s+def|def|class)\s+(\w+)")
_CONSTANT = re.compile(r"([A-Za-z_]\w*)\s*(?::[^=]+)?=[^=]")
_MOST_HEAD_LINES = 8


class MemoryIndex:
    """Implements `completion.context.types.Index` over Python files given as text."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files`: text by path relative to the workspace."""
        self._chunks: dict[str, list[Chunk]] = {}
        self._definitions: dict[str, list[Definition]] = {}
        self._by_name: dict[str, list[Definition]] = defaultdict(list)
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._all: list[Chunk] = []
        self._position: dict[tuple[str, int], int] = {}
        lengths: list[int] = []
        for path, text in sorted(files.items()):
            self._chunks[path] = split(path, text)
            self._definitions[path] = definitions(path, text)
            for definition in self._definitions[path]:
                self._by_name[definition.name].append(definition)
            for chunk in self._chunks[path]:
                number = len(self._all)
                self._position[path, chunk.start_line] = number
                self._all.append(chunk)
                counts = Counter(terms(chunk.text))
                lengths.append(sum(counts.values()))
                for term, count in counts.items():
                    self._postings[term].append((number, count))
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._norms = [_K1 * (1 - _B + _B * length / mean) for length in lengths]

    @property
    def generation(self) -> int:
        """Always the same: the content never changes."""
        return 0

    def search(self, terms: Sequence[str], limit: int) -> list[tuple[Chunk, float]]:
        """Chunks by BM25, best first."""
        scores: dict[int, float] = defaultdict(float)
        total = len(self._all)
        for term in set(terms):
            postings = self._postings.get(term, ())
            weight = math.log(1 + (total - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, count in postings:
                scores[number] += weight * count * (_K1 + 1) / (count + self._norms[number])
        best = heapq.nlargest(limit, scores.items(), key=lambda item: (item[1], -item[0]))
        return [(self._all[number], score) for number, score in best]

    def following(self, chunk: Chunk) -> Chunk | None:
        """The chunk behind `chunk` in the same file."""
        number = self._position.get((chunk.path, chunk.start_line))
        if number is None or number + 1 >= len(self._all):
            return None
        after = self._all[number + 1]
        return after if after.path == chunk.path else None

    def chunks(self, path: str) -> list[Chunk]:
        """The chunks of one file in order."""
        return self._chunks.get(path, [])

    def definitions(self, name: str, limit: int) -> list[Definition]:
        """Definitions of a bare name."""
        return self._by_name.get(name, [])[:limit]

    def definitions_in(self, path: str) -> list[Definition]:
        """The definitions of one file in order."""
        return self._definitions.get(path, [])

    def resolve(self, module: str, importer: str) -> list[str]:
        """Files whose path ends like the module's; relative ones from the importer's folder."""
        name = module.lstrip(".")
        up = len(module) - len(name)
        tail = name.replace(".", "/")
        if up:
            folder = PurePosixPath(importer).parent
            for _ in range(up - 1):
                folder = folder.parent
            base = "/".join(part for part in (folder.as_posix(), tail) if part not in ("", "."))
            candidates = (f"{base}.py", f"{base}/__init__.py")
            return [path for path in candidates if path in self._chunks]
        ends = (f"/{tail}.py", f"/{tail}/__init__.py")
        return [path for path in self._chunks if f"/{path}".endswith(ends)] if tail else []


def open_documents() -> Find:
    """For a workspace that is not indexed: what the user has open is all there is.

    An empty index for every document; paths are the last two parts of the URI's.
    """
    nothing = MemoryIndex({})

    def find(uri: str) -> tuple[Index, str]:
        parts = unquote(urlsplit(uri).path).split("/")
        return nothing, "/".join(part for part in parts[-2:] if part)

    return find


def split(path: str, text: str) -> list[Chunk]:
    """Runs of whole lines that begin at definitions where they can."""
    lines = text.splitlines(keepends=True)
    chunks: list[Chunk] = []
    start, name = 0, ""
    for number in range(1, len(lines) + 1):
        head = _HEAD.match(lines[number].lstrip()) if number < len(lines) else None
        size = number - start
        if number == len(lines) or size >= _MOST_LINES or (head and size >= _LEAST_LINES):
            chunks.append(Chunk(path, start, number, "".join(lines[start:number]), name))
            start = number
        if head:
            name = head[1]
    return chunks


def definitions(path: str, text: str) -> list[Definition]:
    """Functions, classes and module constants, by the look of their lines."""
    return list(_definitions(path, text.splitlines()))


def _definitions(path: str, lines: list[str]) -> Iterator[Definition]:
    for number, line in enumerate(lines):
        if head := _HEAD.match(line.lstrip()):
            yield Definition(head[1], path, number, _signature(lines, number))
        elif constant := _CONSTANT.match(line):
            yield Definition(constant[1], path, number, line[:120])


def _signature(lines: list[str], number: int) -> str:
    end, depth = number, 0
    while end < min(len(lines), number + _MOST_HEAD_LINES):
        depth += sum(map(lines[end].count, "([{")) - sum(map(lines[end].count, ")]}"))
        end += 1
        if depth <= 0 and lines[end - 1].rstrip().endswith(":"):
            break
    head = lines[number:end]
    if end < len(lines) and lines[end].lstrip().startswith('"""'):
        head.append(lines[end] if lines[end].count('"""') == 2 else lines[end].rstrip() + '"""')
    return "\n".join(head)
