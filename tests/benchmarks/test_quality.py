import gzip
import json
import time
from dataclasses import replace

import pytest

from benchmarks import quality
from benchmarks.cases import Case, line_policy, span_policy
from completion.types import (
    DecodePolicy,
    Hidden,
    HiddenReason,
    Mode,
    Policies,
    Record,
    Suggestion,
    WindowPolicy,
)
from tests.completion.scripted import ScriptedBackend

KEYS = ["suite", "n", "exact_match", "pass_at_1", "edit_similarity", "interval_low"]
KEYS += ["interval_high", "model", "seconds"]


def write(path, records):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def data(tmp_path):
    """A miniature of the benchmark folder."""
    human_eval = {
        "entry_point": "double",
        "prompt": 'def double(x):\n    """Twice."""\n',
        "canonical_solution": "    y = 2 * x\n",
        "suffix": "    return y\n",
        "test": "\ndef check(candidate):\n    assert candidate(2) == 4\n",
    }
    records = [{**human_eval, "task_id": f"SingleLineInfilling/HumanEval/{n}/L0"} for n in range(3)]
    write(tmp_path / "humaneval-infilling-SingleLine.jsonl.gz", records)
    write(tmp_path / "humaneval-infilling-MultiLine.jsonl.gz", records)
    control = {
        "task_id": "control_1",
        "eval_prompt": "n = int(input())\r\nif {{completion}}\r\n    print('yes')\r\n",
        "ground_truth": "n > 1:",
        "unit_tests": [{"input": "2", "output": ["yes"]}, {"input": "1", "output": [""]}],
    }
    body = {**control, "task_id": "control_2"}
    body["eval_prompt"] = "n = int(input())\r\nif {{completion}} print('yes')\r\n"
    write(tmp_path / "safim-python-control.jsonl.gz", [control, body])
    api = {
        "task_id": "api_1",
        "eval_prompt": "x = {{completion}}\n",
        "ground_truth": "np.ones(3)",
        "unit_tests": [],
    }
    write(tmp_path / "safim-python-api.jsonl.gz", [api])
    return tmp_path


def run(capsys, backend, *arguments):
    assert quality.main([*arguments, "--json"], backend) == 0
    return json.loads(capsys.readouterr().out)


def test_single_lines_are_run_and_compared(data, capsys):
    backend = ScriptedBackend("    y = 2 * x", "    y = x + x", "    y = x")
    result = run(capsys, backend, "--suite", "he-single", "--data", str(data))
    assert list(result) == KEYS
    assert result["suite"] == "he-single"
    assert result["n"] == 3
    assert result["model"] == "scripted"
    assert result["exact_match"] == pytest.approx(1 / 3, abs=1e-4)
    assert result["pass_at_1"] == pytest.approx(2 / 3, abs=1e-4)
    assert 0 <= result["interval_low"] <= result["pass_at_1"] <= result["interval_high"] <= 1
    keys = [request.cache_key for request in backend.requests]
    assert len(set(keys)) == 3
    assert set(keys) <= set(backend.forgotten)  # the second cache of each is forgotten too
    assert {request.max_lines for request in backend.requests} == {1}
    assert {request.deadline for request in backend.requests} == {None}


def test_several_lines_use_sep(data, capsys):
    backend = ScriptedBackend("    y = x\n    y += x", "", "    y = 2 * x")
    result = run(capsys, backend, "--suite", "he-multi", "--data", str(data))
    assert result["pass_at_1"] == pytest.approx(2 / 3, abs=1e-4)
    middle = backend.tokenizer.special.middle
    assert all(request.prompt_ids[-1] == middle for request in backend.requests)
    assert {request.max_lines for request in backend.requests} == {0}


@pytest.mark.parametrize(
    ("before", "mode"),
    [("", Mode.SEP), ("x = 1\n    ", Mode.SEP), ("x = ", Mode.JOINT), ("    retu", Mode.JOINT)],
)
def test_spans_go_on_from_a_begun_line_in_joint_mode(before, mode):
    assert span_policy(before).mode is mode


