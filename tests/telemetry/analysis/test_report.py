from __future__ import annotations

import json
import shutil
import webbrowser
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("ibis", reason="the extra analysis is not installed")
pytest.importorskip("tea_tasting", reason="the extra analysis is not installed")

from lsp_server.cli import app
from telemetry.analysis.html import render
from telemetry.analysis.metrics import ExperimentDataError, unit_of, units
from telemetry.analysis.quantiles import quantile_ms
from telemetry.analysis.report import overview, report_experiment
from telemetry.analysis.source import SourceError, open_source
from telemetry.experiments import Unit
from telemetry.export import export_parquet
from telemetry.paths import DATA_VARIABLE
from telemetry.store import open_database
from tests.telemetry.analysis.conftest import FIRST, exposure, insert, user_events, write_record


def test_a_real_effect_is_found(record: Path) -> None:
    report = report_experiment(open_source(record), "x")
    assert report.arms == {"control": 30, "test": 30}
    assert (report.control, report.unit, report.refusal) == ("control", "user", None)
    rows = {row.metric: row for row in report.comparisons}
    primary = rows["retained_per_hour"]
    assert primary.verdict == "significantly higher"
    assert primary.always_valid[0] < primary.fixed[0] < primary.difference < primary.fixed[1]
    assert primary.bootstrap[0] < primary.difference < primary.bootstrap[1]
    assert primary.cuped is not None
    # CAR and CPR condition on what the arm changed.
    assert {name for name, row in rows.items() if not row.decides} == {
        "car_visible",
        "car_offered",
        "cpr_300",
    }
    assert rows["cpr_300"].verdict.startswith("descriptive")
    assert report.latency_ms["test"]["p50"] > report.latency_ms["control"]["p50"]  # type: ignore[operator]


def test_the_unit_is_the_cluster_and_its_past_is_apart(record: Path) -> None:
    table = units(open_source(record), "x", Unit.USER).to_pyarrow().to_pylist()
    assert len(table) == 60
    row = next(row for row in table if row["unit_id"] == "user0")
    assert (row["opportunities"], row["accepted"], row["checked_300"]) == (9, 9, 9)
    assert row["pre_active_hours"] > 0
    assert row["all_chars"] == 3 * 240


def test_sqlite_and_parquet_say_the_same(record: Path, tmp_path: Path) -> None:
    export_parquet(record, tmp_path / "out")
    one = report_experiment(open_source(record), "x").as_dict()
    two = report_experiment(open_source(tmp_path / "out"), "x").as_dict()
    for left, right in zip(one.pop("comparisons"), two.pop("comparisons"), strict=True):
        # The bootstrap depends on the order in which an engine returns units.
        assert left.pop("bootstrap") == pytest.approx(right.pop("bootstrap"), rel=0.2)
        for name, value in left.items():
            exact = isinstance(value, str | bool) or value is None
            expected = right[name] if exact else pytest.approx(right[name], rel=1e-9)
            assert value == expected, name
    assert one == two
    first, second = overview(open_source(record)), overview(open_source(tmp_path / "out"))
    rate = "retained_per_hour"
    assert first.pop(rate) == pytest.approx(second.pop(rate), rel=1e-9)
    assert first == second


def test_too_few_units_conclude_nothing(tmp_path: Path) -> None:
    path = write_record(tmp_path / "telemetry.db", 38, effect=50)
    report = report_experiment(open_source(path), "x")
    assert report.refusal is not None
    assert "Too few units: 19" in report.refusal
    assert all("significant" not in row.verdict for row in report.comparisons)


def test_an_uneven_sample_concludes_nothing(tmp_path: Path) -> None:
    path = write_record(tmp_path / "telemetry.db", 90, effect=50, skew=46)
    report = report_experiment(open_source(path), "x")
    assert report.refusal is not None
    assert "uneven" in report.refusal
    assert all("significant" not in row.verdict for row in report.comparisons)


def test_days_of_one_user_are_units(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    open_database(path).conn.close()
    insert(path, "me", user_events(1, "test", 0))
    for day in range(FIRST - 2, FIRST + 3):
        insert(path, "me", [exposure("ab"[day % 2], day, "user_day")])
    source = open_source(path)
    assert unit_of(source, "x") is Unit.USER_DAY
    rows = units(source, "x", Unit.USER_DAY).to_pyarrow().to_pylist()
    assert sorted(row["variant"] for row in rows) == ["a", "a", "a", "b", "b"]
    assert all(row["opportunities"] == 3 for row in rows)
    report = report_experiment(source, "x")
    assert report.refusal is not None


def test_a_metric_without_variation_is_reported_and_not_tested(record: Path) -> None:
    rows = {row.metric: row for row in report_experiment(open_source(record), "x").comparisons}
    assert rows["offer_ratio"].value == 1.0
    assert "nothing to test" in rows["offer_ratio"].verdict
    assert rows["error_ratio"].value == 0.0


def test_units_are_never_mixed(record: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    shutil.copy(record, path)
    insert(path, "user0", [exposure("test", FIRST, "user_day")])
    with pytest.raises(ExperimentDataError, match="mixes"):
        report_experiment(open_source(path), "x")


def test_whoever_met_two_arms_is_left_out(record: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    shutil.copy(record, path)
    insert(path, "user0", [exposure("test")])
    assert report_experiment(open_source(path), "x").arms == {"control": 29, "test": 30}


def test_bad_sources_are_named(record: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no record"):
        open_source(tmp_path / "absent.db")
    with pytest.raises(SourceError, match="holds no"):
        open_source(tmp_path)
    (tmp_path / "text.db").write_text("no database " * 200)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(tmp_path / "text.db")
    with pytest.raises(ExperimentDataError, match="nobody"):
        report_experiment(open_source(record), "an arm that no longer exists")


def test_html_in_names_stays_text(record: Path) -> None:
    report = report_experiment(open_source(record), "x")
    hostile = replace(report, experiment="<script>alert(1)</script>")
    page = render(hostile)
    assert "<script" not in page
    assert "retained characters per active hour" in page


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [({}, 0.5, None), ({2: 4}, 0.5, 12.5), ({0: 1, 10: 1}, 0.5, 5.0), ({0: 9, 9: 1}, 0.95, 47.5)],
)
def test_quantiles(counts: dict[int, int], share: float, expected: float | None) -> None:
    assert quantile_ms(counts, share) == expected


def test_the_page_is_shown_from_a_file(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(shown.append(address)) or True)
    monkeypatch.setenv(DATA_VARIABLE, str(record.parent))
    done = CliRunner().invoke(app, ["report", "--open"])
    assert done.exit_code == 0, done.output
    page = record.with_name("report.html")
    assert shown == [page.as_uri()]
    assert "Persistence of accepted text" in page.read_text(encoding="utf-8")


def test_the_command(record: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    page = tmp_path / "report.html"
    words = ["report", "--db", str(record), "--experiment", "x"]
    done = run(app, [*words, "--html", str(page), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["arms"] == {"control": 30, "test": 30}
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "retained" in run(app, words).stdout
    summary = json.loads(run(app, ["report", "--db", str(record), "--json"]).stdout)
    assert summary["suggestions"] == 60 * 15
    assert summary["experiments"] == ["x"]
    assert run(app, ["report", "--db", str(tmp_path / "absent")]).exit_code == 1
    unwritable = str(tmp_path / "report.html" / "x")
    assert run(app, ["report", "--db", str(record), "--html", unwritable]).exit_code == 1
