"""What was decided about each request, and why: kept for `snowcoder why`.

The last 200 decisions are in memory and, as one JSON object a line, in a file that the command
line reads. No source text is kept, and of a document only its file name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)

KEPT = 200
FILE_NAME = "decisions.jsonl"
_LINES_BEFORE_CUT = 4 * KEPT
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """One request.

    Attributes:
        time: when it was answered, ISO 8601 with zone.
        file: name of the document, without its folder.
        line: of the cursor, from 1.
        language: LSP language id.
        trigger: `automatic` or `invoked`.
        outcome: `suggestion`, `hidden`, `superseded` or `cancelled`.
        rule: what decided: a `HiddenReason`, the source of a suggestion, or the outcome again.
        detail: a sentence for the user.
        suggestion: id of the suggestion; empty for none.
        stages: milliseconds and token counts, as in `completion.types.Record`.
        events: what the editor reported later: `shown`, `accepted`, `partially_accepted`,
            `dismissed`.
    """

    time: str
    file: str
    line: int
    language: str
    trigger: str
    outcome: str
    rule: str
    detail: str
    suggestion: str = ""
    stages: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)


def fold(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decisions, oldest first, with later events put to their suggestion; the last 200."""
    decisions: list[dict[str, Any]] = []
    by_suggestion: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "event" in row:
            target = by_suggestion.get(str(row.get("suggestion")))
            if target is not None and row["event"] not in target["events"]:
                target["events"].append(row["event"])
        elif "outcome" in row:
            decision = {**row, "events": list(row.get("events", []))}
            decisions.append(decision)
            if row.get("suggestion"):
                by_suggestion[row["suggestion"]] = decision
    return decisions[-KEPT:]


def read_file(path: Path) -> list[dict[str, Any]]:
    """The decisions in a file, oldest first; lines that are damaged are left out.

    Raises:
        OSError: the file cannot be read (FileNotFoundError: nothing was ever written).
    """
    return fold(_rows(path.read_text(encoding="utf-8", errors="replace")))


def _rows(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(row := json.loads(line), dict):
                yield row


class Decisions:
    """The last decisions of this process; thread-safe for one caller and its own writer.

    Args:
        path: file for the command line; None keeps them in memory only. Several servers share
            one file. If it cannot be written, that is logged once; the next decision tries again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._count = 0
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._failed = False
        self._writer: threading.Thread | None = None

    def add(self, decision: Decision) -> None:
        """Remember a decision."""
        self._keep(asdict(decision))

    def mark(self, suggestion: str, event: str) -> None:
        """Note what became of a suggestion."""
        self._keep({"suggestion": suggestion, "event": event})

    def last(self, count: int = KEPT) -> list[dict[str, Any]]:
        """The last decisions, oldest first."""
        return fold(self._kept.values())[-count:] if count > 0 else []

    def close(self) -> None:
        """Write what is left, at most a second long."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join(_CLOSE_S)

    def _keep(self, row: dict[str, Any]) -> None:
        self._count += 1
        self._kept[self._count] = row
        # Events share the room of decisions; four for each is more than editors send.
        while len(self._kept) > _LINES_BEFORE_CUT:
            self._kept.popitem(last=False)
        if self.path is None:
            return
        if self._writer is None:
            self._writer = threading.Thread(
                target=self._write_all, args=(self.path,), name="decisions", daemon=True
            )
            self._writer.start()
        self._queue.put(row)

    # In the writer's thread --------------------------------------------------------------

    def _write_all(self, path: Path) -> None:
        lines = _LINES_BEFORE_CUT
        while (row := self._queue.get()) is not None:
            try:
                if lines >= _LINES_BEFORE_CUT:
                    lines = _cut(path)
                _append(path, row)
                lines += 1
                self._failed = False
            except OSError as error:
                if not self._failed:
                    logger.warning("decisions cannot be written to %s: %s", path, error.strerror)
                self._failed = True


def _append(path: Path, row: dict[str, Any]) -> None:
    # One write each, at the end: lines of several servers do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(row, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(descriptor)


def _cut(path: Path) -> int:
    """Leave the last 200 decisions in the file; returns how many lines that is.

    What another server appends in that moment may be lost: a diagnosis, not a record.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    rows = read_file(path)
    other = path.with_suffix(f".{os.getpid()}.tmp")
    other.unlink(missing_ok=True)
    for row in rows:
        _append(other, row)
    if rows:
        other.replace(path)
    else:
        path.unlink()
    return len(rows)
