import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.errors import CacheError, PromptError, RunError, WeightsError
from models.registry import load_manifest
from models.session import (
    KVCache,
    ModelSession,
    RunTerminatedError,
    _int8_products_saturate,
    _lazy_zeros,
)

# Another kernel sums in a different order; int8 rounding may then flip by one step.
CLOSE = {"atol": 0.15}


@pytest.fixture(scope="module")
def session(tiny_weights):
    return ModelSession(tiny_weights, load_manifest(tiny_weights), threads=1)


@pytest.fixture
def ids(session):
    return np.random.default_rng(1).integers(20, session.vocab_size, 40).tolist()


def test_logits_of_the_last_n_are_the_end_of_all(session, ids):
    every = session.forward(session.new_cache(), ids, len(ids)).copy()
    assert every.shape == (len(ids), session.vocab_size)
    for count in (1, 3):
        last = session.forward(session.new_cache(), ids, count)
        assert last.dtype == np.float32
        np.testing.assert_array_equal(last, every[-count:])


def test_pieces_give_the_logits_of_the_whole_to_the_bit(session, ids):
    whole = session.forward(session.new_cache(), ids, len(ids)).copy()
    cache = session.new_cache()
    for start, end in ((0, 7), (7, 8), (8, 9), (9, 12), (12, len(ids) - 1), (-1, len(ids))):
        piece = ids[start:end]
        logits = session.forward(cache, piece, len(piece))
        assert logits.shape == (len(piece), session.vocab_size)
        np.testing.assert_array_equal(logits, whole[start:end])
    assert cache.tokens == ids


def test_the_last_place_of_the_context_can_be_used(session):
    cache = session.new_cache()
    session.forward(cache, [20] * (session.context_length - 1))
    assert np.isfinite(session.forward(cache, [21])).all()
    assert len(cache.tokens) == session.context_length


def test_truncating_takes_back_what_followed(session, ids):
    cache = session.new_cache()
    session.forward(cache, ids[:-1])
    expected = session.forward(cache, ids[-1:])[0].copy()
    cache.truncate(10)
    session.forward(cache, ids[:20])
    cache.truncate(10)
    session.forward(cache, ids[10:-1])
    np.testing.assert_allclose(session.forward(cache, ids[-1:])[0], expected, **CLOSE)


def test_caches_do_not_share_state(session, ids):
    first, second = session.new_cache(), session.new_cache()
    session.forward(first, ids[:-1])
    session.forward(second, ids[5:15])
    alone = session.new_cache()
    session.forward(alone, ids[:-1])
    expected = session.forward(alone, ids[-1:])[0].copy()
    np.testing.assert_array_equal(session.forward(first, ids[-1:])[0], expected)


def test_a_terminated_run_leaves_the_cache_usable(session, ids):
    cache = session.new_cache()
    session.forward(cache, ids[:10])
    options = ort.RunOptions()
    options.terminate = True
    with pytest.raises(RunTerminatedError):
        session.forward(cache, ids[10:], run_options=options)
    assert cache.tokens == ids[:10]
    logits = session.forward(cache, ids[10:])[0].copy()
    np.testing.assert_allclose(logits, session.forward(session.new_cache(), ids)[0], **CLOSE)


def test_a_run_that_fails_is_a_named_error_and_leaves_the_cache_usable(session, ids):
    cache = session.new_cache()
    expected = session.forward(cache, ids[:20], 1).copy()
    foreign = KVCache(2, (1, 2, session.context_length, 24))  # this model's heads are of 16
    with pytest.raises(RunError, match="could not be run"):
        session.forward(foreign, ids, 1)
    assert foreign.tokens == []
    cache.truncate(0)
    np.testing.assert_array_equal(session.forward(cache, ids[:20], 1), expected)


def test_the_exact_kernel_of_older_processors_gives_the_same_logits(
    session, ids, tiny_weights, monkeypatch
):
    monkeypatch.setattr("models.session._int8_products_saturate", lambda: True)
    exact = ModelSession(tiny_weights, load_manifest(tiny_weights), threads=1)
    expected = session.forward(session.new_cache(), ids)[0].copy()
    np.testing.assert_allclose(exact.forward(exact.new_cache(), ids)[0], expected, **CLOSE)


def test_arm_needs_no_exact_kernel(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not _int8_products_saturate()


def test_memory_counts_the_positions_that_were_used(session):
    cache = session.new_cache()
    assert cache.nbytes == 0
    session.forward(cache, [20] * 10)
    cache.truncate(3)
    # two tensors a layer, 2 layers, 2 KV heads of 16, four bytes each
    assert cache.nbytes == 2 * 2 * 10 * 2 * 16 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unused_positions_take_no_memory():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    shape = (24, 4, 2048, 64)
    for _ in range(2):  # memory that was used and given back must not be recycled
        used = _lazy_zeros(shape)
        used[:] = 1
        size = used.nbytes
        del used
    before = resident()
    unused = [_lazy_zeros(shape) for _ in range(3)]
    assert resident() - before < 0.1 * size
    assert not any(array[:, 0, 0, 0].any() for array in unused)


def test_no_memory_is_a_named_error(monkeypatch):
    def full(*args, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", full)
    with pytest.raises(CacheError, match="allocate"):
        KVCache(1, (1, 1, 8, 4))


@pytest.mark.parametrize("bad", [[-1], [10**6]])
def test_ids_outside_the_vocabulary_are_refused(session, bad):
    with pytest.raises(PromptError, match="below"):
        session.forward(session.new_cache(), bad)


@pytest.mark.parametrize("count", [0, 2])
def test_impossible_logit_counts_are_refused(session, count):
    with pytest.raises(PromptError):
        session.forward(session.new_cache(), [20], count)


def test_more_tokens_than_the_context_are_refused(session):
    cache = session.new_cache()
    session.forward(cache, [20] * 30)
    with pytest.raises(PromptError, match="do not fit"):
        session.forward(cache, [20] * (session.context_length - 29))
    assert len(cache.tokens) == 30


def test_a_graph_that_cannot_be_loaded_is_a_weights_error(tiny_weights, tmp_path):
    copy = tmp_path / "weights"
    shutil.copytree(tiny_weights, copy)
    (copy / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match=r"model\.onnx"):
        ModelSession(copy, load_manifest(copy))
