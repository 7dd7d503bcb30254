import threading
import time

import numpy as np
import pytest

from models.backend import GenerateRequest, StopReason
from models.errors import PromptError
from models.local import LocalBackend

LONG = 600  # several prefill chunks


def ids(count, seed=0):
    return np.random.default_rng(seed).integers(20, 600, count).tolist()


def request(prompt, **options):
    return GenerateRequest(prompt, **{"max_tokens": 8, "max_lines": 0, **options})


def fresh(weights, asked):
    return LocalBackend.load(weights, threads=1).generate(asked)


def same_output(a, b):
    assert a.token_ids == b.token_ids
    assert a.text == b.text
    assert a.logprobs == pytest.approx(b.logprobs, abs=0.05)


def test_the_model_describes_itself(tiny_backend):
    assert tiny_backend.model_id == "tiny"
    assert tiny_backend.context_length == 1024
    assert tiny_backend.languages == {"python"}


def test_typing_on_reuses_everything_and_changes_nothing(tiny_backend, tiny_weights):
    prompt = ids(60)
    first = tiny_backend.generate(request(prompt))
    assert first.reused_tokens == 0
    typed = request(prompt + ids(2, seed=1))
    second = tiny_backend.generate(typed)
    assert second.reused_tokens == 60
    same_output(second, fresh(tiny_weights, typed))


def test_generated_tokens_are_reused_when_they_are_accepted(tiny_backend, tiny_weights):
    prompt = ids(60)
    first = tiny_backend.generate(request(prompt))
    accepted = request([*prompt, *first.token_ids])
    second = tiny_backend.generate(accepted)
    assert second.reused_tokens >= 60 + len(first.token_ids) - 1
    same_output(second, fresh(tiny_weights, accepted))


def test_an_edit_in_the_middle_keeps_what_precedes_it(tiny_backend, tiny_weights):
    prompt = ids(60)
    tiny_backend.generate(request(prompt))
    edited = request([*prompt[:25], *ids(30, seed=2)])
    result = tiny_backend.generate(edited)
    assert result.reused_tokens == 25
    same_output(result, fresh(tiny_weights, edited))


def test_the_same_prompt_again_runs_one_token(tiny_backend):
    asked = request(ids(60))
    first, second = tiny_backend.generate(asked), tiny_backend.generate(asked)
    assert second.reused_tokens == 59
    same_output(first, second)


def test_documents_keep_their_own_cache_up_to_the_limit(tiny_weights):
    token_bytes = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, width, four bytes
    limit = 150 * token_bytes
    backend = LocalBackend.load(tiny_weights, threads=1, kv_limit=limit)
    for key, seed in (("a", 1), ("b", 2)):
        backend.generate(request(ids(50, seed), cache_key=key))
    assert backend.generate(request(ids(50, 1), cache_key="a")).reused_tokens == 49
    backend.generate(request(ids(50, 3), cache_key="c"))
    assert 2 * 50 * token_bytes < backend.kv_bytes <= limit
    assert backend.generate(request(ids(50, 1), cache_key="a")).reused_tokens == 49
    assert backend.generate(request(ids(50, 2), cache_key="b")).reused_tokens == 0
    # What one document needs is given to it, whatever the limit.
    assert backend.generate(request(ids(300), cache_key="d")).token_ids
    assert 300 * token_bytes < backend.kv_bytes < 400 * token_bytes


def test_memory_is_counted_as_it_is_used(tiny_backend):
    tiny_backend.generate(request(ids(50)))
    short = tiny_backend.kv_bytes
    tiny_backend.generate(request(ids(200)))
    assert 3 * short < tiny_backend.kv_bytes
    tiny_backend.generate(request(ids(50)))
    assert 3 * short < tiny_backend.kv_bytes, "what was used once stays"


