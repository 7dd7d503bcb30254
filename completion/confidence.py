"""Show or hide, from the model's own log-probabilities.

The sum over the line separates right from wrong suggestions best of the features tried
(mean, minimum, first two tokens): it asks for the probability of the whole line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from completion.types import ConfidencePolicy


def logprob_sum(logprobs: Iterable[float]) -> float:
    """Natural-log probability of the whole suggestion, stop token included where one was chosen."""
    return math.fsum(logprobs)


def confident(total: float, policy: ConfidencePolicy) -> bool:
    """Whether a suggestion with log-probability `total` is shown; always without a threshold."""
    return policy.min_logprob is None or total > policy.min_logprob


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of a suggestion's tokens and where in its text each token stands.

    With them, a suggestion that was too uncertain to show can be judged again after the user
    typed some of it, without running the model: what was typed is certain now.

    Attributes:
        spans: first byte and end of each token in the text's UTF-8 form; healed tokens begin
            before 0, the stop token stands behind everything.
        logprobs: natural logarithms, one for each span.
    """

    spans: tuple[tuple[float, float], ...] = ()
    logprobs: tuple[float, ...] = ()

    @classmethod
    def align(cls, lengths: Sequence[int], logprobs: Sequence[float], healed: int) -> TokenLogprobs:
        """Place tokens of `lengths` bytes, the first `healed` bytes of which are healed.

        A log-probability beyond the last token is the stop token's.
        """
        spans, end = list[tuple[float, float]](), -healed
        for length in lengths:
            spans.append((end, end + length))
            end += length
        stops = [(math.inf, math.inf)] * (len(logprobs) - len(spans))
        return cls((*spans[: len(logprobs)], *stops), tuple(logprobs))

    def bounds(self, typed: int) -> tuple[float, float]:
        """Least and greatest log-probability of the rest once `typed` bytes are in the document.

        They differ when the typed text ends inside a token: healing would normalise that token
        over those that begin alike, so that it is at least as likely as before.
        """
        if typed == 0:
            return (logprob_sum(self.logprobs),) * 2
        low, high = list[float](), list[float]()
        for (start, end), logprob in zip(self.spans, self.logprobs, strict=True):
            if end > typed:
                low.append(logprob)
                if start >= typed:
                    high.append(logprob)
        return logprob_sum(low), logprob_sum(high)
