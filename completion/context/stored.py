"""Reads the index of a workspace that another process keeps (`completion.context.store`)."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from completion.context import store
from completion.context.types import Chunk, Definition

logger = logging.getLogger(__name__)

_MOST_POSTINGS = 1000
"""Chunks that a query may score: its rarest terms are taken until they are used up."""
_MOST_TERMS = 500
_BUSY_S = 0.05
_CHUNK = "files.path, first, last, text, name FROM chunks JOIN files ON files.id=chunks.file"
_DEFINITION = "name, files.path, line, signature FROM definitions JOIN files ON files.id=file"
_RELATIVE_SUFFIXES = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".d.ts")
_MOST_HOMES = 20


class StoredIndex:
    """Implements `completion.context.types.Index`.

    Never waits: where nothing was built yet, or the database is damaged (its builder makes it
    anew), it is empty. For one thread at a time.

    Args:
        folder: see `completion.context.store.workspace_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connection: sqlite3.Connection | None = None
        self._stamp: store.FileStamp | None = None
        self._version = 0
        self._generation = 0

    @property
    def generation(self) -> int:
        """Grows with every commit of the builder."""
        for row in self._rows("PRAGMA data_version"):
            if row[0] != self._version:
                self._version = row[0]
                self._generation += 1
        return self._generation

    def search(self, terms: Sequence[str], limit: int) -> list[tuple[Chunk, float]]:
        """Chunks by BM25 over the rarest of the terms, best first."""
        rarest = self._rarest(terms)
        if not rarest or limit <= 0:
            return []
        wanted = " OR ".join('"' + term.replace('"', '""') + '"' for term in rarest)
        query = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        scores = dict(self._rows(query, (wanted, limit)))
        found = [(chunk, scores[number]) for number, chunk in self._numbered(list(scores))]
        found.sort(key=lambda item: (-item[1], item[0].path, item[0].start_line))
        return found

    def following(self, chunk: Chunk) -> Chunk | None:
        """The chunk behind `chunk` in the same file."""
        place = (chunk.path, chunk.end_line)
        for row in self._rows(f"SELECT {_CHUNK} WHERE files.path=? AND first=?", place):
            return Chunk(*row)
        return None

    def chunks(self, path: str) -> list[Chunk]:
        """The chunks of one file in order."""
        query = f"SELECT {_CHUNK} WHERE files.path=? ORDER BY first"
        return [Chunk(*row) for row in self._rows(query, (path,))]

    def definitions(self, name: str, limit: int) -> list[Definition]:
        """Definitions of a bare name, by path and line."""
        query = f"SELECT {_DEFINITION} WHERE name=? ORDER BY path, line LIMIT ?"
        return [Definition(*row) for row in self._rows(query, (name, limit))]

    def definitions_in(self, path: str) -> list[Definition]:
        """The definitions of one file in order."""
        query = f"SELECT {_DEFINITION} WHERE files.path=? ORDER BY line, definitions.id"
        return [Definition(*row) for row in self._rows(query, (path,))]

    def resolve(self, module: str, importer: str) -> list[str]:
        """Files that `module` may mean, those that share most folders with `importer` first.

        Dotted names mean Python's modules and Java's classes, relative ones from the importer's
        folder; names that begin with `./` or `../` mean JavaScript's and TypeScript's.
        """
        if module.startswith(("./", "../")):
            return self._existing(_relative_files(module, importer))
        name = module.lstrip(".")
        up = len(module) - len(name)
        tail = name.replace(".", "/")
        ends = ("java",) if importer.endswith(".java") else ("py", "pyi")
        if up:
            folder = PurePosixPath(importer).parent
            for _ in range(up - 1):
                folder = folder.parent
            base = "/".join(part for part in (folder.as_posix(), tail) if part not in ("", "."))
            inside = f"{base}/__init__" if base else "__init__"
            return self._existing([f"{one}.{end}" for one in (base, inside) if one for end in ends])
        if not tail:
            return []
        wanted = tuple(f"/{tail}{kind}.{end}" for kind in ("", "/__init__") for end in ends)
        query = "SELECT path FROM files WHERE stem=?"
        rows = self._rows(query, (tail.rpartition("/")[2],))
        found = [path for (path,) in rows if f"/{path}".endswith(wanted)]
        found.sort(key=lambda path: (-_shared(path, importer), path))
        return found[:_MOST_HOMES]

    def close(self) -> None:
        """Let go of the database; the next question opens it again."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._stamp = None, None

    def _rarest(self, terms: Sequence[str]) -> list[str]:
        unique = list(dict.fromkeys(terms))[:_MOST_TERMS]
        marks = ",".join("?" * len(unique))
        query = f"SELECT term, chunks FROM frequencies WHERE term IN ({marks})"
        left = _MOST_POSTINGS
        taken: list[str] = []
        for term, count in sorted(self._rows(query, unique), key=lambda row: (row[1], row[0])):
            if taken and count > left:
                break
            taken.append(term)
            left -= count
        return taken

    def _numbered(self, numbers: Sequence[int]) -> list[tuple[int, Chunk]]:
        marks = ",".join("?" * len(numbers))
        query = f"SELECT chunks.id, {_CHUNK} WHERE chunks.id IN ({marks})"
        return [(row[0], Chunk(*row[1:])) for row in self._rows(query, numbers)]

    def _existing(self, paths: Sequence[str]) -> list[str]:
        marks = ",".join("?" * len(paths))
        rows = self._rows(f"SELECT path FROM files WHERE path IN ({marks})", paths)
        there = {path for (path,) in rows}
        return [path for path in paths if path in there]

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        connection = self._open()
        if connection is None:
            return []
        try:
            return connection.execute(query, values).fetchall()
        except UnicodeEncodeError:
            # Half of a surrogate pair in a document or its URI: no indexed text has one.
            return []
        except sqlite3.OperationalError as error:
            # Locked for a moment, or gone.
            logger.info("the index of %s did not answer: %s", self._folder.name, error)
        except sqlite3.DatabaseError as error:
            logger.warning("the index of %s is damaged: %s", self._folder.name, error)
            connection.close()
            self._connection = None
        return []

    def _open(self) -> sqlite3.Connection | None:
        """The connection to the current database; None where there is none that can be read."""
        stamp = store.stamp(self._folder)
        if stamp == self._stamp:
            return self._connection
        self.close()
        self._stamp = stamp
        self._generation += 1
        path = store.current(self._folder)
        if path is None:
            return None
        try:
            connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("PRAGMA query_only=1")
        except sqlite3.Error as error:
            logger.warning("the index of %s cannot be read: %s", self._folder.name, error)
            return None
        if version != store.VERSION:
            connection.close()
            return None
        self._connection = connection
        (self._version,) = connection.execute("PRAGMA data_version").fetchone()
        return connection


def _relative_files(module: str, importer: str) -> list[str]:
    base = os.path.normpath(f"{PurePosixPath(importer).parent}/{module}").replace(os.sep, "/")
    without = base[: -len(".js")] if base.endswith(".js") else base
    names = [base, *(f"{without}{end}" for end in _RELATIVE_SUFFIXES)]
    return names + [f"{base}/index{end}" for end in _RELATIVE_SUFFIXES]


def _shared(path: str, importer: str) -> int:
    pairs = zip(path.split("/")[:-1], importer.split("/")[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
