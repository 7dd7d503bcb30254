"""Further candidates for an explicit request: the roads not taken where the model hesitated.

A greedy decode is followed up to a token that was uncertain; from there the second-best token
leads on. The KV cache holds everything up to that point, so a candidate costs its own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.backend import GenerateResult

_HESITATION = math.log(0.9)
"""Tokens likelier than this were no choice: their alternatives are noise."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Where to leave a decode.

    Attributes:
        kept: tokens that stay.
        text: what they say behind the healed bytes, as UTF-8.
        heal: bytes that still have to be reproduced after them.
        avoid: the token that was taken then.
    """

    kept: tuple[int, ...]
    text: bytes
    heal: bytes
    avoid: int


def branches(
    result: GenerateResult, pieces: Sequence[bytes], heal: bytes, count: int
) -> list[Branch]:
    """The places to leave `result`, the most uncertain first.

    Args:
        result: a greedy decode.
        pieces: bytes of each of its tokens.
        heal: bytes that it had to reproduce first.
        count: how many at most.
    """
    found = []
    written = b""
    # The stop token (a log-probability without a piece) is left out: ending is no road.
    for index, (piece, logprob) in enumerate(zip(pieces, result.logprobs, strict=False)):
        healed_after = len(written) + len(piece)
        if healed_after > len(heal) and logprob < _HESITATION:
            branch = Branch(
                kept=result.token_ids[:index],
                text=written[len(heal) :],
                heal=heal[len(written) :],
                avoid=result.token_ids[index],
            )
            found.append((logprob, branch))
        written += piece
    return [branch for _, branch in sorted(found, key=lambda pair: pair[0])[:count]]
