"""The relations that reports read, wherever they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import ibis
from ibis.expr.types import Table

RELATIONS = ("opportunities", "suggestions", "user_days", "exposures")


class SourceError(Exception):
    """The record cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """The relations of `docs/telemetry.md`, as Ibis tables of one engine."""

    opportunities: Table
    suggestions: Table
    user_days: Table
    exposures: Table


def open_source(location: Path) -> Source:
    """Read a database (SQLite) or a folder that `telemetry export --parquet` wrote (DuckDB).

    Raises:
        SourceError: it is neither.
    """
    if location.is_dir():
        duck = ibis.duckdb.connect()
        missing = [name for name in RELATIONS if not (location / f"{name}.parquet").is_file()]
        if missing:
            raise SourceError(f"{location} holds no {missing[0]}.parquet")
        try:
            tables = {n: duck.read_parquet(location / f"{n}.parquet") for n in RELATIONS}
        except Exception as error:
            raise SourceError(f"{location} cannot be read: {error}") from error
        return Source(**tables)
    if not location.is_file():
        raise SourceError(f"there is no record at {location}")
    try:
        # Ibis would open it for writing and fail late if it is damaged.
        with closing(sqlite3.connect(f"{location.resolve().as_uri()}?mode=ro", uri=True)) as probe:
            for name in RELATIONS:
                probe.execute(f"select 1 from {name} limit 1")
    except sqlite3.Error as error:
        raise SourceError(f"{location} cannot be read: {error}") from error
    engine = ibis.sqlite.connect(location)
    engine.con.execute("pragma query_only=on")
    return Source(**{name: engine.table(name) for name in RELATIONS})
