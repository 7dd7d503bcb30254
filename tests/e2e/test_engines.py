"""The collector on a real PostgreSQL, and one report on four engines."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks import postgres
from benchmarks.engines import compare, copy_record
from telemetry.analysis.dashboard import render_location
from telemetry.analysis.report import overview
from telemetry.analysis.source import open_source
from telemetry.collector.intake import parse
from telemetry.collector.sinks import PostgresSink, SinkError
from telemetry.events import Opportunity
from telemetry.export import export_parquet
from tests.telemetry.analysis.conftest import write_record
from tests.telemetry.collector.conftest import HOSTILE, as_upload, shown


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.running() as url:
        yield url


@pytest.fixture
def url(server: str) -> str:
    """A database of its own."""
    name = f"db{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return server.rpartition("/")[0] + "/" + name


def batch(*events: Any) -> Any:
    return parse(json.dumps({"events": events}).encode())


@pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")  # pyspark 4 with pandas 3
def test_four_engines_say_the_same(url: str, tmp_path: Path) -> None:
    record = write_record(tmp_path / "telemetry.db", 60, effect=9)
    export_parquet(record, tmp_path / "parquet")
    copy_record(record, url)
    places = [str(record), str(tmp_path / "parquet"), url, f"spark:{tmp_path / 'parquet'}"]
    assert compare(places, "x") <= 1e-9
    summaries = [overview(open_source(place)) for place in places]
    for summary in summaries[1:]:
        rate = pytest.approx(summaries[0]["retained_per_hour"], rel=1e-9)
        assert summary.pop("retained_per_hour") == rate
    del summaries[0]["retained_per_hour"]
    assert all(summary == summaries[0] for summary in summaries)
    assert "Persistence of accepted text" in render_location(url, None)
    assert "always-valid" in render_location(url, "x")


def test_postgres_keeps_each_event_once(url: str) -> None:
    sink = PostgresSink(url)
    sink.open()
    newer = shown(9) | {"version": 2}
    assert sink.write(batch(shown(1), shown(2), shown(1), newer)) == 3
    assert sink.write(batch(shown(2), shown(3), newer)) == 1
    hostile = Opportunity(at_us=1, request_id="r", language=HOSTILE, trigger="t", arms=HOSTILE)
    assert sink.write(batch(as_upload(hostile))) == 1
    sink.close()
    # Opened again, it finds what is there.
    sink.open()
    assert sink.write(batch(shown(1))) == 0
    with psycopg.connect(url) as connection:
        assert connection.execute("select count(*) from shown").fetchone() == (3,)
        assert connection.execute("select language from opportunities").fetchone() == (HOSTILE,)
        assert connection.execute("select reason from aside").fetchall() == [("newer_version",)]
    sink.close()


def test_a_connection_that_broke_is_made_anew(url: str) -> None:
    sink = PostgresSink(url)
    sink.open()
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid != pg_backend_pid()"
        )
    with pytest.raises(SinkError) as caught:
        sink.write(batch(shown(1)))
    assert caught.value.reason == "unavailable"
    assert sink.write(batch(shown(1))) == 1
    sink.close()


def test_databases_that_cannot_be_used_are_named(url: str) -> None:
    with pytest.raises(SinkError, match="PostgreSQL") as caught:
        PostgresSink(url.replace("postgres@", "nobody:secret@")).open()
    assert "secret" not in str(caught.value)
    sink = PostgresSink(url)
    sink.open()
    sink.close()
    with psycopg.connect(url) as connection:
        connection.execute("update meta set value = '99' where key = 'schema'")
    with pytest.raises(SinkError) as caught:
        sink.open()
    assert caught.value.reason == "newer"
