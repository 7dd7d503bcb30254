"""Sends the record to a collector, if the user has named one; else nothing is ever sent.

The record itself is the outbox: it remembers, for each table, the last event that the collector
has acknowledged. What was sent without an answer is sent again, and the collector keeps each
event once by its id. Users are hashed before anything leaves the machine, and only what was
recorded after the collector was named is sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import sqlite3
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from telemetry.events import EVENTS

logger = logging.getLogger(__name__)

CONFIG = "collector.toml"
"""File beside the database that names the collector. Not an editor's setting: a repository that
is merely opened must not be able to redirect the record."""
BATCH = 500
INTERVAL_S = 30.0
LONGEST_WAIT_S = 600.0
TIMEOUT_S = 30.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class CollectorConfigError(Exception):
    """The file that names the collector cannot be used; the message says why."""


class SendError(Exception):
    """An upload was not acknowledged and will be sent again."""

    def __init__(self, reason: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.retry_s = reason, retry_s


class RefusedError(SendError):
    """The collector does not take this upload, however often it is sent."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where the user wants the record to be sent; what is older than `since_us` stays here."""

    url: str
    token: str
    since_us: int = 0

    def __post_init__(self) -> None:
        """Check that the token cannot be read on its way.

        Raises:
            CollectorConfigError: neither https nor this machine.
        """
        try:
            parts = urlsplit(self.url)
            local = parts.hostname in _LOOPBACK
        except ValueError as error:
            raise CollectorConfigError(f"{self.url!r} is not a URL: {error}") from error
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and local)
        ):
            raise CollectorConfigError(
                f"{self.url!r}: a collector is reached by https, or by http on this machine"
            )
        if not self.token.isascii() or not self.token.isprintable() or " " in self.token:
            raise CollectorConfigError("the token has characters that no token has")


def read_collector(database: Path) -> Collector | None:
    """The collector that the file beside `database` names; None where there is no file.

    Raises:
        CollectorConfigError: the file is not what `write_collector` writes.
    """
    path = database.with_name(CONFIG)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CollectorConfigError(f"{path} cannot be read: {error}") from error
    match given:
        case {"url": str(url), "token": str(token), "since_us": int(since_us), **rest} if not rest:
            return Collector(url.rstrip("/"), token, since_us)
    raise CollectorConfigError(f"{path} does not consist of `url`, `token` and `since_us`")


