"""The scripts for analysts, run as they run them, against the report."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ibis", reason="the extra analysis is not installed")
pytest.importorskip("tea_tasting", reason="the extra analysis is not installed")
pytest.importorskip("pandas", reason="the scripts use pandas")

from telemetry.analysis.report import report_experiment
from telemetry.analysis.source import open_source
from telemetry.export import export_parquet

SCRIPTS = Path(__file__).parents[3] / "docs" / "analysis"


def run(name: str, *words: str) -> str:
    command = [sys.executable, str(SCRIPTS / name), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_primary_metric_by_hand(record: Path, tmp_path: Path) -> None:
    export_parquet(record, tmp_path)
    by_hand = json.loads(run("effect.py", str(tmp_path), "x", "test"))
    row = report_experiment(open_source(record), "x").comparisons[0]
    assert by_hand["control"] == pytest.approx(row.control_value, rel=1e-9)
    assert by_hand["treatment"] == pytest.approx(row.value, rel=1e-9)
    assert by_hand["difference"] == pytest.approx(row.difference, rel=1e-9)
    # The report takes Student's quantile, which is a few per cent wider.
    assert row.fixed[0] < by_hand["low"] < by_hand["difference"] < by_hand["high"] < row.fixed[1]
    assert by_hand["low"] == pytest.approx(row.fixed[0], rel=0.05)


def test_acceptance_by_language(record: Path, tmp_path: Path) -> None:
    export_parquet(record, tmp_path)
    (row,) = csv.DictReader(run("acceptance.py", str(tmp_path)).splitlines())
    assert (row["language"], row["offered"], row["visible"]) == ("python", "900", "900")
    assert (float(row["car"]), float(row["accepted_of_offered"])) == (1.0, 1.0)
    assert row["cpr_30"] == ""
    assert 0 < float(row["cpr_300"]) < 1
