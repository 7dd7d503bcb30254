"""The database file and the one thread that writes it.

`put` and `run` return at once, whatever the disk does: a bounded queue stands between a
completion and the file, and what does not fit is counted and recorded as `Lost`.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from telemetry.events import EVENTS, SCHEMA_VERSION, Event, Lost, columns_of

if TYPE_CHECKING:
    from sqlite_utils import Database

logger = logging.getLogger(__name__)

GATHER_S = 0.01
"""How long the writer waits for company before it commits; far below the promised 100 ms."""
QUEUE_SIZE = 10_000
RETRY_S = 0.25
"""Pause after a commit failed (database locked, disk full)."""
TEXT_LIMIT = 200
"""Longest text field, in code points: what a client sends as a language id is not ours to trust."""
_DAY_US = 86_400_000_000


class StoreError(Exception):
    """The database cannot be used. `reason` is one word for programs, the message is for people."""

    reason: ClassVar[str] = "unusable"


class CorruptError(StoreError):
    """The file is not a database, or a damaged one."""

    reason = "corrupt"


class NewerError(StoreError):
    """A newer version of the program has written the file."""

    reason = "newer"


class LockedError(StoreError):
    """Another program keeps the file locked."""

    reason = "locked"


class DiskError(StoreError):
    """The disk is full, or does not write for another reason."""

    reason = "disk"


Job = Callable[["Writer"], None]
"""Work for the store's thread, in order with the events."""


def open_database(path: Path, *, timeout_s: float = 5.0) -> Database:
    """Open or create the database and bring it to the current schema.

    Raises:
        CorruptError: damaged, or no database.
        NewerError: written by a newer version.
        LockedError: locked for longer than `timeout_s`.
        DiskError: the disk is full or does not write.
        StoreError: cannot be opened for another reason, such as permissions.
    """
    from sqlite_utils import Database

    from telemetry.schema import migration_names, migrations

    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=timeout_s)
        # Commits survive a killed process; only a power cut may take the last ones.
        for pragma in ("journal_mode=wal", "synchronous=normal", "secure_delete=on"):
            connection.execute(f"pragma {pragma}").fetchone()
        _check(connection, path)
        database = Database(connection, execute_plugins=False)
        applied = {migration.name for migration in migrations.applied(database)}
        if applied - migration_names():
            raise _newer(path)
        migrations.apply(database)
    except (sqlite3.Error, OSError, StoreError) as error:
        if connection is not None:
            connection.close()
        raise _named(error, path) from error
    return database


def check_database(path: Path) -> bool:
    """Look at the database without changing it; tells whether there is one.

    Raises:
        StoreError: as `open_database`; DiskError also where it may not be written.
    """
    from telemetry.schema import migration_names

    try:
        if not path.exists():
            return False
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise DiskError(f"{path} may not be written")
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            _check(connection, path)
            query = "select name from _sqlite_migrations where migration_set = 'snowcoder'"
            applied = {row[0] for row in connection.execute(query)}
    except (sqlite3.Error, OSError) as error:
        raise _named(error, path) from error
    if applied - migration_names():
        raise _newer(path)
    return True