def write_collector(database: Path, collector: Collector) -> Path:
    """Name the collector, in a file that only its owner can read; returns the file."""
    path = database.with_name(CONFIG)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{CONFIG}.{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        # JSON strings are TOML strings.
        file.write(
            f"url = {json.dumps(collector.url)}\ntoken = {json.dumps(collector.token)}\n"
            f"since_us = {collector.since_us}\n"
        )
    partial.replace(path)
    return path


def remove_collector(database: Path) -> bool:
    """Send nothing any more; whether a collector was named."""
    try:
        database.with_name(CONFIG).unlink()
    except FileNotFoundError:
        return False
    return True


def hash_user(user_id: str) -> str:
    """What collectors know a user by: it cannot be traced to the id in the record."""
    return hashlib.sha256(f"snowcoder-user:{user_id}".encode()).hexdigest()[:32]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would hand the token to whoever it points to."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - the base class's parameters
        return None


def send(collector: Collector, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Upload events once; the collector's receipt.

    Raises:
        RefusedError: the collector does not take these, or not from this sender.
        SendError: no answer, or the collector asks to wait.
    """
    request = urllib.request.Request(
        f"{collector.url}/v1/events",
        json.dumps({"events": events}).encode(),
        {"authorization": f"Bearer {collector.token}", "content-type": "application/json"},
    )
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            receipt = json.loads(answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        with error:
            reason, message = _problem(error)
        if error.code in (429, 503):
            raise SendError(reason, message, _seconds(error.headers["retry-after"])) from error
        kind = RefusedError if 300 <= error.code < 500 else SendError
        raise kind(reason, message) from error
    except (OSError, HTTPException, ValueError) as error:
        raise SendError("unreachable", f"no answer from {collector.url}: {error}") from error
    # Anything else that answers 200 is no collector, and must not count as an acknowledgement.
    if not isinstance(receipt, dict) or not {"stored", "duplicates", "aside"} <= receipt.keys():
        raise SendError("no_collector", f"{collector.url} answers, but is no collector")
    return receipt


class Outbox:
    """What a collector does not have yet.

    Args:
        path: the database; it must exist.
    """

    def __init__(self, path: Path, collector: Collector) -> None:
        self._path, self._collector = path, collector
        self.sent = 0
        """Events acknowledged since the start."""
        self.refused = 0
        """Events that the collector keeps aside or will not take; they stay in the record."""

    def flush(self) -> int:
        """Send what is there; the number of events acknowledged.

        Raises:
            SendError: some are left; what was acknowledged is not sent again.
            sqlite3.Error: the record cannot be read.
        """
        acknowledged = 0
        uri = f"{self._path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
            connection.row_factory = sqlite3.Row
            for event in EVENTS:
                for rows in self._unsent(connection, event.table):
                    self._deliver([_as_upload(event.table, row) for row in rows])
                    self._acknowledge(connection, event.table, rows[-1])
                    acknowledged += len(rows)
                    self.sent += len(rows)
        return acknowledged

    def _unsent(self, connection: sqlite3.Connection, table: str) -> Iterator[list[sqlite3.Row]]:
        """Batches in the order of recording, each read once the one before is acknowledged."""
        while True:
            mark = connection.execute(
                "select * from uploads where collector = ? and event_table = ?",
                [self._collector.url, table],
            ).fetchone()
            # Row ids begin anew when a table was emptied, so the mark counts only while the row
            # that it was set at is there. Otherwise everything since connecting is sent again.
            valid = (
                mark is not None
                and connection.execute(
                    f"select 1 from {table} where rowid = ? and event_id = ?",
                    [mark["last_rowid"], mark["last_event_id"]],
                ).fetchone()
            )
            where = "rowid > ?" if valid else "at_us >= ?"
            rows = connection.execute(
                f"select rowid, * from {table} where {where} order by rowid limit {BATCH}",
                [mark["last_rowid"] if valid else self._collector.since_us],
            ).fetchall()
            if not rows:
                return
            yield rows

    def _deliver(self, events: list[dict[str, Any]]) -> None:
        """Send events, in halves where the collector does not take them together."""
        try:
            receipt = send(self._collector, events)
        except RefusedError as error:
            if error.reason not in ("too_large", "too_many_events"):
                raise
            if len(events) == 1:
                self.refused += 1
                logger.warning("an event was refused (%s): %s", error.reason, error)
                return
            half = len(events) // 2
            self._deliver(events[:half])
            self._deliver(events[half:])
            return
        self.refused += len(receipt["aside"])

    def _acknowledge(self, connection: sqlite3.Connection, table: str, row: sqlite3.Row) -> None:
        with connection:
            connection.execute(
                "insert or replace into uploads "
                "(collector, event_table, last_rowid, last_event_id) values (?, ?, ?, ?)",
                [self._collector.url, table, row["rowid"], row["event_id"]],
            )


class Uploader:
    """Sends in the background, every `INTERVAL_S`, more rarely while the collector is away."""

    def __init__(
        self,
        path: Path,
        collector: Collector,
        ready: Callable[[float], bool],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`ready` waits so many seconds for the database to be there."""
        self.problem: str | None = None
        """Why nothing is sent at the moment, or None."""
        self._outbox = Outbox(path, collector)
        self._ready = ready
        self._interval_s = interval_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop; an upload under way is given up after `timeout_s`, and sent again next time."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def status(self) -> dict[str, Any]:
        """JSON values for the status of the server."""
        return {
            "sent": self._outbox.sent,
            "refused": self._outbox.refused,
            "problem": self.problem,
        }

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set() and not self._ready(0.2):
            pass
        while not self._closing.is_set():
            wait_s = self._interval_s
            try:
                self._outbox.flush()
                failures, self.problem = 0, None
            except (SendError, sqlite3.Error) as error:
                failures += 1
                if self.problem is None:
                    logger.warning("the record was not sent: %s", error)
                self.problem = str(error)
                asked = error.retry_s if isinstance(error, SendError) else None
                wait_s = asked or min(self._interval_s * 2**failures, LONGEST_WAIT_S)
                # A fleet that lost its collector must not come back all at once.
                wait_s *= random.uniform(1.0, 1.5)
            self._closing.wait(wait_s)


def _as_upload(table: str, row: sqlite3.Row) -> dict[str, Any]:
    event = {name: row[name] for name in row.keys() if name != "rowid"}  # noqa: SIM118
    return event | {"table": table, "user_id": hash_user(row["user_id"])}


def _problem(error: urllib.error.HTTPError) -> tuple[str, str]:
    try:
        body = json.loads(error.read(1 << 16))
        return str(body["reason"]), f"the collector says: {str(body['message'])[:200]}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"status_{error.code}", f"the collector answers with status {error.code}"


def _seconds(header: str | None) -> float | None:
    return min(float(header), LONGEST_WAIT_S) if header and header.isdecimal() else None
