from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.confidence import TokenLogprobs, confident, logprob_sum
from completion.types import ConfidencePolicy


def test_the_whole_line_counts() -> None:
    assert logprob_sum([-0.5, -0.25, -0.25]) == pytest.approx(-1.0)


def test_shown_only_above_the_threshold() -> None:
    policy = ConfidencePolicy(min_logprob=-1.0)
    assert confident(-0.9, policy)
    assert not confident(-1.0, policy)
    assert confident(-100.0, ConfidencePolicy(min_logprob=None))


def test_what_is_typed_becomes_certain() -> None:
    # "fo" healed, then "foo" "(" "x)" and a stop token.
    tokens = TokenLogprobs.align([3, 1, 2], [-1.0, -0.25, -0.5, -0.125], healed=2)
    assert tokens.bounds(0) == (-1.875, -1.875)
    assert tokens.bounds(1) == (-0.875, -0.875)
    assert tokens.bounds(2) == (-0.625, -0.625)
    assert tokens.bounds(3) == (-0.625, -0.125), "inside a token only bounds are known"
    assert tokens.bounds(4) == (-0.125, -0.125)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.floats(-5, 0)), max_size=6),
    st.floats(-5, 0),
    st.integers(0, 3),
)
def test_typing_never_makes_the_rest_less_certain(
    tokens: list[tuple[int, float]], stop: float, healed: int
) -> None:
    lengths = [length for length, _ in tokens]
    logprobs = [*(logprob for _, logprob in tokens), stop]
    aligned = TokenLogprobs.align(lengths, logprobs, healed)
    low, high = zip(*(aligned.bounds(typed) for typed in range(sum(lengths) + 1)), strict=True)
    assert list(low) == sorted(low)
    assert all(least <= most for least, most in zip(low, high, strict=True))
    assert low[0] == high[0] == logprob_sum(logprobs)