def test_a_renamed_cache_takes_the_place_of_another(tiny_backend):
    tiny_backend.generate(request(ids(50, 1), cache_key="a"))
    tiny_backend.generate(request(ids(70, 2), cache_key="second"))
    tiny_backend.rename("second", "a")
    tiny_backend.rename("never seen", "a")
    assert tiny_backend.generate(request(ids(70, 2), cache_key="a")).reused_tokens == 69
    assert tiny_backend.generate(request(ids(70, 2), cache_key="second")).reused_tokens == 0


def test_a_closed_document_is_forgotten(tiny_backend):
    tiny_backend.generate(request(ids(50), cache_key="a"))
    tiny_backend.forget("a")
    tiny_backend.forget("never seen")
    assert tiny_backend.kv_bytes == 0
    assert tiny_backend.generate(request(ids(50), cache_key="a")).reused_tokens == 0


def test_a_long_prompt_in_chunks_equals_one_fed_bit_by_bit(tiny_backend, tiny_weights):
    prompt = ids(LONG)
    whole = tiny_backend.generate(request(prompt))
    other = LocalBackend.load(tiny_weights, threads=1)
    for end in range(30, LONG, 30):
        other.generate(request(prompt[:end], max_tokens=0))
    same_output(other.generate(request(prompt)), whole)


def test_prefill_ahead_leaves_one_token_to_run(tiny_backend):
    ahead = tiny_backend.generate(request(ids(60), max_tokens=0))
    assert (ahead.text, ahead.token_ids, ahead.stop) == ("", (), StopReason.MAX_TOKENS)
    assert tiny_backend.generate(request(ids(60))).reused_tokens == 59


def test_healing_through_the_model_reproduces_the_bytes(tiny_backend):
    tokenizer = tiny_backend.tokenizer
    prompt = tokenizer.encode("def f(self):\n    return sel")
    heal = tokenizer.token_bytes(prompt.pop())
    result = tiny_backend.generate(request(prompt, heal=heal))
    produced = b"".join(map(tokenizer.token_bytes, result.token_ids))
    assert produced.startswith(heal)
    assert produced[len(heal) :].decode("utf-8", "replace").startswith(result.text)


def test_generation_ends_where_the_context_does(tiny_backend):
    prompt = ids(tiny_backend.context_length - 2)
    result = tiny_backend.generate(request(prompt, max_tokens=50))
    assert result.stop == StopReason.CONTEXT_FULL
    assert len(result.token_ids) == 3, "the last token is not fed back"


def test_a_prompt_that_fills_the_context_is_served(tiny_backend):
    prompt = ids(tiny_backend.context_length)
    assert len(tiny_backend.generate(request(prompt, max_tokens=5)).token_ids) == 1


def test_a_cancelled_request_stops_before_it_runs(tiny_backend):
    asked = request(ids(50))
    asked.cancel.set()
    result = tiny_backend.generate(asked)
    assert (result.text, result.stop) == ("", StopReason.CANCELLED)
    assert result.prompt_tokens == 50


def test_cancel_between_chunks_keeps_the_finished_ones(tiny_backend, monkeypatch):
    asked = request(ids(LONG))
    session = tiny_backend.session
    forward = session.forward

    def cancelled_after(*args, **options):
        asked.cancel.set()
        options.pop("run_options")
        return forward(*args, **options)

    monkeypatch.setattr(session, "forward", cancelled_after)
    result = tiny_backend.generate(asked)
    assert (result.stop, result.token_ids) == (StopReason.CANCELLED, ())
    monkeypatch.undo()
    assert 0 < tiny_backend.generate(request(ids(LONG))).reused_tokens < LONG - 1


