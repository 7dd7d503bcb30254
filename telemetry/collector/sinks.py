"""Where the collector keeps events: a SQLite file, or PostgreSQL.

Both have the tables and views of `docs/telemetry.md`, and `aside` for events without a place in
them. A sink belongs to one thread. `write` returns once the events would survive a power cut.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.collector.intake import Batch, columns
from telemetry.events import EVENTS
from telemetry.store import StoreError, open_database

if TYPE_CHECKING:
    import psycopg
    from sqlite_utils import Database

logger = logging.getLogger(__name__)

_ASIDE = (
    "create table if not exists aside (digest text primary key, event_id text not null, "
    "reason text not null, detail text not null, received_us bigint not null, body text not null)"
)
_TABLES = {event.table: columns(event) for event in EVENTS}
_ASIDE_COLUMNS = ["digest", "event_id", "reason", "detail", "received_us", "body"]


class SinkError(Exception):
    """Nothing of a batch was kept and it can be sent again; `reason` is one word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Sink(ABC):
    """Keeps each event once."""

    location: str
    """What `telemetry.analysis.source.open_source` reads the events from."""

    @abstractmethod
    def open(self) -> None:
        """Make the tables where they are missing.

        Raises:
            SinkError: cannot be used.
        """

    @abstractmethod
    def write(self, batch: Batch) -> int:
        """Keep a batch, all of it or nothing; the number of events that were not there yet.

        Raises:
            SinkError: nothing was kept.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    @staticmethod
    def _aside_rows(batch: Batch) -> list[tuple[Any, ...]]:
        now_us = time.time_ns() // 1000
        return sorted(
            (item.digest, item.event_id, item.reason.value, item.detail, now_us, item.body)
            for item in batch.aside
        )


class SqliteSink(Sink):
    """A database like each user's own, with everybody's events."""

    def __init__(self, path: Path, *, timeout_s: float = 5.0) -> None:
        self.location = str(path)
        self._path = path
        self._timeout_s = timeout_s
        self._database: Database | None = None
        self._insert = {
            table: f"insert or ignore into {table} ({', '.join(names)}) "
            f"values ({', '.join('?' * len(names))})"
            for table, names in (_TABLES | {"aside": _ASIDE_COLUMNS}).items()
        }

    def open(self) -> None:
        """Make the tables where they are missing."""
        try:
            self._database = open_database(self._path, timeout_s=self._timeout_s)
            # What was acknowledged is deleted by nobody else's copy: it must survive a power cut.
            self._database.execute("pragma synchronous=full")
            self._database.execute(_ASIDE)
        except StoreError as error:
            raise SinkError(error.reason, str(error)) from error
        except sqlite3.Error as error:
            raise SinkError(_sqlite_reason(error), str(error)) from error

    def write(self, batch: Batch) -> int:
        """Keep a batch in one transaction."""
        assert self._database is not None, "not open"
        connection = self._database.conn
        before = connection.total_changes
        try:
            with self._database.atomic():
                for table, rows in batch.rows.items():
                    connection.executemany(self._insert[table], rows)
                if batch.aside:
                    connection.executemany(self._insert["aside"], self._aside_rows(batch))
        except sqlite3.Error as error:
            raise SinkError(_sqlite_reason(error), f"the database: {error}") from error
        return int(connection.total_changes - before)

    def close(self) -> None:
        """Let go of the database."""
        if self._database is not None:
            self._database.conn.close()


class PostgresSink(Sink):
    """A PostgreSQL database (14 or newer) whose user may create tables.

    Args:
        url: `postgresql://user@host/database`.
    """

    def __init__(self, url: str) -> None:
        self.location = url
        self._connection: psycopg.Connection | None = None
        self._insert = {
            table: f"insert into {table} ({', '.join(names)}) "
            f"values ({', '.join(['%s'] * len(names))}) on conflict do nothing"
            for table, names in (_TABLES | {"aside": _ASIDE_COLUMNS}).items()
        }

    def open(self) -> None:
        """Make the tables where they are missing."""
        import psycopg

        from telemetry.collector import postgres

        try:
            self._connection = psycopg.connect(self.location, connect_timeout=10)
            postgres.migrate(self._connection)
            with self._connection.transaction():
                self._connection.execute(_ASIDE)
        except psycopg.Error as error:
            # The message of a failed connection can repeat its password.
            raise SinkError("unusable", f"PostgreSQL: {type(error).__name__}") from error
        except postgres.NewerSchemaError as error:
            raise SinkError("newer", str(error)) from error

    def write(self, batch: Batch) -> int:
        """Keep a batch in one transaction; a connection that broke is made anew once."""
        import psycopg

        try:
            if self._connection is None or self._connection.closed:
                self.open()
            return self._write(batch)
        except psycopg.OperationalError as error:
            self.close()
            logger.warning("PostgreSQL: %s", error)
            raise SinkError("unavailable", f"PostgreSQL: {type(error).__name__}") from error
        except psycopg.Error as error:
            logger.exception("PostgreSQL refused a batch")
            raise SinkError("unusable", f"PostgreSQL: {type(error).__name__}") from error

    def _write(self, batch: Batch) -> int:
        assert self._connection is not None
        stored = 0
        parts = dict(batch.rows)
        if batch.aside:
            parts["aside"] = self._aside_rows(batch)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            for table, rows in sorted(parts.items()):
                cursor.executemany(self._insert[table], rows)
                stored += cursor.rowcount
        return stored

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_sink(location: str) -> Sink:
    """The sink for a PostgreSQL URL or the path of a SQLite file; not opened yet."""
    if location.startswith(("postgresql://", "postgres://")):
        return PostgresSink(location)
    return SqliteSink(Path(location))


def _sqlite_reason(error: sqlite3.Error) -> str:
    message = str(error)
    if "locked" in message or "busy" in message:
        return "locked"
    return "full" if "full" in message else "unusable"