def _check(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("pragma quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise CorruptError(f"{path} is damaged: {verdict}")


def _newer(path: Path) -> NewerError:
    return NewerError(f"{path} was written by a newer version of SnowCoder")


def open_or_set_aside(path: Path, *, timeout_s: float = 5.0) -> tuple[Database, str | None]:
    """Like `open_database`, but a corrupt file is renamed and a new one takes its place.

    Returns:
        The database, and a sentence about what was set aside, if anything.
    """
    try:
        return open_database(path, timeout_s=timeout_s), None
    except CorruptError as error:
        aside = path.with_name(f"{path.name}.corrupt-{time.time_ns() // 1000}")
        try:
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                # A log without its database would be replayed into the new one.
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        except OSError as failure:
            raise StoreError(f"{error}; it cannot be set aside: {failure}") from failure
        return open_database(path, timeout_s=timeout_s), f"{error}; kept as {aside.name}"


def read_user(database: Database) -> str:
    """The random id of this installation, made on first use."""
    with database.atomic():
        database.execute("insert or ignore into meta values ('user_id', ?)", [uuid.uuid4().hex])
    row = database.execute("select value from meta where key = 'user_id'").fetchone()
    return str(row[0])


def purge(path: Path) -> None:
    """Delete the database, its logs, and what was set aside; missing files are fine.

    A server that runs begins a new one once the database, which goes last, is gone.
    """
    for file in sorted(path.parent.glob(f"{path.name}*"), reverse=True):
        file.unlink(missing_ok=True)


class Writer:
    """What a `Job` may use; lives in the store's thread."""

    def __init__(self, database: Database, user_id: str, session_id: str) -> None:
        self.database = database
        self.session_id = session_id
        self._envelope = (user_id, session_id, SCHEMA_VERSION)
        self._insert = {
            kind.table: f"insert or ignore into {kind.table} "
            f"(user_id, session_id, version, {', '.join(columns_of(kind))}) "
            f"values (?, ?, ?{', ?' * len(columns_of(kind))})"
            for kind in EVENTS
        }
        self._columns = {kind.table: columns_of(kind) for kind in EVENTS}

    def write(self, events: Sequence[Event]) -> None:
        """Insert events into the open transaction; ids that are there already stay as they are."""
        rows: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for event in events:
            values = (_clip(getattr(event, name)) for name in self._columns[event.table])
            rows[event.table].append((*self._envelope, *values))
        for table, table_rows in rows.items():
            self.database.conn.executemany(self._insert[table], table_rows)


class Store:
    """Takes events from any thread and commits them from its own within 100 ms.

    Args:
        path: the database file; folders are made.
        retention_days: events older than this are deleted at the start and daily.
        queue_size: events and jobs that may wait.
        timeout_s: how long to wait for another program's lock before trying again.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_days: int | None = None,
        queue_size: int = QUEUE_SIZE,
        timeout_s: float = 5.0,
    ) -> None:
        self.path = path
        self.session_id = uuid.uuid4().hex
        self.user_id: str | None = None
        """None until the database is open."""
        self.problem: str | None = None
        """A sentence about a database that was set aside or cannot be used, else None."""
        self.waiting: str | None = None
        """Why nothing can be committed at the moment (locked, disk full), else None."""
        self.lost = 0
        """Events that could not be kept since the start."""
        self._retention_days = retention_days
        self._timeout_s = timeout_s
        self._queue: queue.Queue[Event | Job | None] = queue.Queue(queue_size)
        self._counting = threading.Lock()
        self._unreported: Counter[str] = Counter()
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._expired_us = 0
        self._writer: Writer | None = None
        self._file: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Open the database in the background."""
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the database is open or known to be unusable."""
        return self._ready.wait(timeout_s)

    def put(self, event: Event) -> None:
        """Keep an event; never blocks, never raises."""
        if not self._offer(event):
            self._count("overflow", 1)

    def run(self, job: Job) -> bool:
        """Have `job` run in the store's transaction; False if the queue is full."""
        return self._offer(job)

    def close(self, timeout_s: float = 2.0) -> None:
        """Commit what waits and stop; gives up after `timeout_s` if the disk does not answer."""
        self._closing.set()
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _offer(self, item: Event | Job) -> bool:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def _count(self, reason: str, events: int) -> None:
        with self._counting:
            self.lost += events
            self._unreported[reason] += events

    def _run(self) -> None:
        try:
            self._begin()
            self._ready.set()
            self._serve()
        except Exception as error:
            named = _named(error, self.path)
            self.problem = f"telemetry is off ({named.reason}): {named}"
            self.user_id = None
            logger.warning("%s", self.problem)
            self._ready.set()
            self._discard()
        finally:
            self._end()

    def _begin(self) -> None:
        """Open the database, again after it was damaged or removed."""
        self._end()
        database, aside, self.user_id = self._open()
        self.problem, self.waiting = aside or self.problem, None
        self._writer = Writer(database, self.user_id, self.session_id)
        status = self.path.stat()
        self._file = status.st_dev, status.st_ino

    def _removed(self) -> bool:
        """Whether another file, or none, is where the open one was."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        except OSError:
            # A disk that does not answer may come back with the same file.
            return False
        return (status.st_dev, status.st_ino) != self._file

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.database.conn.close()
            self._writer = None

    def _open(self) -> tuple[Database, str | None, str]:
        """Open the database, waiting as long as it is locked or the disk is full.

        Returns:
            The database, a sentence about what was set aside, and the id of this installation.
        """
        aside = None
        while True:
            closing, database = self._closing.is_set(), None
            try:
                database, moved = open_or_set_aside(self.path, timeout_s=self._timeout_s)
                aside = moved or aside
                return database, aside, read_user(database)
            except (sqlite3.Error, StoreError) as error:
                if database is not None:
                    database.conn.close()
                named = _named(error, self.path)
                if closing or not isinstance(named, LockedError | DiskError):
                    raise named from error
                self._wait(named)

    def _wait(self, reason: StoreError) -> None:
        """Pause before the next attempt; one line in the log for all of them."""
        if str(reason) != self.waiting:
            self.waiting = str(reason)
            logger.warning("telemetry waits: %s", reason)
        self._closing.wait(RETRY_S)

    def _serve(self) -> None:
        last = False
        while not last:
            batch, last = self._gather()
            mended = False
            while batch or self._unreported:
                closing = self._closing.is_set()
                try:
                    if self._writer is None or self._removed():
                        logger.info("%s was removed; a new one is begun", self.path)
                        self._begin()
                    assert self._writer is not None
                    self._commit(self._writer, batch)
                    break
                except sqlite3.DatabaseError as error:
                    if isinstance(_named(error, self.path), CorruptError) and not mended:
                        # Opening it finds the damage, and sets it aside.
                        mended = True
                        self._begin()
                        continue
                    if not isinstance(error, sqlite3.OperationalError):
                        raise
                    if closing:
                        logger.warning("telemetry is not written: %s", error)
                        self._count("unwritten", len(batch))
                        return
                    self._wait(_named(error, self.path))
            self.waiting = None

    def _gather(self) -> tuple[list[Event | Job], bool]:
        """What has arrived, once there is something; and whether it is the end."""
        batch: list[Event | Job] = []
        item = self._queue.get()
        until = time.monotonic() + GATHER_S
        while item is not None:
            batch.append(item)
            if len(batch) >= QUEUE_SIZE:
                return batch, False
            try:
                item = self._queue.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, writer: Writer, batch: Sequence[Event | Job]) -> None:
        now_us = time.time_ns() // 1000
        reported = dict(self._unreported)
        lost = [Lost(at_us=now_us, events=n, reason=reason) for reason, n in reported.items()]
        with writer.database.atomic():
            try:
                with writer.database.atomic():
                    writer.write([*lost, *(item for item in batch if isinstance(item, Event))])
            except (OverflowError, sqlite3.IntegrityError, sqlite3.InterfaceError):
                self._write_singly(writer, [*lost, *batch])
            for job in batch:
                if not isinstance(job, Event):
                    self._do(job, writer)
            if self._retention_days is not None and abs(now_us - self._expired_us) > _DAY_US:
                _expire(writer.database, now_us - self._retention_days * _DAY_US)
                self._expired_us = now_us
        with self._counting:
            self._unreported.subtract(reported)
            self._unreported = +self._unreported

    @staticmethod
    def _do(job: Job, writer: Writer) -> None:
        try:
            with writer.database.atomic():
                job(writer)
        except sqlite3.OperationalError:
            raise
        except Exception:
            logger.exception("a telemetry job failed")

    def _write_singly(self, writer: Writer, batch: Sequence[Event | Job]) -> None:
        """Keep what can be kept of a batch with a value that does not fit its column."""
        for event in batch:
            if isinstance(event, Event):
                try:
                    writer.write([event])
                except (OverflowError, sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
                    logger.warning("an event of %s was rejected: %s", event.table, error)
                    self._count("rejected", 1)

    def _discard(self) -> None:
        """Keep the queue empty when there is no database, so that nothing piles up."""
        while not self._closing.is_set():
            if self._queue.get() is None:
                return
            self.lost += 1


def _expire(database: Database, before_us: int) -> None:
    for kind in EVENTS:
        database.execute(f"delete from {kind.table} where at_us < ?", [before_us])


def _clip(value: object) -> object:
    return value[:TEXT_LIMIT] if isinstance(value, str) else value


def _named(error: Exception, path: Path) -> StoreError:
    """The error of ours that stands for one of SQLite's or the system's."""
    if isinstance(error, StoreError):
        return error
    message = str(error)
    if "locked" in message or "busy" in message:
        return LockedError(f"{path} is locked by another program")
    if any(sign in message for sign in ("is full", "disk I/O", "No space")):
        return DiskError(f"{path} cannot be written, the disk may be full: {message}")
    if isinstance(error, sqlite3.DatabaseError) and (
        "not a database" in message or "malformed" in message
    ):
        return CorruptError(f"{path} is damaged: {message}")
    return StoreError(f"{path}: {message}")