def test_pivots_are_compared_case_by_case(data, tmp_path, capsys):
    class Answers(ScriptedBackend):
        """Right directly in the first case, behind a comment in all."""

        def generate(self, request):
            time.sleep(0.001)  # reports round to a tenth of that
            behind = not request.comments
            words = request.max_lines == 1
            right = behind or request.cache_key.endswith("/0.py")
            code = "y = 2 * x" if right else "y = x"
            text = "twice" if words else code if behind else f"    {code}"
            self.answers.append(text)
            self.logprobs = (-0.1 if behind else -0.9,) * 40
            return super().generate(request)

    out = tmp_path / "cases.jsonl"
    arguments = ["--suite", "he-multi", "--data", str(data), "--cases", str(out)]
    result = run(capsys, Answers(), *arguments, "--pivot", "off", "strip", "keep")
    assert list(result)[: len(KEYS)] == KEYS
    assert (result["pivot"], result["pivot_tried"], result["pivot_taken"]) == ("off", 0, 0)
    assert result["pass_at_1"] == pytest.approx(1 / 3, abs=1e-4)
    for mode in ("strip", "keep"):
        of_mode = result[mode]
        assert (of_mode["pivot_tried"], of_mode["pivot_taken"]) == (3, 3)
        assert of_mode["pass_at_1"] == 1.0
        assert of_mode["difference"] == pytest.approx(2 / 3, abs=1e-4)
        assert of_mode["difference_low"] <= of_mode["difference"] <= of_mode["difference_high"]
        assert (of_mode["only_base"], of_mode["only_other"]) == (0, 2)
        assert of_mode["ms_p90"] >= of_mode["ms_p50"] >= of_mode["pivot_ms_p50"] > 0
    kept = [json.loads(line) for line in (tmp_path / "cases-keep.jsonl").read_text().splitlines()]
    assert {row["completion"] for row in kept} == {"    # twice\n    y = 2 * x"}


def test_processes_share_the_cases_and_change_nothing(data, tiny_weights, tmp_path, capsys):
    def outcome(suite, processes):
        out = tmp_path / f"{processes}.jsonl"
        arguments = ["--suite", suite, "--data", str(data), "--model", str(tiny_weights)]
        arguments += ["--threads", "1", "--processes", processes, "--cases", str(out)]
        result = run(capsys, None, *arguments)
        del result["seconds"]
        return result, out.read_text()

    for suite in ("he-single", "safim-control"):
        assert outcome(suite, "2") == outcome(suite, "1")
    result, rows = outcome("safim-control", "5")  # more than there are cases
    assert result["n"] == len(rows.splitlines()) == 2


def test_a_comparison_can_be_read(data, capsys):
    backend = ScriptedBackend(*["    y = 2 * x"] * 2, "", "")
    arguments = ["--suite", "he-multi", "--data", str(data), "--limit", "1"]
    assert quality.main([*arguments, "--pivot", "off", "strip"], backend) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("pivot ")] == ["off", "strip"]


def test_one_pivot_mode_alone(data, capsys):
    backend = ScriptedBackend("    y = 2 * x")
    arguments = ["--suite", "he-multi", "--data", str(data), "--limit", "1"]
    result = run(capsys, backend, *arguments, "--pivot", "off")
    assert result["pivot"] == "off"
    assert result["pass_at_1"] == 1.0
    assert "difference" not in result


def test_prompt_layouts_are_compared_case_by_case(data, capsys):
    middle = ScriptedBackend("").tokenizer.special.middle

    class Answers(ScriptedBackend):
        """Right only in the layout with the marker."""

        def generate(self, request):
            right = request.prompt_ids[-1] == middle
            self.answers.append("    y = 2 * x" if right else "    y = x")
            return super().generate(request)

    arguments = ["--suite", "he-single", "--data", str(data), "--mode", "joint", "sep"]
    result = run(capsys, Answers(), *arguments)
    assert (result["mode"], result["pass_at_1"]) == ("joint", 0.0)
    assert (result["sep"]["mode"], result["sep"]["pass_at_1"]) == ("sep", 1.0)
    assert (result["sep"]["only_base"], result["sep"]["only_other"]) == (0, 3)


def test_safim_control_keeps_line_endings_and_finds_bodies(data, capsys):
    backend = ScriptedBackend("n >= 2:", "n >= 2:")
    result = run(capsys, backend, "--suite", "safim-control", "--data", str(data))
    assert result["pass_at_1"] == 1.0
    assert result["exact_match"] == 0.0
    middle = backend.tokenizer.special.middle
    assert [r.prompt_ids[-1] == middle for r in backend.requests] == [False, False]
    # Where the body follows on the line, the text may have any number of lines.
    assert [request.max_lines for request in backend.requests] == [1, 0]


