from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from completion.types import Record, UsedChunk
from lsp_server import doctor
from lsp_server.cli import app
from lsp_server.decisions import Decisions
from lsp_server.settings import schema
from tests.lsp_server.test_decisions import decision


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNOWCODER_STATE_DIR", str(tmp_path))
    return tmp_path


def test_why_reads_what_servers_wrote(state: Path) -> None:
    assert run("why") == (0, "no request was answered yet\n")
    decisions = Decisions(state / "decisions.jsonl")
    for name in ("a.py", "b.py", "c.py"):
        decisions.add(decision(name))
    decisions.close()
    code, out = run("why", "--last", "2")
    assert code == 0
    assert "a.py" not in out
    assert "b.py:1" in out
    assert "empty" in out
    printed = json.loads(run("why", "--last", "1", "--json")[1])
    assert [row["file"] for row in printed["decisions"]] == ["c.py"]
    assert run("why", "--last", "0")[0] == 2


def test_why_shows_what_was_retrieved_and_its_cost(state: Path) -> None:
    chunk = UsedChunk("store.py", 7, 45, 0.03, {"bm25": 12.5, "definitions": 1.0})
    record = Record(context_tokens=45, context_cost_ms=14.4, chunks=[chunk])
    decisions = Decisions(state / "decisions.jsonl")
    decisions.add(replace(decision("a.py"), stages=asdict(record)))
    decisions.close()
    shown = " ".join(run("why")[1].split())
    assert "store.py:7" in shown
    assert "bm25 12.50" in shown
    assert "14 ms" in shown
    stages = json.loads(run("why", "--json")[1])["decisions"][0]["stages"]
    assert stages["chunks"][0]["sources"] == {"bm25": 12.5, "definitions": 1.0}


def test_why_shows_why_nothing_was_retrieved(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    decisions = Decisions(state / "decisions.jsonl")
    record = Record(context_rule="not worth reading, of 3 found", context_gain=0.04)
    decisions.add(replace(decision("a.py"), stages=asdict(record)))
    decisions.close()
    assert "context none: not worth reading, of 3 found, +0.04 nats expected" in run("why")[1]


def test_why_shows_names_with_brackets(state: Path) -> None:
    decisions = Decisions(state / "decisions.jsonl")
    decisions.add(replace(decision("[slug].tsx"), detail="what [/b] means"))
    decisions.close()
    code, out = run("why")
    assert code == 0
    assert "[slug].tsx:1" in out
    assert "what [/b] means" in " ".join(out.split())


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (Record(), "block:"),
        (Record(pivot="late"), "no time for one behind a comment"),
        (Record(pivot="direct", pivot_ms=70), "direct (nothing came of the comment; 70 ms)"),
        (Record(pivot="direct", pivot_gain=-0.2, pivot_ms=70), "direct (-0.20 a token"),
        (Record(pivot="comment", pivot_gain=0.31, pivot_ms=70), "behind a comment (+0.31 a token"),
    ],
)
def test_why_tells_which_candidate_was_taken(
    state: Path, monkeypatch: pytest.MonkeyPatch, record: Record, said: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    decisions = Decisions(state / "decisions.jsonl")
    decisions.add(replace(decision("a.py"), stages=asdict(record)))
    decisions.close()
    assert (said in " ".join(run("why")[1].split())) is (record.pivot != "")


def test_why_says_when_the_file_cannot_be_read(state: Path) -> None:
    (state / "decisions.jsonl").mkdir()
    assert run("why")[0] == 1


def test_doctor_is_content_with_whole_weights(state: Path, tiny_weights: Path) -> None:
    code, out = run("doctor", "--model", str(tiny_weights), "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert levels["weights"] == levels["runtime"] == levels["python"] == "ok"


def test_doctor_names_the_problem_and_the_fix(state: Path) -> None:
    code, out = run("doctor", "--model", "nowhere")
    assert code == 1
    assert "no model at 'nowhere'" in out
    assert "reinstall" in out


def test_what_is_not_our_fault_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("SNOWCODER_STATE_DIR", str(tmp_path / "blocked"))
    monkeypatch.setenv("PATH", "")
    (tmp_path / "cpuinfo").write_text("flags : sse2\n")
    checks = [
        doctor.check_state(),
        doctor.check_editors(),
        doctor.check_cpu(tmp_path / "cpuinfo"),
    ]
    assert [check.level for check in checks] == ["hint"] * 3
    assert all(check.fix for check in checks)


@pytest.mark.parametrize(
    ("content", "level", "said"),
    [(None, "ok", "nothing is recorded yet"), (b"no database" * 500, "hint", "is damaged")],
)
def test_the_record_is_looked_at(
    content: bytes | None, level: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWCODER_DATA", str(tmp_path))
    if content is not None:
        (tmp_path / "telemetry.db").write_bytes(content)
    check = doctor.check_telemetry()
    assert (check.level, bool(check.fix)) == (level, level == "hint")
    assert said in check.detail


def test_an_old_python_is_a_problem() -> None:
    assert doctor.check_python((3, 10, 4)).level == "problem"


def test_the_schema_is_printed() -> None:
    assert json.loads(run("settings-schema")[1]) == schema()
