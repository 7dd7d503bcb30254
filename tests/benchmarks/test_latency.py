import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import latency, trace
from benchmarks.lsp_client import Answer, LspClient, ServerError
from benchmarks.replay import Asked, Cause
from benchmarks.trace import Glance, Place, Session, keystrokes

LINES = (
    "import first",
    "def compute(values):",
    "    alpha = first.something(values)",
    "    beta = alpha.other(values)",
    "    return alpha, beta",
    "",
)
KEYS = ["p50_ms", "p95_ms", "p50_all_ms", "jump_p50_ms", "first_suggestion_ms", "rss_mb", "kv_mb"]
KEYS += ["requests", "model_calls", "shown_share", "mean_tokens", "reuse_share", "threads"]


def place(start: int, end: int, glance_after: int) -> Place:
    keys = len(keystrokes(LINES[start:end]))
    return Place(
        project="p",
        file="f.py",
        sha256="",
        start=start,
        end=end,
        pause_ms=160,
        gaps_ms=(160,) * keys,
        glance=Glance(after=glance_after, line=0, pause_ms=80, back_ms=80),
    )


def oracle(tmp_path: Path) -> list[str]:
    source = tmp_path / "source.py"
    source.write_text("\n".join(LINES))
    return [sys.executable, str(Path(__file__).with_name("oracle_server.py")), str(source)]


def test_replay_through_a_real_server(tmp_path):
    session = Session("p/f.py", LINES, (place(3, 4, 2), place(2, 3, 3)))
    # The replay itself checks that accepting and typing restored the file.
    log = tmp_path / "requests.jsonl"
    result = latency.measure(oracle(tmp_path), [session], threads=1, log=log)
    assert set(KEYS) <= set(result)
    typed = sum(len(one.gaps_ms) for one in session.places)
    # Suggestions were accepted, so fewer keys were typed than the trace has.
    assert 10 < result["requests"] < typed
    assert 0 < result["model_calls"] < result["requests"]
    assert result["shown_share"] > 0
    assert result["mean_tokens"] == 5
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == result["requests"]
    assert [row["cause"] for row in rows].count("jump") == 5
    assert result["kv_mb"] == 3.0
    assert result["p95_ms"] >= result["p50_ms"] > 0
    assert result["first_suggestion_ms"] > 20
    assert result["jump_p50_ms"] is not None
    # The engine reuses a fifth of its prompts: all that reuses is what needs no model.
    assert 0 < result["reuse_share"] < 1


def test_a_server_that_dies_is_reported():
    command = [sys.executable, "-c", "import sys; sys.exit('no weights')"]
    with (
        LspClient(command) as client,
        pytest.raises(ServerError, match=r"no weights|went away"),
    ):
        latency.initialize(client)


def asked(cause: Cause, sent_ms: float, took_ms: float | None, suggestion: str | None = None):
    answer = Answer(sent=sent_ms / 1000)
    if took_ms is not None:
        answer.finish({"result": None}, (sent_ms + took_ms) / 1000)
    return Asked(cause, answer, superseded=took_ms is None, suggestion=suggestion)


def record(received_ms: float, prompt: int = 100, reused: int = 100, tokens: int = 4):
    return {
        "received_ms": received_ms,
        "prompt_tokens": prompt,
        "reused_tokens": reused,
        "generated_tokens": tokens,
        "total_ms": 38.0,
        "queue_ms": 0.5,
    }


def test_summary_counts_each_kind_apart():
    requests = [
        asked(Cause.OPEN, 0, 90, "x"),
        asked(Cause.KEY, 200, 40, "y"),
        asked(Cause.KEY, 400, 2, "z"),
        asked(Cause.KEY, 600, None),
        asked(Cause.JUMP, 800, 70),
        asked(Cause.JUMP, 1000, 3),
    ]
    records = [
        record(1, reused=0),
        record(201, reused=96, tokens=8),
        record(401, prompt=0),
        record(601, reused=0),
        record(801, reused=50),
    ]
    matched = latency.match_records(requests, records)
    assert matched == [*records, None]
    result = latency.summarise(requests, matched)
    assert result["requests"] == 6
    assert result["superseded"] == 1
    assert result["p50_ms"] == 70
    assert result["p50_all_ms"] == 40
    # The last jump asked nothing of the model.
    assert result["jump_p50_ms"] == 80
    assert result["typed_p50_ms"] == result["typed_p95_ms"] == 40
    # Of 90, 40 and 70 ms the engine took 38 each: 52, 2 and 32 are left.
    assert result["overhead_p95_ms"] == 50.0
    assert result["shown_share"] == 0.6
    assert result["reuse_share"] == 0.6
    assert result["mean_tokens"] == 5.0


def test_records_before_the_first_request_belong_to_nobody():
    assert latency.match_records([asked(Cause.KEY, 50, 5)], [record(10)]) == [None]


def test_the_committed_trace_is_human_and_complete():
    places = trace.load_trace()
    assert len(places) >= 30
    assert trace.jump_share(places) >= 0.10
    gaps = [gap for one in places for gap in one.gaps_ms]
    assert 120 <= sum(gaps) / len(gaps) <= 250
    assert min(gaps) >= 40
    pauses = sum(one.pause_ms + one.glance.pause_ms + one.glance.back_ms for one in places)
    assert sum(gaps) + pauses < 240_000
    assert {one.project for one in places} == {"celery", "httpx", "scrapy", "poetry"}
    for one in places:
        assert 0 < one.start < one.end
        assert 0 < one.glance.after < len(one.gaps_ms)
        assert not one.start <= one.glance.line < one.end
        assert re.fullmatch(r"[0-9a-f]{64}", one.sha256)


def test_trace_lines_survive_a_round_trip():
    first = trace.load_trace()[0]
    assert Place.from_json(first.to_json()) == first
    with pytest.raises(trace.TraceError, match="not a place"):
        Place.from_json('{"project": "p"}')


def test_keystrokes_type_the_lines():
    keys = keystrokes(["    if x:", "        y()"])
    assert keys[0] == "\n    "
    assert "".join(keys) == "\n    if x:\n        y()"
    assert len(keys) == 1 + len("if x:") + 1 + len("y()")


def test_sources_are_checked(tmp_path):
    one = trace.load_trace()[0]
    with pytest.raises(trace.TraceError, match=r"benchmarks\.prepare"):
        list(trace.sessions([one], tmp_path))
    folder = next(p.folder for p in trace.load_projects() if p.name == one.project)
    path = tmp_path / folder / one.file
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(LINES))
    with pytest.raises(trace.TraceError, match="not the file"):
        list(trace.sessions([one], tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    changed = one.to_json().replace(one.sha256, digest)
    with pytest.raises(trace.TraceError, match="one gap per key"):
        list(trace.sessions([Place.from_json(changed)], tmp_path))