@pytest.mark.parametrize("why", [StopReason.CANCELLED, StopReason.DEADLINE])
def test_a_running_prefill_is_terminated(tiny_backend, tiny_weights, monkeypatch, why):
    late = time.perf_counter() + 0.05
    asked = request(ids(LONG), deadline=late if why == StopReason.DEADLINE else None)
    session = tiny_backend.session
    forward = session.forward
    runs = []

    def slow(cache, chunk, n_logits=1, run_options=None):
        # Stands for a run that lasts until the watchdog ends it.
        if why == StopReason.CANCELLED:
            asked.cancel.set()
        for _ in range(5000):
            if run_options.terminate:
                break
            time.sleep(0.001)
        runs.append(len(chunk))
        return forward(cache, chunk, n_logits, run_options)

    monkeypatch.setattr(session, "forward", slow)
    result = tiny_backend.generate(asked)
    assert (result.stop, result.text, len(runs)) == (why, "", 1)
    monkeypatch.undo()
    again = request(ids(LONG))
    same_output(tiny_backend.generate(again), fresh(tiny_weights, again))


def test_cancel_during_decoding_keeps_the_tokens_so_far(tiny_backend, monkeypatch):
    asked = request(ids(20), max_tokens=40)
    session = tiny_backend.session
    forward = session.forward
    runs = []

    def counted(*args, **options):
        runs.append(1)
        if len(runs) == 4:
            asked.cancel.set()
        return forward(*args, **options)

    monkeypatch.setattr(session, "forward", counted)
    result = tiny_backend.generate(asked)
    assert (result.stop, len(result.token_ids)) == (StopReason.CANCELLED, 3)


def test_a_step_is_terminated_at_the_deadline(tiny_backend, tiny_weights, monkeypatch):
    asked = request(ids(20), max_tokens=40, deadline=time.perf_counter() + 0.5)
    session = tiny_backend.session
    forward = session.forward
    runs = []

    def slow(cache, chunk, n_logits=1, run_options=None):
        runs.append(len(chunk))
        # The fourth stands for a step that other processes keep from ending.
        while len(runs) == 4 and not run_options.terminate:
            assert time.perf_counter() < asked.deadline + 10
            time.sleep(0.001)
        return forward(cache, chunk, n_logits, run_options)

    monkeypatch.setattr(session, "forward", slow)
    result = tiny_backend.generate(asked)
    assert (result.stop, len(runs)) == (StopReason.DEADLINE, 4)
    monkeypatch.undo()
    whole = request(ids(20), max_tokens=40)
    wanted = fresh(tiny_weights, whole)
    assert result.token_ids == wanted.token_ids[: len(result.token_ids)]
    assert len(result.token_ids) >= 3
    same_output(tiny_backend.generate(whole), wanted)


def test_watchdogs_end_with_their_backend(tiny_weights):
    before = set(threading.enumerate())
    backend = LocalBackend.load(tiny_weights, threads=1)
    (watchdog,) = set(threading.enumerate()) - before
    del backend
    watchdog.join(timeout=10)
    assert not watchdog.is_alive()


def test_what_is_affordable_follows_from_measured_runs(tiny_backend, monkeypatch):
    assert tiny_backend.affordable_tokens(1.0) is None, "nothing was measured yet"
    tiny_backend.warm_up()
    short, long = (tiny_backend.affordable_tokens(seconds) for seconds in (0.5, 5.0))
    assert 0 < short < long
    assert tiny_backend.affordable_tokens(0.0) == tiny_backend.affordable_tokens(-1.0) == 0
    session = tiny_backend.session
    forward = session.forward

    def slow(cache, chunk, n_logits=1, run_options=None):
        time.sleep(0.05)
        return forward(cache, chunk, n_logits, run_options)

    monkeypatch.setattr(session, "forward", slow)
    tiny_backend.generate(request(ids(LONG)))
    assert tiny_backend.affordable_tokens(5.0) < long


def test_warming_up_leaves_no_document_behind(tiny_backend):
    tiny_backend.warm_up()
    assert tiny_backend.kv_bytes == 0


@pytest.mark.parametrize("prompt", [[], [20] * 1025, [10**6]])
def test_a_prompt_that_cannot_run_is_refused_and_the_next_is_served(tiny_backend, prompt):
    with pytest.raises(PromptError):
        tiny_backend.generate(request(prompt))
    assert tiny_backend.generate(request(ids(5))).token_ids
