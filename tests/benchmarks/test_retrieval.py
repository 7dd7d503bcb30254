from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.data import BenchmarkDataError
from benchmarks.retrieval import Row, summary
from benchmarks.retrieval_cases import Project, api_sites, line_sites, load_projects
from benchmarks.train_gate import Sample, fit
from completion.context.gate import FEATURES, WEIGHTS
from completion.context.memory import MemoryIndex

LIBRARY = "\n" * 9 + "def convert_units(value):\n    return value * 2\n"
USER = (
    "\n" * 9 + "from lib import convert_units\n\nresult = convert_units(41)\nprint(len(result))\n"
)
FILES = {"lib.py": LIBRARY, "user.py": USER}
PROJECT = Project("p", FILES, MemoryIndex(FILES))


def test_api_cursors_stand_before_calls_of_other_files() -> None:
    assert {(site.path, site.line, site.column) for site in api_sites([PROJECT], 5, 0)} == {
        ("user.py", 11, 9)
    }
    site = api_sites([PROJECT], 1, 0)[0]
    before, gold, after = site.parts
    assert gold == "convert_units(41)"
    assert before + gold + after == USER


def test_no_index_of_a_cursor_knows_its_own_file() -> None:
    for site in line_sites([PROJECT], 20, 1):
        index = site.index()
        assert index.chunks(site.path) == []
        assert all(chunk.path != site.path for chunk, _ in index.search(["convert_units"], 9))


def test_missing_projects_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="no projects"):
        load_projects(tmp_path)


def test_the_gate_chooses_between_both_results() -> None:
    sure = dict.fromkeys(FEATURES, 0.0) | {"line_start": 1.0, "short_prefix": 1.0, "bias": 0.5}
    row = Row("a:1:1", "line", "a", sure, {"none": False, "always": True}, 1.0, 9)
    assert row.gated
    closed = replace(row, features=dict.fromkeys(FEATURES, 0.0) | {"bias": 1.0})
    assert not closed.gated
    harmed = replace(row, right={"none": True, "always": False})
    result = summary([row, closed, harmed, replace(closed, features={})], 0)
    assert result["line_em_none"] == 0.25
    assert result["line_em_gated"] == 0.25
    assert result["harmed_share"] == 0.25
    assert result["retrieved_share"] == 0.5
    assert result["n_api"] == 0


def test_the_fit_finds_what_the_gain_depends_on() -> None:
    samples = [
        Sample(
            str(n),
            "line",
            dict.fromkeys(FEATURES, 0.0) | {"bias": 1.0, "similar": float(n % 2)},
            -2.0,
            -2.0 + n % 2,
            False,
            False,
            9,
        )
        for n in range(200)
    ]
    weights = fit(samples)
    assert weights["similar"] > 0.8
    assert abs(weights["bias"]) < 0.1
    assert set(weights) == set(WEIGHTS)
