"""The index of one workspace on disk: SQLite with FTS5. One process writes, any number read.

The folder of a workspace holds `lock` (who writes), `current` (name of the database that is read)
and that database. One that is built anew gets another name, and `current` is replaced once it is
whole: a reader never sees half of it, and an old write-ahead log never meets a new database.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from completion.context.types import Chunk, Definition
from completion.context.words import terms

if TYPE_CHECKING:
    # The server reads indexes and parses nothing.
    from completion.context.outline import Outline

logger = logging.getLogger(__name__)

VERSION = 1
"""Of schema, cutting and search terms: an index of another version is built anew."""
FileStamp = tuple[int, int, int]
"""Inode, bytes, and nanoseconds of the last change."""

_CURRENT, _LOCK = "current", "lock"
_CACHE_KIB = 16_384
_FLUSH_TERMS = 60_000
_UNUSED_S = 60 * 24 * 3600.0

_SCHEMA = """
CREATE TABLE files(
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, stem TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE INDEX files_by_stem ON files(stem);
CREATE TABLE chunks(
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX chunks_by_place ON chunks(file, first);
CREATE TABLE definitions(
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL, line INTEGER NOT NULL,
    name TEXT NOT NULL, signature TEXT NOT NULL);
CREATE INDEX definitions_by_file ON definitions(file, line);
CREATE INDEX definitions_by_name ON definitions(name);
CREATE TABLE frequencies(term TEXT PRIMARY KEY, chunks INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(terms, content='', tokenize="ascii tokenchars '_'");
"""


class TornIndexError(Exception):
    """A database is missing, damaged or of another version: it must be built anew."""


def workspace_folder(cache: Path, root: Path, exclude: Sequence[str] = ()) -> Path:
    """Where the index of the workspace at `root` is kept; not created here.

    Args:
        cache: the user's cache folder.
        root: the workspace's folder.
        exclude: patterns of the user. With others it is another index: two windows may differ,
            and what one of them excludes must not reach its prompts.
    """
    # Neither a path nor a setting need be UTF-8.
    named = (str(root.absolute()), *exclude)
    key = b"\0".join(name.encode("utf-8", "surrogatepass") for name in named)
    return cache / "index" / hashlib.sha256(key).hexdigest()[:20]


def sweep(cache: Path, folder: Path) -> None:
    """Note that `folder` is used, and remove indexes that nobody used for a long time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LOCK).touch()
    oldest = time.time() - _UNUSED_S
    for other in (cache / "index").iterdir():
        with suppress(OSError):
            if (other / _LOCK).stat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)


def current(folder: Path) -> Path | None:
    """The database to read now; None where none was finished yet."""
    with suppress(OSError, UnicodeDecodeError):
        name = (folder / _CURRENT).read_text(encoding="ascii").strip()
        if name and "/" not in name and (folder / name).is_file():
            return folder / name
    return None


def is_full(error: Exception) -> bool:
    """Whether the disk has no room left: no damage, and building anew would need more."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def stamp(folder: Path) -> FileStamp | None:
    """Changes whenever another database becomes the current one."""
    return file_stamp(folder / _CURRENT)


def file_stamp(path: Path) -> FileStamp | None:
    """Changes with a file; None where it is gone or out of reach."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder's index; waits for the one that is, dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+b") as stream:
        if os.name == "nt":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined,unused-ignore]
                    break
                except OSError:
                    # It gives up after ten seconds.
                    continue
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if os.name == "nt":
                stream.seek(0)
                msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]


