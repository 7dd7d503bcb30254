"""Show or hide, from the model's own log-probabilities.

The sum over the line separates right from wrong suggestions best of the features tried
(mean, minimum, first two tokens): it asks for the probability of the whole line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from completion.types import ConfidencePolicy


def logprob_sum(logprobs: Iterable[float]) -> float:
    """Natural-log probability of the whole suggestion, stop token included where one was chosen."""
    return math.fsum(logprobs)


def confident(total: float, policy: ConfidencePolicy) -> bool:
    """Whether a suggestion with log-probability `total` is shown; always without a threshold."""
    return policy.min_logprob is None or total > policy.min_logprob
