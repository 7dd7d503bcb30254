"""Accepted text between acceptance and its last check: what survives a restart."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from telemetry.events import PERSISTENCE_CHECKS_S, CheckStatus, Persistence
from telemetry.ranges import distance, locate
from telemetry.store import Job, Writer

LATE_AFTER_US = 5_000_000
"""A check that comes later than this after its time is censored."""
LARGEST_FILE = 5_000_000
"""Bytes of the largest file that a check reads."""
LOOK_S = 1.0
"""A file system that takes longer to read a file counts as one that does not answer."""
SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Pending:
    """Accepted text that is still to be looked for.

    Attributes:
        inserted: the text as accepted; the only source text in the database, deleted
            with the last check.
        start: where it stood when last seen, code points into the document.
        checks_done: how many of `PERSISTENCE_CHECKS_S` are behind it.
    """

    suggestion_id: str
    uri: str
    inserted: str
    start: int
    accepted_us: int
    checks_done: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """One check whose time has come.

    Attributes:
        content: what stood there when last seen; differs from `inserted` after edits.
    """

    suggestion_id: str
    inserted: str
    content: str
    start: int
    after_s: int
    at_us: int
    late_us: int

    def measured(self, present: str, *, deleted: bool = False) -> Persistence:
        """The row for text that stands in its place."""
        status = CheckStatus.FILE_DELETED if deleted else CheckStatus.ON_TIME
        return self._row(
            CheckStatus.LATE if self.late_us > LATE_AFTER_US else status,
            present_chars=len(present),
            distance=distance(self.inserted, present),
        )

    def missing(self, reason: str) -> Persistence:
        """The row for a look that was not possible."""
        return self._row(CheckStatus.MISSING, reason=reason)

    def _row(
        self,
        status: CheckStatus,
        *,
        present_chars: int | None = None,
        distance: int | None = None,
        reason: str | None = None,
    ) -> Persistence:
        return Persistence(
            at_us=self.at_us,
            suggestion_id=self.suggestion_id,
            after_s=self.after_s,
            status=status,
            late_us=self.late_us,
            inserted_chars=len(self.inserted),
            present_chars=present_chars,
            distance=distance,
            reason=reason,
        )


def look_on_disk(uri: str, checks: Sequence[Due], limit_s: float = LOOK_S) -> list[Persistence]:
    """Checks of a document that no editor has open.

    Args:
        uri: of the document.
        checks: whose time has come.
        limit_s: how long to wait for the file: the store's transaction is open meanwhile, and a
            network share that is gone answers after minutes.
    """
    path = path_of(uri)
    if path is None:
        return [check.missing("not_on_disk") for check in checks]
    found: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    # A daemon: nothing ends a blocked read, and it must not keep the process.
    threading.Thread(target=_read, args=(path, found), name="look", daemon=True).start()
    try:
        data = found.get(timeout=limit_s)
        if isinstance(data, Exception):
            raise data
        if len(data) > LARGEST_FILE:
            return [check.missing("too_large") for check in checks]
        text = data.decode("utf-8")
    except queue.Empty:
        return [check.missing("no_answer") for check in checks]
    except FileNotFoundError:
        return [check.measured("", deleted=True) for check in checks]
    except (OSError, ValueError):
        return [check.missing("unreadable") for check in checks]
    rows = []
    for check in checks:
        place = locate(text, check.content, check.start)
        rows.append(check.measured(text[place.start : place.end]))
    return rows


def _read(path: Path, found: queue.SimpleQueue[bytes | Exception]) -> None:
    try:
        with path.open("rb") as stream:
            found.put(stream.read(LARGEST_FILE + 1))
    except (OSError, ValueError) as error:
        found.put(error)


def path_of(uri: str) -> Path | None:
    """The path of a `file:` URI, None for others and malformed ones."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme != "file":
        return None
    if os.name == "nt":
        return Path(url2pathname(parts.path))
    return Path(unquote(parts.path))


_COLUMNS = [item.name for item in fields(Pending)]


def remember(pending: Pending) -> Job:
    """Job: keep accepted text until its last check."""

    def job(writer: Writer) -> None:
        columns = ", ".join(_COLUMNS)
        writer.database.execute(
            f"insert or ignore into pending (session_id, {columns}) values (?, ?, ?, ?, ?, ?, ?)",
            [writer.session_id, *astuple(pending)],
        )

    return job


def save(
    suggestion_id: str, uri: str, start: int, checks_done: int, *, release: bool = False
) -> Job:
    """Job: note where text stands; delete it once its checks are done.

    Args:
        suggestion_id: of the accepted suggestion.
        uri: of the document, which may have been renamed.
        start: where it stands now.
        checks_done: how many checks are behind it.
        release: leave the remaining checks to the next server.
    """

    def job(writer: Writer) -> None:
        if checks_done >= len(PERSISTENCE_CHECKS_S):
            writer.database.execute("delete from pending where suggestion_id = ?", [suggestion_id])
            return
        writer.database.execute(
            "update pending set uri = ?, start = ?, checks_done = ?, session_id = ? "
            "where suggestion_id = ?",
            [uri, start, checks_done, None if release else writer.session_id, suggestion_id],
        )

    return job


def check_on_disk(uri: str, checks: Sequence[Due]) -> Job:
    """Job: look at a file and write what was found."""

    def job(writer: Writer) -> None:
        writer.write(look_on_disk(uri, checks))

    return job


def adopt(now_us: int, take: Callable[[Pending], None]) -> Job:
    """Job: take over what ended servers left.

    One that ended in order has released its texts; of one that was killed, or sleeps, only
    what is overdue is taken, for it may be alive.
    """

    def job(writer: Writer) -> None:
        query = f"select session_id, {', '.join(_COLUMNS)} from pending"
        for session_id, *values in writer.database.execute(query).fetchall():
            pending = Pending(*values)
            due = pending.accepted_us + PERSISTENCE_CHECKS_S[pending.checks_done] * SECOND_US
            abandoned = now_us - due > LATE_AFTER_US or now_us < pending.accepted_us
            if session_id is None or (session_id != writer.session_id and abandoned):
                writer.database.execute(
                    "update pending set session_id = ? where suggestion_id = ?",
                    [writer.session_id, pending.suggestion_id],
                )
                take(pending)

    return job
