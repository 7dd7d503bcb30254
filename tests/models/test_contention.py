import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.backend import GenerateRequest
from models.contention import Contention, Usage
from models.local import LocalBackend
from models.prepack import PackedWeights
from models.registry import load_manifest


def after(contention, seconds, *, own, others):
    """One more span in which so many cores were busy."""
    last = contention._last
    busy = last.all_busy + (own + others) * seconds
    contention.observe(Usage(last.at + seconds, busy, last.own_busy + own * seconds))
    return contention


@pytest.mark.parametrize(
    ("cores", "others", "expected"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 0.9, 1), (2, 2.0, 1), (8, 5.0, 2), (8, 7.0, 1), (1, 0.0, 1)],
)
def test_threads_follow_what_others_leave(cores, others, expected):
    contention = after(Contention(cores), 1.0, own=1.5, others=others)
    assert contention.threads(2) == expected


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (3, 2), (8, 2)])
def test_ahead_of_time_a_core_is_left_free(cores, expected):
    assert Contention(cores).threads(2, spared=1) == expected


def test_only_the_last_span_counts():
    contention = after(Contention(2), 100.0, own=0, others=2.0)
    assert contention.threads(2) == 1
    assert after(contention, 1.0, own=0, others=0.0).threads(2) == 2


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(-5, 5), st.floats(-5, 5)), max_size=8),
    st.integers(1, 16),
)
def test_clocks_that_jump_do_no_harm(spans, most):
    contention = Contention(4)
    for seconds, own, others in spans:
        after(contention, seconds, own=own, others=others)
        assert contention.threads(most) in {1, most}


def test_the_system_tells_what_this_process_uses():
    first = Usage.now()
    sum(range(3_000_000))
    second = Usage.now()
    assert second.at > first.at
    assert second.own_busy >= first.own_busy
    assert second.all_busy >= first.all_busy


def test_one_thread_serves_while_others_need_the_cores(tiny_weights, tmp_path, monkeypatch):
    PackedWeights(load_manifest(tiny_weights), tmp_path).build(tiny_weights)
    backend = LocalBackend.load(tiny_weights, threads=2, packed_cache=tmp_path)
    ids = np.random.default_rng(0).integers(20, 600, 300).tolist()
    given_threads = iter([2, 1, 1, 2])
    monkeypatch.setattr(Contention, "threads", lambda self, most, spared: next(given_threads))
    results, used = [], []
    for end in (200, 230, 260, 290):
        results.append(backend.generate(GenerateRequest(ids[:end], max_tokens=6, max_lines=0)))
        used.append(backend.threads)
    assert used == [2, 1, 1, 2]
    # The KV cache goes from one session to the other, and the text does not depend on it.
    assert [result.reused_tokens for result in results][1:] == [200, 230, 260]
    alone = LocalBackend.load(tiny_weights, threads=2)
    for end, result in zip((200, 230, 260, 290), results, strict=True):
        plain = alone.generate(GenerateRequest(ids[:end], max_tokens=6, max_lines=0))
        assert (plain.token_ids, plain.logprobs) == (result.token_ids, result.logprobs)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a limit on the cores")
def test_more_threads_than_this_process_may_use_are_not_started(tiny_weights, tiny_backend):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        backend = LocalBackend.load(tiny_weights, threads=8)
    finally:
        os.sched_setaffinity(0, cores)
    asked = GenerateRequest([30, 31, 32], max_tokens=6, max_lines=0)
    assert backend.generate(asked).token_ids == tiny_backend.generate(asked).token_ids
    assert (backend.threads, backend.session.threads) == (1, 1)


def test_working_ahead_leaves_a_core_and_what_is_known_of_the_others(
    tiny_weights, tmp_path, monkeypatch
):
    PackedWeights(load_manifest(tiny_weights), tmp_path).build(tiny_weights)
    backend = LocalBackend.load(tiny_weights, threads=2, packed_cache=tmp_path)
    asked = []

    def threads(self, most, spared):
        asked.append(spared)
        return 1 if spared else most

    monkeypatch.setattr(Contention, "threads", threads)
    ids = np.random.default_rng(0).integers(20, 600, 400).tolist()
    backend.warm_up()
    backend.generate(GenerateRequest(ids[:200], max_tokens=2))
    known = backend.affordable_tokens(1.0)
    ahead = backend.generate(GenerateRequest(ids[:390], max_tokens=0, ahead=True))
    assert ahead.reused_tokens >= 199
    assert backend.threads == 2
    assert backend.affordable_tokens(1.0) == known
    result = backend.generate(GenerateRequest(ids, max_tokens=6, max_lines=0))
    assert result.reused_tokens == 390
    plain = LocalBackend.load(tiny_weights, threads=2)
    assert plain.generate(GenerateRequest(ids, max_tokens=6, max_lines=0)).text == result.text
    assert asked == [0, 1, 0]
