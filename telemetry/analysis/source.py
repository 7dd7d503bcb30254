"""The relations that reports read, wherever they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
from ibis.expr.types import Table

from telemetry.export import column_type

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

    def close(self) -> None:
        """Let go of the engine."""
        self.opportunities.get_backend().disconnect()


def open_source(location: Path | str) -> Source:
    """Read the record wherever it is, on the engine that suits it.

    Args:
        location: a database file (SQLite), a folder that `telemetry export --parquet` wrote
            (DuckDB), `spark:` and such a folder (Spark, where its environment says: a local
            cluster by default), or a `postgresql://` URL.

    Raises:
        SourceError: it is none of these.
    """
    text = str(location)
    if text.startswith(("postgresql://", "postgres://")):
        return _open_postgres(text)
    if text.startswith("spark:"):
        return _open_spark(Path(text.removeprefix("spark:")))
    path = Path(location)
    return _open_parquet(path) if path.is_dir() else _open_sqlite(path)


def _open_parquet(folder: Path) -> Source:
    duck = ibis.duckdb.connect()
    return _read_parquet(folder, duck)


def _open_spark(folder: Path) -> Source:
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SourceError("Spark needs: pip install 'ibis-framework[pyspark]'") from None
    session = SparkSession.builder.appName("snowcoder").getOrCreate()
    # Ibis wants days as the record has them, not in the zone of this machine.
    session.conf.set("spark.sql.session.timeZone", "UTC")
    return _read_parquet(folder, ibis.pyspark.connect(session))


def _read_parquet(folder: Path, engine: Any) -> Source:  # noqa: ANN401 - an Ibis backend
    missing = [name for name in RELATIONS if not (folder / f"{name}.parquet").exists()]
    if missing:
        raise SourceError(f"{folder} holds no {missing[0]}.parquet")
    try:
        files = {name: str((folder / f"{name}.parquet").resolve()) for name in RELATIONS}
        return Source(**{name: engine.read_parquet(file) for name, file in files.items()})
    except Exception as error:
        raise SourceError(f"{folder} cannot be read: {error}") from error


def _open_postgres(url: str) -> Source:
    try:
        engine = ibis.connect(url)
        return Source(**{name: engine.table(name) for name in RELATIONS})
    except ImportError:
        raise SourceError("PostgreSQL needs: pip install 'snowcoder[collector]'") from None
    except Exception as error:
        # The message of a failed connection can repeat its password.
        raise SourceError(f"PostgreSQL cannot be read: {type(error).__name__}") from error


def _open_sqlite(path: Path) -> Source:
    if not path.is_file():
        raise SourceError(f"there is no record at {path}")
    try:
        # Ibis would open it for writing and fail late if it is damaged.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as probe:
            for name in RELATIONS:
                probe.execute(f"select 1 from {name} limit 1")
    except sqlite3.Error as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    engine = ibis.sqlite.connect(path)
    engine.con.execute("pragma query_only=on")
    return Source(**{name: _sqlite_table(engine, name) for name in RELATIONS})


def _sqlite_table(engine: Any, name: str) -> Table:  # noqa: ANN401 - an Ibis backend
    """A table or view with the types that it is exported with.

    SQLite does not know those of a view, and Ibis would take them from its first row.
    """
    columns = [row[1] for row in engine.con.execute(f"pragma table_info({name})")]
    schema = ibis.schema({column: column_type(column) for column in columns})
    return engine.sql(f"select * from {name}", schema=schema)
