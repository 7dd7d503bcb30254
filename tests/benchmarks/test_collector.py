from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra collector is not installed")
pytest.importorskip("ibis", reason="the extra analysis is not installed")

from benchmarks.collector import kill_trials, throughput
from benchmarks.engines import compare
from benchmarks.fleet import EXPERIMENT, write_fleet
from telemetry.export import export_parquet


def test_a_killed_collector_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    found = kill_trials(tmp_path, 1, seed=3)
    assert found["collector_kill9_events"] > 0
    assert (found["collector_lost"], found["collector_duplicated"]) == (0, 0)


def test_batches_are_counted(tmp_path: Path) -> None:
    assert throughput(tmp_path, 4)["events_per_s"] > 0


def test_engines_are_compared_number_by_number(tmp_path: Path) -> None:
    record = tmp_path / "fleet.db"
    assert write_fleet(record, users=44, days=5, requests=6) > 1000
    export_parquet(record, tmp_path / "parquet")
    assert compare([str(record), str(tmp_path / "parquet")], EXPERIMENT) <= 1e-9
    other = tmp_path / "other.db"
    write_fleet(other, users=44, days=5, requests=7)
    assert compare([str(record), str(other)], EXPERIMENT) > 1e-3
