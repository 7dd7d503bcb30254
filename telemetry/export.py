"""The record as Parquet files, one a table or view, for DuckDB, Spark and data frames."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from telemetry.events import EVENTS, PERSISTENCE_CHECKS_S, VIEWS

RELATIONS = (*(kind.table for kind in EVENTS), *VIEWS)
"""What is exported: everything but `pending` and `meta`."""
_BATCH = 50_000
_TEXTS = {"event_id", "user_id", "session_id", "request_id", "suggestion_id", "hidden_reason"}
_TEXTS |= {"language", "trigger", "source", "model", "arms", "context_class", "stop", "resolution"}
_TEXTS |= {"status", "reason", "experiment", "arm", "unit", "day"}
_REALS = {"logprob_sum", "retained_chars"}
_REALS |= {f"retained_{after_s}" for after_s in PERSISTENCE_CHECKS_S}


def column_type(name: str) -> str:
    """Type of a column of any table or view: string, float64 or int64."""
    if name in _TEXTS:
        return "string"
    return "float64" if name in _REALS else "int64"


class ExportError(Exception):
    """The record cannot be exported; the message says why."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that cannot write.

    Raises:
        ExportError: there is no record, or it cannot be read.
    """
    if not path.exists():
        raise ExportError(f"there is no record yet at {path}")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        connection.execute("select 1 from user_days limit 1")
    except sqlite3.Error as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    connection.row_factory = sqlite3.Row
    return connection


def export_parquet(path: Path, folder: Path) -> dict[str, int]:
    """Write `folder`/RELATION.parquet for every table and view.

    Returns:
        Rows of each.

    Raises:
        ExportError: the record cannot be read, the folder cannot be written, or the extra
            `analysis` is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ExportError("export needs: pip install 'snowcoder[analysis]'") from None
    written = {}
    with closing(connect(path)) as connection:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in RELATIONS:
                cursor = connection.execute(f"select * from {name}")
                columns = [column[0] for column in cursor.description]
                types = {column: pa.type_for_alias(column_type(column)) for column in columns}
                schema = pa.schema(list(types.items()))
                written[name] = 0
                with pq.ParquetWriter(folder / f"{name}.parquet", schema) as writer:
                    while rows := cursor.fetchmany(_BATCH):
                        values = zip(*rows, strict=True)
                        arrays = [
                            pa.array(column, kind)
                            for column, kind in zip(values, types.values(), strict=True)
                        ]
                        writer.write_batch(pa.record_batch(arrays, schema=schema))
                        written[name] += len(rows)
        except (OSError, sqlite3.Error) as error:
            raise ExportError(f"cannot export to {folder}: {error}") from error
    return written
