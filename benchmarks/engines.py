"""One report on several engines: the record's way into each, and how far the numbers differ."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from telemetry.analysis.report import report_experiment
from telemetry.analysis.source import open_source
from telemetry.collector.intake import Batch, columns
from telemetry.collector.sinks import open_sink
from telemetry.events import EVENTS

_ROWS = 5000


def copy_record(record: Path, location: str) -> None:
    """Put the events of a database into what a collector writes to."""
    sink = open_sink(location)
    sink.open()
    with closing(sqlite3.connect(record)) as connection:
        for event in EVENTS:
            names = ", ".join(columns(event))
            cursor = connection.execute(f"select {names} from {event.table}")
            while rows := cursor.fetchmany(_ROWS):
                sink.write(Batch({event.table: rows}))
    sink.close()


def compare(places: Sequence[str], experiment: str) -> float:
    """Largest relative difference between any number of an experiment's report on each engine."""
    reports = []
    for place in places:
        source = open_source(place)
        reports.append(list(_numbers(report_experiment(source, experiment).as_dict())))
        source.close()
    return max(
        (
            abs(number - first) / max(abs(number), abs(first), 1e-300)
            for report in reports[1:]
            for first, number in zip(reports[0], report, strict=True)
        ),
        default=0.0,
    )


def _numbers(value: Any) -> Iterator[float]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield float(value)
