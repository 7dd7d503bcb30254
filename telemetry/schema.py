"""The database: tables, views, and the named migrations that lead to them.

Migrations that were released are never edited; a change is a new one below them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlite_utils import Database, Migrations

from telemetry.views import Dialect, views

migrations = Migrations("snowcoder")

_ENVELOPE = {"event_id": str, "user_id": str, "session_id": str, "version": int, "at_us": int}
_ENVELOPE_NOT_NULL = set(_ENVELOPE)


def _create(
    db: Database, name: str, columns: dict[str, type], nullable: tuple[str, ...] = ()
) -> None:
    """Create an event table with the columns that all of them have."""
    db.table(name).create(
        _ENVELOPE | columns,
        pk="event_id",
        not_null=(_ENVELOPE_NOT_NULL | set(columns)) - set(nullable),
        strict=True,
    )
    db.table(name).create_index(["at_us"])


@migrations()
def create_events(db: Database) -> None:
    """One table a class of `telemetry.events`."""
    _create(
        db,
        "opportunities",
        {
            **dict.fromkeys(["request_id", "suggestion_id", "hidden_reason"], str),
            **dict.fromkeys(["language", "trigger", "source", "model", "arms"], str),
            "context_class": str,
            **dict.fromkeys(["chars", "lines", "queue_us", "context_us", "prompt_us"], int),
            **dict.fromkeys(["prefill_us", "decode_us", "shape_us", "total_us"], int),
            **dict.fromkeys(["prompt_tokens", "reused_tokens", "generated_tokens"], int),
            **dict.fromkeys(["drafted_tokens", "accepted_tokens"], int),
            "logprob_sum": float,
            "stop": str,
        },
        nullable=("suggestion_id", "hidden_reason", "source", "logprob_sum", "stop"),
    )
    db.table("opportunities").create_index(["suggestion_id"])
    _create(db, "shown", {"suggestion_id": str})
    db.table("shown").create_index(["suggestion_id"])
    _create(
        db,
        "ended",
        {
            "suggestion_id": str,
            "resolution": str,
            **dict.fromkeys(["chars", "accepted_chars", "typed_chars", "visible_us"], int),
        },
        nullable=("visible_us",),
    )
    db.table("ended").create_index(["suggestion_id"])
    _create(
        db,
        "persistence",
        {
            "suggestion_id": str,
            "after_s": int,
            "status": str,
            **dict.fromkeys(["late_us", "inserted_chars", "present_chars", "distance"], int),
            "reason": str,
        },
        nullable=("present_chars", "distance", "reason"),
    )
    db.table("persistence").create_index(["suggestion_id", "after_s"], unique=True)
    _create(db, "activity", dict.fromkeys(["active_us", "typed_chars", "completed_chars"], int))
    text = dict.fromkeys(["experiment", "arm", "unit", "day"], str)
    _create(db, "exposures", text | {"weight": int})
    _create(db, "lost", {"events": int, "reason": str})


@migrations()
def create_state(db: Database) -> None:
    """Who this installation is, and accepted text that is still to be looked for."""
    db.table("meta").create({"key": str, "value": str}, pk="key", strict=True)
    db.table("pending").create(
        {
            **dict.fromkeys(["suggestion_id", "session_id", "uri", "inserted"], str),
            **dict.fromkeys(["start", "accepted_us", "checks_done"], int),
        },
        pk="suggestion_id",
        not_null={"suggestion_id", "uri", "inserted", "start", "accepted_us", "checks_done"},
        strict=True,
    )


@migrations()
def create_views(db: Database) -> None:
    """The views that reports read."""
    for name, query in views(Dialect.SQLITE).items():
        db.create_view(name, query)


@migrations()
def create_uploads(db: Database) -> None:
    """How far each collector has the events of each table, see `telemetry.outbox`."""
    db.table("uploads").create(
        {
            **dict.fromkeys(["collector", "event_table", "last_event_id"], str),
            "last_rowid": int,
        },
        pk=("collector", "event_table"),
        not_null={"collector", "event_table", "last_event_id", "last_rowid"},
        strict=True,
    )


def migration_names() -> set[str]:
    """All migrations that this version knows."""
    with closing(sqlite3.connect(":memory:")) as nothing:
        return {migration.name for migration in migrations.pending(Database(nothing))}
