"""The tables and views of `docs/telemetry.md` in PostgreSQL, made from the event classes."""

from __future__ import annotations

from enum import StrEnum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from telemetry.collector.intake import ENVELOPE
from telemetry.events import EVENTS, Event, columns_of
from telemetry.views import Dialect, views

if TYPE_CHECKING:
    import psycopg

SCHEMA = 1
"""Of the tables; a change gets the next number and a step in `migrate`."""
_LOCK = 0x534E4F57
"""Advisory lock: two collectors that start together make the tables once."""
# Engines sort text differently by language; "C" is what SQLite does.
_TEXT = 'text collate "C"'


class NewerSchemaError(Exception):
    """A newer version of the program has made the tables."""


def migrate(connection: psycopg.Connection) -> None:
    """Make the tables and views, in one transaction.

    Raises:
        NewerSchemaError: there are newer ones already.
        psycopg.Error: the database refuses.
    """
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(
            "create table if not exists meta (key text primary key, value text not null)"
        )
        row = connection.execute("select value from meta where key = 'schema'").fetchone()
        if row is not None:
            if int(row[0]) > SCHEMA:
                raise NewerSchemaError("the tables were made by a newer version of SnowCoder")
            return
        for statement in statements():
            connection.execute(statement.encode())
        connection.execute("insert into meta values ('schema', %s)", [str(SCHEMA)])


def statements() -> list[str]:
    """What makes the tables and views of the first schema."""
    made = []
    for event in EVENTS:
        made.append(_table(event))
        made.append(f"create index on {event.table} (at_us)")
        if "suggestion_id" in columns_of(event) and event.table != "persistence":
            made.append(f"create index on {event.table} (suggestion_id)")
    made.append("create unique index on persistence (suggestion_id, after_s)")
    made += [f"create view {n} as {query}" for n, query in views(Dialect.POSTGRES).items()]
    return made


def _table(event: type[Event]) -> str:
    lines = [f"{name} {'integer' if name == 'version' else _TEXT} not null" for name in ENVELOPE]
    hints = get_type_hints(event)
    for name in columns_of(event):
        rule = " primary key" if name == "event_id" else _null(hints[name])
        lines.append(f"{name} {_type(hints[name])}{rule}")
    return f"create table {event.table} ({', '.join(lines)})"


def _type(kind: Any) -> str:  # noqa: ANN401 - any annotation of an event
    base = next(p for p in get_args(kind) if p is not NoneType) if _optional(kind) else kind
    if issubclass(base, StrEnum):
        return _TEXT
    return {str: _TEXT, int: "bigint", float: "double precision"}[base]


def _null(kind: Any) -> str:  # noqa: ANN401 - any annotation of an event
    return "" if _optional(kind) else " not null"


def _optional(kind: Any) -> bool:  # noqa: ANN401 - any annotation of an event
    return isinstance(kind, UnionType)
