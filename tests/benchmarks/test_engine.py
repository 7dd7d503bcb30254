"""The side-by-side benchmark on a tiny model; what it reports, not how fast anything is."""

import numpy as np
import pytest

from benchmarks import engine
from benchmarks.model_calls import Call, record
from benchmarks.replay import Cause
from benchmarks.trace import Glance, Place, Session
from models.backend import GenerateRequest
from models.registry import load_manifest

LINES = tuple("".join(f"value_{n} = compute({n})\n" for n in range(30)).split("\n"))
GLANCE = Glance(after=3, line=20, pause_ms=1, back_ms=1)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(engine, "_PAUSE_S", 0.0)


@pytest.fixture
def ids(tiny_backend):
    return np.random.default_rng(0).integers(20, tiny_backend.tokenizer.vocab_size, 700).tolist()


def session():
    place = Place("p", "f.py", "", 5, 7, 1, (1,) * 40, GLANCE)
    return Session("p/f.py", LINES, (place,))


def call(cause):
    return Call(cause, GenerateRequest([1]))


def test_steps_are_timed_for_every_engine(tiny_backend, ids):
    sequences = {name: engine.OurSequence(tiny_backend.session) for name in ("ours", "other")}
    times = engine.time_steps(sequences, ids, rounds=1)
    assert set(times) == {"prefill_256", "decode_256", "decode_512", "verify_4", "verify_8"}
    assert all(set(case) == set(sequences) for case in times.values())
    assert all(time > 0 for case in times.values() for time in case.values())


def test_typing_is_recorded_with_its_jumps(tiny_backend):
    (calls,) = record(tiny_backend, [session()])
    causes = [one.cause for one in calls]
    assert causes[0] is Cause.OPEN
    assert causes.count(Cause.JUMP) == 1, "at the way back, what was suggested there is known"
    assert all(one.request.deadline is None for one in calls)
    texts = [tiny_backend.tokenizer.decode(one.request.prompt_ids) for one in calls]
    assert texts[0].endswith("compute(4"), "the bracket is healed"
    assert "value_5" not in texts[0]
    assert tiny_backend.kv_bytes == 0


def test_recorded_calls_come_out_the_same_with_and_without_drafts(tiny_backend):
    recorded = record(tiny_backend, [session()])
    engines = {
        "ours": engine._ours(tiny_backend, drafts=True),
        "ours_no_drafts": engine._ours(tiny_backend, drafts=False),
    }
    summary = engine.summarise_trace(recorded[0], engine.play(engines, recorded))
    assert summary["identical_share"] == 1.0
    assert summary["model_calls"] == len(recorded[0])
    assert summary["ours"]["p50_ms"] > 0


def test_the_summary_separates_typing_from_jumps():
    calls = [call(Cause.OPEN), call(Cause.KEY), call(Cause.JUMP), call(Cause.KEY)]
    played = {
        "ours": [((1,), 100.0), ((1,), 10.0), ((1,), 200.0), ((2,), 20.0)],
        "ours_no_drafts": [((1,), 100.0), ((1,), 20.0), ((1,), 200.0), ((3,), 25.0)],
    }
    summary = engine.summarise_trace(calls, played)
    assert summary["ours"]["jump_p50_ms"] == 150.0
    assert summary["ours"]["p50_ms"] == 60.0
    assert summary["draft_gain"] == pytest.approx(45 / 30)
    assert summary["identical_share"] == 0.75


def result(theirs, draft_gain):
    trace = {
        "ours": {"p50_ms": 10.0, "p95_ms": 20.0, "jump_p50_ms": 30.0},
        "llama.cpp": {"p50_ms": 20.0, "p95_ms": 30.0, "jump_p50_ms": 90.0},
        "llama.cpp_drafts": {"p50_ms": 15.0, "p95_ms": 40.0, "jump_p50_ms": 90.0},
        "draft_gain": draft_gain,
        "identical_share": 1.0,
    }
    steps = {"decode_512": {"ours": 5.0, "llama.cpp": theirs}}
    return {"steps_ms": steps, "bandwidth_share": 0.5, "trace": trace, "llama.cpp": {}}


def test_the_report_takes_the_worse_number_of_threads_and_the_peers_better_time():
    report = engine.worst([result(10.0, 1.4), result(6.0, 1.5)])
    assert report["decode_512_ratio"] == 1.2
    assert report["draft_gain"] == 1.4
    assert (report["trace_p50_ratio"], report["trace_p95_ratio"]) == (1.5, 1.5)
    assert report["jump_ratio"] == 3.0


def test_without_a_peer_there_are_no_ratios(tiny_weights, capsys):
    assert engine.main(["--model", str(tiny_weights), "--threads", "1", "--files", "0"]) == 0
    printed = capsys.readouterr().out
    assert "bandwidth_share" in printed
    assert "ratio" not in printed


def test_llama_cpp_runs_the_same_model(tiny_weights, tiny_backend, tmp_path, ids):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    from benchmarks.llama_peer import Flags, LlamaPeer, LlamaSequence
    from models.export.gguf import write_gguf

    path = tmp_path / "tiny.gguf"
    write_gguf(tiny_weights, path)
    manifest = load_manifest(tiny_weights)
    context, vocab = manifest.context_length, int(manifest.architecture["vocab_size"])
    flags = Flags(flash_attention=False, micro_batch=128, kv_type="f32", repack=False)
    sequence = LlamaSequence(path, vocab, context, 1, flags)
    theirs = sequence.append(ids[:40], 40).copy()
    ours = engine.OurSequence(tiny_backend.session).append(ids[:40], 40)
    correlation = np.corrcoef(theirs.ravel(), ours.ravel())[0, 1]
    assert correlation > 0.99
    sequence.truncate(20)
    np.testing.assert_allclose(sequence.append(ids[20:40], 1)[0], theirs[-1], atol=0.5)
    peer = LlamaPeer(sequence, tiny_backend.tokenizer, context)
    decoded, milliseconds = peer.generate(GenerateRequest(ids[:30], max_tokens=5, max_lines=0))
    assert len(decoded.token_ids) == 5
    assert milliseconds > 0
    # Each document has a KV cache; the answer is the same when another was read in between.
    other = GenerateRequest(ids[5:25], max_tokens=5, max_lines=0, cache_key="other")
    peer.generate(other)
    assert peer.generate(GenerateRequest(ids[:30], max_tokens=5, max_lines=0))[0] == decoded
    for number in range(4):
        peer.generate(GenerateRequest(ids[number : number + 9], cache_key=str(number)))
    assert peer.generate(other)[0].token_ids
