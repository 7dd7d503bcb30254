"""The benchmarks of the whole server: short runs, and that they would see a fault."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import filters, fuzz, load, soak
from benchmarks.cases import Case, line_policy
from completion.types import ConfidencePolicy, HiddenReason
from tests.completion.scripted import ScriptedBackend
from tests.lsp_server.client import stub_command

STUB = [str(word) for word in stub_command()]


def test_fuzz_leaves_nothing_unanswered() -> None:
    result = fuzz.fuzz(STUB, 1500, seed=3)
    assert result["tried"] == 1500
    assert result["requests"] > 500
    assert (result["unanswered"], result["crashes"]) == (0, 0)


def test_fuzz_sees_a_server_that_ends_and_one_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "ANSWER_S", 0.2)
    for name, body, key in [
        ("dead", "import sys; sys.stdin.buffer.read(300)", "crashes"),
        ("silent", "import sys; sys.stdin.buffer.read()", "unanswered"),
    ]:
        script = tmp_path / f"{name}.py"
        script.write_text(body)
        assert fuzz.fuzz([sys.executable, str(script)], 20, seed=0)[key] > 0


def test_mutations_are_json_and_follow_the_seed() -> None:
    for rate in (0.0, 0.3):
        drawn = [fuzz.mutate(fuzz.REQUESTS, random.Random(5), rate) for _ in range(2)]
        assert json.dumps(drawn[0]) == json.dumps(drawn[1])
    assert fuzz.mutate([1], random.Random(0), 0.0) in ([], [1], [1, 1])


def test_soak_finds_the_same_text_on_both_sides() -> None:
    result = soak.soak(STUB, 450, seed=2)
    assert result["steps"] == 450
    assert (result["unanswered"], result["text_mismatches"]) == (0, 0)


def test_soak_sees_a_document_that_differs() -> None:
    class Forgetful:
        def call(self, method: str, params: Any) -> dict[str, str]:
            return {"file:///other": hashlib.sha256(b"x").hexdigest()}

    walk = soak.Walk(Forgetful(), "utf-16", random.Random(0))  # type: ignore[arg-type]
    walk._texts = {"file:///a": "x"}
    walk.check()
    assert walk.mismatches == 2


@pytest.mark.parametrize(
    ("encoding", "character"), [("utf-8", 4 + 3 + 1), ("utf-16", 2 + 1 + 1), ("utf-32", 3)]
)
def test_positions_by_every_line_end(encoding: str, character: int) -> None:
    text = "a\r\nb\rc\n😀漢x"
    assert soak.position(text, len(text), encoding) == {"line": 3, "character": character}


def test_load_without_sources_is_skipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: object) -> None:
        raise load.TraceError("no sources")

    monkeypatch.setattr(load, "sessions", missing)
    assert load.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"skipped": "no sources"}


def case(before: str, gold: str, after: str = "\n") -> Case:
    return Case("c", before + after, len(before), gold, "f", line_policy())


def judged(one: Case, insert: str, logprob: float = -0.1) -> filters.Judged:
    text = one.text[: one.offset] + insert + one.text[one.offset :]
    return filters.Judged(one, text, insert, insert == one.gold, logprob, None)


def test_the_keys_of_filters() -> None:
    golds = {"x = ": "one(1)", "y = ": "two(2)", "z = ": "three", "w = ": "'k'"}
    cases = [case(before, gold) for before, gold in golds.items()]
    # The third is hidden by a filter, so that the bare model is asked about it once more.
    backend = ScriptedBackend("one(1)", "other()", "ab ab ab ab ab ab ab", "three", "'k'")
    result = filters.run(backend, cases, ConfidencePolicy(-1.5))
    assert result["n"] == 4
    assert result["shown_share"] == 0.75
    assert result["precision"] == pytest.approx(0.6667)
    assert result["correct_dropped"]["repetition"] == 0.25
    assert result["correct_dropped"]["parse_error"] == 0.0
    assert result["new_parse_errors"] == 0.0


def test_new_parse_errors_are_those_that_the_gold_text_has_not() -> None:
    """The filter hides most of them, so these are put there by hand."""
    whole, broken = case("y = ", "two(2)"), case("y = ", "two(")
    shown = [judged(whole, "other("), judged(whole, "other()"), judged(broken, "other(")]
    result = filters.summarise(shown, ConfidencePolicy(-1.5))
    assert result["new_parse_errors"] == pytest.approx(0.3333)


def test_judges_of_repetition_and_brackets() -> None:
    doubled = judged(case("x = f(a", ")", "\ny = 1\n"), "))")
    assert filters.duplicates_brackets(doubled)
    assert not filters.duplicates_brackets(judged(case("x = f(a", ")", "\n"), ")"))
    again = judged(case("x = ", "2", "\n\nreturn x\n"), "1\nreturn x")
    assert filters.repeats_next_line(again)
    assert not filters.repeats_next_line(judged(case("x = ", "2", "\nx = 2\n"), "2"))


def test_discrimination_and_calibration() -> None:
    assert filters.area_under_curve([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert filters.area_under_curve([1, 1], [False, True]) == 0.5
    assert filters.area_under_curve([1], [True]) is None
    assert filters.calibration_error([0.0, 1.0], [False, True]) == 0.0
    assert filters.calibration_error([1.0] * 4, [False, False, True, True]) == 0.5
    assert filters.calibration_error([], []) is None


def test_what_filters_hid_is_judged_by_the_bare_model() -> None:
    engine_backend = ScriptedBackend("return total", "return total")
    one = case("def f():\n    ", "return total", "\n    return total\n")
    found = filters.complete(filters.CompletionEngine(engine_backend), one, 0)
    assert found.reason is HiddenReason.REPEATS_SUFFIX
    assert found.exact


def test_filters_without_files_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert filters.main(["--folder", str(tmp_path), "--json"]) == 0
    assert "skipped" in json.loads(capsys.readouterr().out)
