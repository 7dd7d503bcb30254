from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.backend import GenerateRequest, StopReason
from models.cancellation import Cancellation
from models.local import LocalBackend
from models.pieces import PieceStore, Rotation, piece_spans

EOT, SUFFIX, PREFIX, FILE = 0, 1, 2, 5
ENDS = frozenset((SUFFIX, PREFIX))
TAIL = [SUFFIX, 30, 31, PREFIX, 40, 41, 42, 43, 44, 45]


def piece(count, seed):
    return [FILE, *np.random.default_rng(seed).integers(20, 600, count - 1).tolist()]


def request(prompt, **options):
    return GenerateRequest(prompt, **{"max_tokens": 8, "max_lines": 0, **options})


def keys_and_values(backend, prompt):
    return backend.read(prompt).rows(0, len(prompt))


def in_a_row(backend, prompt):
    cache = backend.session.new_cache()
    backend.session.forward(cache, prompt)
    return cache.rows(0, len(prompt))


@pytest.mark.parametrize(
    ("ids", "spans"),
    [
        ([], []),
        ([EOT], []),
        ([EOT, *TAIL], []),
        ([EOT, FILE, 9, *TAIL], [(1, 3)]),
        ([EOT, FILE, 9, 8, FILE, 7, *TAIL], [(1, 4), (4, 6)]),
        ([EOT, FILE, FILE, *TAIL], [(1, 2), (2, 3)]),
        ([EOT, FILE, 9, PREFIX, FILE, 7], [(1, 3)]),  # behind the context it is text
        ([EOT, 9, FILE, 7, *TAIL], []),
        ([EOT, FILE, 9], []),  # cut short: nothing follows it
    ],
)
def test_pieces_stand_between_the_first_token_and_the_window(ids, spans):
    assert piece_spans(ids, FILE, ENDS) == spans


@given(
    st.lists(st.lists(st.integers(20, 600), max_size=9), max_size=5), st.lists(st.integers(20, 600))
)
def test_spans_cover_all_of_the_context(pieces, text):
    context = [token for one in pieces for token in (FILE, *one)]
    spans = piece_spans([EOT, *context, SUFFIX, PREFIX, *text], FILE, ENDS)
    assert [stop - start for start, stop in spans] == [1 + len(one) for one in pieces]
    assert [start for start, _ in spans] == [1, *(stop for _, stop in spans)][: len(spans)]


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_turns_add_up(first, second):
    rotation = Rotation(10_000.0, 16)
    keys = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)
    twice = rotation.turn(rotation.turn(keys, first), second)
    np.testing.assert_allclose(twice, rotation.turn(keys, first + second), atol=1e-3)


def test_turned_keys_are_those_of_the_place(tiny_backend):
    # The first layer's keys depend on the token and its place alone.
    near, far = piece(20, seed=1), piece(30, seed=2)
    rows = keys_and_values(tiny_backend, [EOT, *far, *near, *TAIL])
    there = in_a_row(tiny_backend, [EOT, *far, *near])
    np.testing.assert_allclose(rows[0, :, 31:51], there[0, :, 31:51], atol=5e-3)
    moved = in_a_row(tiny_backend, [EOT, *near])
    assert np.abs(rows[0, :, 31:51] - moved[0, :, 1:21]).max() > 0.1


def test_a_single_piece_is_as_if_read_in_a_row(tiny_backend):
    prompt = [EOT, *piece(200, seed=1), *TAIL]  # more than a prefill run
    apart, row = keys_and_values(tiny_backend, prompt), in_a_row(tiny_backend, prompt)
    np.testing.assert_allclose(apart[:, :, :201], row[:, :, :201], atol=5e-3)


def test_pieces_do_not_see_one_another(tiny_backend):
    one, other, third = (piece(20, seed) for seed in (1, 2, 3))
    rows = keys_and_values(tiny_backend, [EOT, *one, *third, *TAIL])
    same = keys_and_values(tiny_backend, [EOT, *other, *third, *TAIL])
    np.testing.assert_array_equal(rows[:, :, 21:41], same[:, :, 21:41])
    assert np.abs(rows[:, :, 41:] - same[:, :, 41:]).max() > 0.01  # but the window sees them


def test_a_piece_that_was_read_before_changes_nothing(tiny_backend, tiny_weights):
    one, other = piece(70, seed=1), piece(90, seed=2)
    asked = request([EOT, *other, *one, *TAIL])
    alone = LocalBackend.load(tiny_weights, threads=1).generate(asked)
    tiny_backend.generate(request([EOT, *one, *other, *TAIL]))
    tiny_backend.generate(request([EOT, *one, *TAIL], cache_key="elsewhere"))
    again = tiny_backend.generate(asked)
    assert again.token_ids == alone.token_ids
    assert again.logprobs == alone.logprobs


def test_pieces_in_place_are_reused_and_the_others_are_not(tiny_backend):
    one, other, third = piece(20, seed=1), piece(20, seed=2), piece(20, seed=3)
    tiny_backend.generate(request([EOT, *one, *other, *TAIL]))
    assert tiny_backend.generate(request([EOT, *one, *other, *TAIL, 50])).reused_tokens >= 51
    assert tiny_backend.generate(request([EOT, *one, *third, *TAIL])).reused_tokens == 22


@pytest.mark.parametrize("deadline", [None, 0.0])
def test_an_interrupted_request_leaves_no_half_piece(tiny_backend, tiny_weights, deadline):
    prompt = [EOT, *piece(300, seed=1), *TAIL]
    cancel = Cancellation()
    if deadline is None:
        cancel.set()
    stopped = tiny_backend.generate(request(prompt, cancel=cancel, deadline=deadline))
    assert stopped.stop is (StopReason.CANCELLED if deadline is None else StopReason.DEADLINE)
    after = tiny_backend.generate(request(prompt))
    alone = LocalBackend.load(tiny_weights, threads=1).generate(request(prompt))
    assert (after.token_ids, after.logprobs) == (alone.token_ids, alone.logprobs)


def test_the_store_forgets_what_was_not_used_for_longest():
    def rows(tokens):
        return np.zeros((4, 1, tokens, 8), np.float16)

    store = PieceStore(limit=3 * rows(10).nbytes)
    for name in (1, 2, 3):
        store.put((name,), rows(10))
    assert store.get((1,)) is not None
    store.put((4,), rows(10))
    assert store.get((2,)) is None
    assert all(store.get((name,)) is not None for name in (1, 3, 4))
    store.put((5,), rows(31))
    assert store.get((5,)) is None
    assert all(store.get((name,)) is not None for name in (1, 3, 4))


def test_a_model_with_other_positions_reads_in_a_row(tiny_backend):
    manifest = tiny_backend._manifest
    assert Rotation.of(manifest) is not None
    for change in ({"rope_theta": None}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}):
        shape = {**manifest.architecture, **change}
        assert Rotation.of(replace(manifest, architecture=shape)) is None
