import json

import pytest

from benchmarks import calibrate_pivot
from benchmarks.calibrate_pivot import Tried, block_cases, code_of, fit, try_twice
from benchmarks.data import BenchmarkDataError
from completion import pivot
from completion.engine import CompletionEngine
from tests.completion.scripted import ScriptedBackend

SOURCE = '''"""Module."""

def first(x):
    """Doc."""
    # say why
    y = x
    return y


def second(
    x,
):
    return x


def one_line(x): return x


def only_doc():
    """Nothing to write."""


AFTER = 1
''' + "VALUE = 'padding so that the file is long enough'\n" * 20  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def f(:\n    pass\n" + "# padding\n" * 100)
    return tmp_path


def test_bodies_are_taken_out_whole_and_put_back_they_are_the_file(folder):
    cases = block_cases(folder, 10, 0)
    assert {case.gold.partition("\n")[0] for case in cases} == {"# say why", "return x"}
    for case in cases:
        assert case.text[: case.offset].endswith("\n    ")
        assert case.text[: case.offset] + case.gold + case.text[case.offset :] == SOURCE
    assert block_cases(folder, 1, 3) == block_cases(folder, 1, 3)


def test_a_folder_without_functions_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BenchmarkDataError):
            block_cases(folder, 1, 0)


def test_comments_and_blank_lines_are_no_code():
    assert code_of("# a\nx = 1  # b\n\n  # c\ny = 2\n") == "x = 1  # b\ny = 2"


def test_the_margin_separates_gains_from_losses():
    tried = [Tried(gap, 0.2 if gap > 0.5 else -0.2, "file") for gap in (0.1, 0.3, 0.6, 0.9)]
    assert fit(tried) == pytest.approx(0.45)
    assert fit([Tried(gap, 0.1, "file") for gap in (-1.0, 2.0)]) < -1.0, "always"
    never = fit([Tried(gap, -0.1, "file") for gap in (-1.0, 2.0)])
    assert not any(gap > never for gap in (-1.0, 2.0))
    with pytest.raises(ValueError, match="no block"):
        fit([])


def test_candidates_with_the_same_gap_stay_together():
    tried = [Tried(0.5, 0.3, "file"), Tried(0.5, -0.9, "file")]
    assert fit(tried) == 0.5


def test_a_block_is_written_directly_and_behind_a_comment(folder):
    case = next(case for case in block_cases(folder, 10, 0) if case.gold == "return x")
    backend = ScriptedBackend("pass", "pass", "give it back", "return x", logprobs=(-0.5,) * 9)
    tried = try_twice(CompletionEngine(backend), case, 0)
    assert tried is not None
    assert tried.gain > 0.5
    nothing = ScriptedBackend("pass", "pass", "")
    assert try_twice(CompletionEngine(nothing), case, 0) is None


def test_the_margin_is_written_for_the_model(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "package").mkdir()
    path = tmp_path / "package" / "pivots.json"
    path.write_text('{"other": {"margin": 1.0}}')
    monkeypatch.setattr(calibrate_pivot.completion, "__file__", str(path.with_name("__init__.py")))
    answers = ["pass", "pass", "give it back", "return x"] * 2
    backend = ScriptedBackend(*answers, logprobs=(-0.5,) * 9)
    arguments = ["--folder", str(folder), "--json"]
    assert calibrate_pivot.main(arguments, backend) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["blocks"], printed["tried"]) == (2, 2)
    assert printed["gain_low"] <= printed["gain"] <= printed["gain_high"]
    written = json.loads(path.read_text())
    assert written == {"other": {"margin": 1.0}, "scripted": {"margin": printed["margin"]}}


def test_missing_projects_are_skipped_and_no_candidates_are_an_error(folder, tmp_path, capsys):
    assert calibrate_pivot.main(["--folder", str(tmp_path / "none"), "--json"]) == 0
    assert "not a folder" in json.loads(capsys.readouterr().out)["skipped"]
    backend = ScriptedBackend(*["# said already"] * 4)
    assert calibrate_pivot.main(["--folder", str(folder)], backend) == 1
    assert "no block" in capsys.readouterr().err


def test_the_shipped_margins_are_numbers():
    entries = json.loads(pivot.files("completion").joinpath("pivots.json").read_text())
    assert all(isinstance(entry["margin"], float) for entry in entries.values())