def test_safim_api_matches_the_call(data, capsys):
    result = run(
        capsys, ScriptedBackend("np.ones( 3 ) * 2"), "--suite", "safim-api", "--data", str(data)
    )
    assert result["pass_at_1"] == 1.0


def test_limit_draws_a_seeded_sample(data):
    def names(seed):
        return [case.case_id for case in quality.load_suite("he-single", data, 2, seed)]

    assert len(names(0)) == 2
    assert names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(10)}) > 1


def test_lines_have_no_pass_rate(tmp_path, capsys):
    text = "# header\n" * 8 + "value = compute(first, second)\n" * 40
    (tmp_path / "a.py").write_text(text)
    backend = ScriptedBackend(*["nothing like it"] * 5)
    result = run(capsys, backend, "--suite", f"lines:{tmp_path}", "--limit", "5")
    assert list(result) == KEYS
    assert result["n"] == 5
    assert result["pass_at_1"] is None
    assert result["exact_match"] == 0.0


@pytest.mark.parametrize(("logprob", "share", "exact"), [(-9.0, 0.0, None), (-0.1, 1.0, 1.0)])
def test_as_shown_hides_what_is_unsure(data, capsys, logprob, share, exact):
    backend = ScriptedBackend(*["    y = 2 * x"] * 3, logprobs=(logprob,))
    result = run(capsys, backend, "--suite", "he-single", "--data", str(data), "--as-shown")
    assert list(result) == [*KEYS, "shown_share", "exact_match_shown"]
    assert result["shown_share"] == share
    assert result["exact_match_shown"] == exact
    assert result["exact_match"] == result["pass_at_1"] == share


def test_missing_data_is_skipped(tmp_path, capsys):
    result = run(capsys, ScriptedBackend(), "--suite", "he-single", "--data", str(tmp_path))
    assert result["suite"] == "he-single"
    assert "missing" in result["skipped"]
    result = run(capsys, ScriptedBackend(), "--suite", f"lines:{tmp_path / 'none'}")
    assert "not a folder" in result["skipped"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--suite", "nonsense"],
        ["--suite", "he-single", "--limit", "0"],
        ["--suite", "he-multi", "--pivot", "sideways"],
        ["--suite", "he-multi", "--pivot", "off", "--mode", "sep"],
    ],
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        quality.main(arguments, ScriptedBackend())
    assert caught.value.code == 2
    assert "argument --" in capsys.readouterr().err


def test_missing_weights_are_an_error(data, capsys):
    arguments = ["--suite", "he-single", "--data", str(data), "--model", str(data / "none")]
    assert quality.main(arguments) == 1
    assert "no model at" in capsys.readouterr().err


def test_cases_are_written(data, tmp_path, capsys):
    out = tmp_path / "cases.jsonl"
    backend = ScriptedBackend(*["    y = 2 * x"] * 3)
    run(capsys, backend, "--suite", "he-single", "--data", str(data), "--cases", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["passed"] for row in rows] == [True] * 3
    assert {row["cluster"] for row in rows} == {"HumanEval/0", "HumanEval/1", "HumanEval/2"}


def case(text="f(|)\n", gold="x"):
    offset = text.index("|")
    return Case("c", text.replace("|", ""), offset, gold, "c", line_policy())


def test_completion_is_what_stands_at_the_cursor():
    one = case("ab|)\nz")
    assert one.completion(Suggestion("i", "cd", 2, 2, Record())) == "cd"
    # The word is replaced and so is the bracket that the editor closed.
    assert one.completion(Suggestion("i", "abcd)", 0, 3, Record())) == "cd"
    assert one.completion(Hidden(HiddenReason.EMPTY, "", Record())) is None


def test_policies_are_off_unless_as_shown():
    bare = case().policies(as_shown=False)
    assert not bare.trigger.enabled
    assert not bare.shape.enabled
    assert bare.confidence.min_logprob is None
    assert bare.decode.mode is Mode.JOINT
    shown = case().policies(as_shown=True)
    rested = WindowPolicy().rested()
    assert bare.window == shown.window == rested
    decode = replace(DecodePolicy(), deadline_ms=None)
    assert shown == replace(Policies(), window=rested, decode=decode)
