from __future__ import annotations

import pytest

from completion.confidence import confident, logprob_sum
from completion.types import ConfidencePolicy


def test_the_whole_line_counts() -> None:
    assert logprob_sum([-0.5, -0.25, -0.25]) == pytest.approx(-1.0)


def test_shown_only_above_the_threshold() -> None:
    policy = ConfidencePolicy(min_logprob=-1.0)
    assert confident(-0.9, policy)
    assert not confident(-1.0, policy)
    assert confident(-100.0, ConfidencePolicy(min_logprob=None))
