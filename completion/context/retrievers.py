"""Five ways to find code that may help at a cursor; each returns candidates, best first.

Constants are those of Repoformer (20-line windows, stride 10, the code *behind* the match) and
CrossCodeEval (the last 10 lines ask BM25) unless a comment says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from completion.context.types import Chunk, Definition, Index
from completion.context.words import COMMON, identifiers, jaccard, terms

_QUERY_LINES = 10
_WINDOW, _STRIDE = 20, 10
_LIMIT = 10
_LEAST_JACCARD = 0.15
"""Windows less alike than this share nothing but everyday words."""
_MOST_HOMES = 3
"""A name defined in more places than this tells nothing without types."""
_MOST_FILES = 12
_MOST_MEMBERS = 12
_NEAR_LINES = 30
_IMPORT = re.compile(r"^[ \t]*from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)", re.M)
_PLAIN_IMPORT = re.compile(r"^[ \t]*import[ \t]+([.\w]+)(?:[ \t]+as[ \t]+(\w+))?", re.M)


@dataclass(frozen=True, slots=True)
class Query:
    """A cursor, and what is known beside it.

    Attributes:
        path: of the document, relative to the workspace.
        prefix: the document before the cursor.
        suffix: the part of the document behind the cursor that the prompt shows.
        seen: characters before the cursor that the prompt shows anyway.
        recent: text of other documents the user was in, by path, latest first.
        edits: lines the user changed lately, latest first.
    """

    path: str
    prefix: str
    suffix: str = ""
    seen: int = 4000
    recent: dict[str, str] = field(default_factory=dict)
    edits: tuple[Chunk, ...] = ()

    def last_lines(self, count: int) -> str:
        """The last lines before the cursor, the cursor's own included."""
        return "\n".join(self.prefix.rsplit("\n", count)[-count:])

    @property
    def line(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that a retriever proposes; `score` means what that retriever says."""

    chunk: Chunk
    score: float


Retriever = Callable[[Query, Index], list[Candidate]]


def bm25(query: Query, index: Index) -> list[Candidate]:
    """Chunks with the words of the last lines, those of the cursor's line twice as important."""
    wanted = terms(query.last_lines(_QUERY_LINES))
    found = index.search(wanted, _LIMIT + 10)
    others = [Candidate(chunk, score) for chunk, score in found if chunk.path != query.path]
    return others[:_LIMIT]


def similar(query: Query, index: Index) -> list[Candidate]:
    """What follows the windows most like the last 20 lines, in recent, imported and found files."""
    return _best_windows(query, _texts_to_compare(query, index))


def same_file(query: Query, index: Index) -> list[Candidate]:
    """The same in the document itself, above what the prompt shows."""
    cut = len(query.prefix) - query.seen
    above = query.prefix[: max(0, query.prefix.rfind("\n", 0, max(0, cut)) + 1)]
    return _best_windows(query, [(query.path, above)] if above else [])


def definitions(query: Query, index: Index) -> list[Candidate]:
    """Heads of what is imported or named near the cursor, grouped by file; later names first."""
    near = identifiers(query.last_lines(_NEAR_LINES))
    wanted = list(dict.fromkeys(reversed(near)))[:40]
    homes = imports(query.prefix)
    grouped: dict[str, list[Definition]] = {}
    ranks: dict[str, int] = {}
    for rank, name in enumerate(wanted):
        for definition in _homes_of(name, homes, query.path, index):
            group = grouped.setdefault(definition.path, [])
            if definition not in group and len(group) < _MOST_MEMBERS:
                group.append(definition)
                ranks.setdefault(definition.path, rank)
    return [
        Candidate(_heads(path, found), 1.0 / (1 + ranks[path]))
        for path, found in sorted(grouped.items(), key=lambda item: ranks[item[0]])
    ][:_LIMIT]


def edits(query: Query, index: Index) -> list[Candidate]:
    """What the user changed lately outside of what the prompt shows, latest first."""
    return [Candidate(chunk, 1.0 / (1 + age)) for age, chunk in enumerate(query.edits[:_LIMIT])]


RETRIEVERS: dict[str, Retriever] = {
    "bm25": bm25,
    "similar": similar,
    "definitions": definitions,
    "edits": edits,
    "same_file": same_file,
}
"""By the names that records, benchmarks and `snowcoder why` use."""


def imports(text: str) -> dict[str, str]:
    """Names that `from … import` and `import` statements bind, to the module they come from."""
    found: dict[str, str] = {}
    for module, names in _IMPORT.findall(text):
        for part in names.strip("()").split(","):
            words = part.split()
            if words and words[0].isidentifier():
                found[words[-1]] = module
    for module, alias in _PLAIN_IMPORT.findall(text):
        found[alias or module.partition(".")[0]] = module
    return found


def _homes_of(
    name: str, homes: dict[str, str], importer: str, index: Index
) -> Iterable[Definition]:
    """Where `name` is defined outside `importer`: by its import, else wherever it is unique."""
    if name in COMMON or len(name) < 3:
        return
    if name in homes:
        for path in index.resolve(homes[name], importer):
            inside = index.definitions_in(path)
            for position, definition in enumerate(inside):
                if definition.name == name and path != importer:
                    yield definition
                    yield from _members(inside, position)
                    return
    found = [one for one in index.definitions(name, _MOST_HOMES + 2) if one.path != importer]
    if len(found) <= _MOST_HOMES:
        yield from found[:1]


def _members(inside: list[Definition], position: int) -> Iterator[Definition]:
    """The methods of a class, public ones only."""
    owner = inside[position].signature
    if not owner.lstrip().startswith("class"):
        return
    indentation = len(owner) - len(owner.lstrip())
    for definition in inside[position + 1 : position + 1 + 2 * _MOST_MEMBERS]:
        head = definition.signature
        if len(head) - len(head.lstrip()) <= indentation:
            return
        if not definition.name.startswith("_") or definition.name == "__init__":
            yield definition


def _heads(path: str, found: list[Definition]) -> Chunk:
    ordered = sorted(found, key=lambda definition: definition.line)
    text = "".join(f"{definition.signature.rstrip()}\n" for definition in ordered)
    return Chunk(path, ordered[0].line, ordered[-1].line + 1, text, ordered[0].name)


def _texts_to_compare(query: Query, index: Index) -> list[tuple[str, str]]:
    paths = [path for path in query.recent if path != query.path]
    for module in dict.fromkeys(imports(query.prefix).values()):
        paths += index.resolve(module, query.path)
    wanted = terms(query.last_lines(_WINDOW))
    paths += [chunk.path for chunk, _ in index.search(wanted, 2 * _LIMIT)]
    unique = [path for path in dict.fromkeys(paths) if path != query.path][:_MOST_FILES]
    return [
        (path, query.recent.get(path) or "".join(chunk.text for chunk in index.chunks(path)))
        for path in unique
    ]


def _best_windows(query: Query, texts: list[tuple[str, str]]) -> list[Candidate]:
    wanted = set(terms(query.last_lines(_WINDOW)))
    found = []
    for path, text in texts:
        lines = text.splitlines(keepends=True)
        for start in range(0, max(1, len(lines) - _STRIDE), _STRIDE):
            window = "".join(lines[start : start + _WINDOW])
            score = jaccard(wanted, set(terms(window)))
            if score >= _LEAST_JACCARD:
                # The middle of the match and what stands behind it.
                begin, end = start + _STRIDE, start + _STRIDE + _WINDOW
                text_behind = "".join(lines[begin:end])
                if text_behind.strip():
                    chunk = Chunk(path, begin, min(end, len(lines)), text_behind)
                    found.append(Candidate(chunk, score))
    found.sort(key=lambda candidate: -candidate.score)
    return found[:_LIMIT]
