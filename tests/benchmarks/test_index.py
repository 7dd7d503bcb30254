from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import index
from benchmarks.data import BenchmarkDataError

CODE = "".join(f"def function_{n}(value):\n    return value + {n}\n\n\n" for n in range(40))


def test_every_cost_is_reported_and_a_given_workspace_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(CODE)
    assert index.main([str(tmp_path), "--queries", "5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["files"], result["lines"]) == (2, 320)
    assert result["reindex_p95_ms"] is None
    for key in ("query_p95_ms", "index_seconds_per_mloc", "index_rss_mb", "chunks"):
        assert result[key] > 0
    assert {path.read_text() for path in tmp_path.iterdir()} == {CODE}


def test_saves_reach_the_index(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (root / "a.py").write_text(CODE)
    result = index.measure(root, tmp_path / "cache", queries=3, saves=4, seed=0, may_edit=True)
    assert result["reindex_p95_ms"] > 0
    assert (root / "a.py").read_text().count("def saved_") == 4


def test_a_workspace_of_whole_packages_is_made(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "m.py").write_text(CODE)
    index.make_workspace(tmp_path / "made", 200, tmp_path / "source")
    made = tmp_path / "made"
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("*.py")) == [
        "one/m.py",
        "two/m.py",
    ]
    with pytest.raises(BenchmarkDataError):
        index.make_workspace(tmp_path / "more", 1000, tmp_path / "source")


def test_nothing_to_index_is_an_error(tmp_path: Path) -> None:
    assert index.main([str(tmp_path)]) == 1