class Store:
    """Writes an index. Made by `Store.open` or `Store.anew`.

    Whoever writes holds `locked`, from `begin` to `commit`; readers see nothing before `commit`.

    Attributes:
        path: the database.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        self._frequencies: Counter[str] = Counter()

    @classmethod
    def open(cls, folder: Path, *, check: bool) -> Store:
        """Go on with the folder's index.

        Args:
            folder: see `workspace_folder`.
            check: read all of it for damage first, which takes about a second per gigabyte.

        Raises:
            TornIndexError: it has to be built anew.
        """
        path = current(folder)
        if path is None:
            raise TornIndexError("there is no index yet")
        try:
            connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise TornIndexError(f"the index cannot be opened: {error}") from error
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise TornIndexError(f"the index has version {version}, not {VERSION}")
            if check:
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise TornIndexError(f"the index is damaged: {verdict}")
                # SQLite before 3.44 looks into no virtual table by itself.
                connection.execute("INSERT INTO words(words) VALUES('integrity-check')")
            _tune(connection)
            # Copying the log into the database is done by `rest`, not while somebody waits.
            connection.execute("PRAGMA wal_autocheckpoint=0")
        except sqlite3.Error as error:
            connection.close()
            raise TornIndexError(f"the index cannot be read: {error}") from error
        except TornIndexError:
            connection.close()
            raise
        return cls(connection, path)

    @classmethod
    @contextmanager
    def anew(cls, folder: Path) -> Iterator[Store]:
        """An empty store that becomes the folder's index when the block ends without error."""
        _sweep(folder, keep=current(folder))
        building = folder / f"{time.time_ns()}.building"
        connection = sqlite3.connect(building, isolation_level=None)
        try:
            # A build that dies is thrown away, so nothing of it need be undone.
            connection.executescript(
                "PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            )
            _tune(connection)
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("BEGIN")
            store = cls(connection, building)
            yield store
            store._flush()
            connection.execute("INSERT INTO words(words) VALUES('optimize')")
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.close()
            with building.open("rb+") as stream:
                os.fsync(stream.fileno())
        except BaseException:
            connection.close()
            # On a full disk the room is needed.
            _sweep(folder, keep=current(folder))
            raise
        database = building.with_suffix(".db")
        building.replace(database)
        pointer = folder / f"{_CURRENT}.{os.getpid()}"
        pointer.write_text(database.name, encoding="ascii")
        pointer.replace(folder / _CURRENT)
        _sweep(folder, keep=database)

    def known(self, path: str) -> tuple[int, int, int, bytes] | None:
        """Number, size, modification time and digest of an indexed file."""
        query = "SELECT id, size, mtime_ns, digest FROM files WHERE path=?"
        row: tuple[int, int, int, bytes] | None = self._connection.execute(
            query, (path,)
        ).fetchone()
        return row

    def touch(self, number: int, size: int, mtime_ns: int) -> None:
        """A file has the content it had."""
        self._connection.execute(
            "UPDATE files SET size=?, mtime_ns=? WHERE id=?", (size, mtime_ns, number)
        )

    def put(self, path: str, size: int, mtime_ns: int, digest: bytes, content: Outline) -> int:
        """Index a file or what it says now; returns its number."""
        known = self.known(path)
        if known is None:
            cursor = self._connection.execute(
                "INSERT INTO files(path, stem, size, mtime_ns, digest) VALUES(?,?,?,?,?)",
                (path, stem(path), size, mtime_ns, digest),
            )
            number = int(cursor.lastrowid or 0)
        else:
            number = known[0]
            self._connection.execute(
                "UPDATE files SET size=?, mtime_ns=?, digest=? WHERE id=?",
                (size, mtime_ns, digest, number),
            )
        self._put_chunks(number, content.chunks, new=known is None)
        self._put_definitions(number, content.definitions, new=known is None)
        if len(self._frequencies) > _FLUSH_TERMS:
            self._flush()
        return number

    def remove(self, path: str) -> int:
        """Forget a file, or all files below a folder; returns how many."""
        rows = self._connection.execute(
            # A slash is followed by 0 in every order of characters.
            "SELECT id FROM files WHERE path=? OR (path>=? AND path<?)",
            (path, f"{path}/", f"{path}0"),
        ).fetchall()
        self._remove(number for (number,) in rows)
        return len(rows)

    def remove_others(self, kept: set[int]) -> int:
        """Forget the files whose numbers are not among these; returns how many."""
        rows = self._connection.execute("SELECT id FROM files").fetchall()
        gone = [number for (number,) in rows if number not in kept]
        self._remove(gone)
        return len(gone)

    def count(self) -> int:
        """Files indexed."""
        (files,) = self._connection.execute("SELECT count(*) FROM files").fetchone()
        return int(files)

    def begin(self) -> None:
        """Begin to write; what an earlier job left undone is dropped."""
        self._frequencies.clear()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Let readers see what was written."""
        self._flush()
        self._connection.execute("COMMIT")

    def rest(self) -> None:
        """Copy the write-ahead log into the database, as far as readers let it."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Drop what was not committed."""
        self._connection.close()

    def _remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._put_chunks(number, [], new=False)
            self._put_definitions(number, [], new=False)
            self._connection.execute("DELETE FROM files WHERE id=?", (number,))

    def _put_chunks(self, file: int, chunks: list[Chunk], *, new: bool) -> None:
        """Chunks that say what they said only move: their words need not be indexed again."""
        execute = self._connection.execute
        old: dict[str, list[tuple[int, int, int, str]]] = {}
        if not new:
            query = "SELECT id, first, last, name, text FROM chunks WHERE file=?"
            for row in execute(query, (file,)).fetchall():
                old.setdefault(row[4], []).append(row[:4])
        for chunk in chunks:
            if same := old.get(chunk.text):
                number, *place = same.pop()
                now = [chunk.start_line, chunk.end_line, chunk.name]
                if place != now:
                    execute("UPDATE chunks SET first=?, last=?, name=? WHERE id=?", (*now, number))
                continue
            cursor = execute(
                "INSERT INTO chunks(file, first, last, name, text) VALUES(?,?,?,?,?)",
                (file, chunk.start_line, chunk.end_line, chunk.name, chunk.text),
            )
            found = terms(chunk.text)
            self._frequencies.update(set(found))
            execute(
                "INSERT INTO words(rowid, terms) VALUES(?,?)", (cursor.lastrowid, " ".join(found))
            )
        for text, rows in old.items():
            found = terms(text)
            for number, *_ in rows:
                self._frequencies.subtract(set(found))
                execute(
                    "INSERT INTO words(words, rowid, terms) VALUES('delete',?,?)",
                    (number, " ".join(found)),
                )
                execute("DELETE FROM chunks WHERE id=?", (number,))

    def _put_definitions(self, file: int, definitions: list[Definition], *, new: bool) -> None:
        wanted = [(one.line, one.name, one.signature) for one in definitions]
        if not new:
            query = "SELECT line, name, signature FROM definitions WHERE file=? ORDER BY line, id"
            if self._connection.execute(query, (file,)).fetchall() == wanted:
                return
            self._connection.execute("DELETE FROM definitions WHERE file=?", (file,))
        self._connection.executemany(
            "INSERT INTO definitions(file, line, name, signature) VALUES(?,?,?,?)",
            ((file, *row) for row in wanted),
        )

    def _flush(self) -> None:
        changed = [(term, count) for term, count in self._frequencies.items() if count]
        changed.sort()
        self._connection.executemany(
            "INSERT INTO frequencies VALUES(?,?) "
            "ON CONFLICT(term) DO UPDATE SET chunks=chunks+excluded.chunks",
            changed,
        )
        self._connection.executemany(
            "DELETE FROM frequencies WHERE term=? AND chunks<=0",
            ((term,) for term, count in changed if count < 0),
        )
        self._frequencies.clear()


def stem(path: str) -> str:
    """What a module in this file is imported by: its name, its folder's where it is a package."""
    pure = PurePosixPath(path)
    name = pure.name.partition(".")[0]
    return pure.parent.name if name in ("__init__", "index", "mod") else name


def _tune(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA synchronous=NORMAL")


def _sweep(folder: Path, keep: Path | None) -> None:
    """Remove databases that builders left half done and those that were replaced."""
    for path in folder.iterdir():
        name = path.name
        old = ".db" in name and (keep is None or not name.startswith(keep.name))
        if old or ".building" in name or name.startswith(f"{_CURRENT}."):
            # On Windows a window may still read it; the next build removes it.
            with suppress(OSError):
                path.unlink()
