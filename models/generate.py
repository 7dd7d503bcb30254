"""Greedy decoding of one request: token healing, stop rules, log-probabilities.

Knows nothing about the runtime: the caller passes the first logits and a function that
appends tokens and returns the next ones, so the same loop serves the ONNX session and the
float32 reference that exports are verified against.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.backend import GenerateRequest, StopReason
from models.speculate import Drafter
from models.tokenizer import Tokenizer, decode_complete

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Fields as in `models.backend.GenerateResult`."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: StopReason


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    shared = min(len(a), len(b))
    if a[:shared] == b[:shared]:
        return shared
    return next(index for index in range(shared) if a[index] != b[index])


def interrupted(request: GenerateRequest) -> StopReason | None:
    """Whether the request was cancelled or is late."""
    if request.cancel.is_set():
        return StopReason.CANCELLED
    if request.deadline is not None and time.perf_counter() >= request.deadline:
        return StopReason.DEADLINE
    return None


def choose(
    logits: Logits,
    allowed: NDArray[np.int64] | None = None,
    avoid: int | NDArray[np.int64] | None = None,
) -> tuple[int, float]:
    """The likeliest token of `[vocab]` but `avoid` (one or several), and its log-probability.

    Both are among `allowed` if given. `avoid` counts in the normalisation. Where nothing else is
    allowed, it comes all the same with a log-probability of minus infinity.
    """
    scores = logits if allowed is None else logits[allowed]
    best = int(scores.argmax())
    first = best if allowed is None else int(allowed[best])
    if avoid is not None and np.any(avoid == np.int64(first)):
        others = scores.copy()
        others[avoid if allowed is None else np.isin(allowed, avoid)] = -np.inf
        best = int(others.argmax())
        if others[best] == -np.inf:
            return first, -np.inf
    logprob = -float(np.log(np.exp(scores - scores[best]).sum()))
    return best if allowed is None else int(allowed[best]), logprob


class Text:
    """The bytes generated behind the healed ones, and where they must end."""

    def __init__(self, heal: bytes, max_lines: int) -> None:
        self.data = bytearray()
        self.unhealed = heal
        self._max_lines = max_lines
        self._line_breaks = 0

    @property
    def lines_left(self) -> int | None:
        """The line break of this number ends the text; None if none does."""
        return self._max_lines - self._line_breaks if self._max_lines else None

    @property
    def at_line_start(self) -> bool:
        """Whether the line holds nothing but blanks yet; the cursor's own counts as blank."""
        return not self.data.rpartition(b"\n")[2].strip()

    def append(self, token: bytes) -> bool:
        """Add a token's bytes; False if they hold the line break that ends the text."""
        healed = len(self.unhealed)
        self.unhealed = self.unhealed[len(token) :]
        for byte in token[healed:]:
            if byte == 0x0A and self._max_lines and self.data:
                self._line_breaks += 1
                if self._line_breaks == self._max_lines:
                    return False
            self.data.append(byte)
        return True


def decode_greedily(
    request: GenerateRequest,
    tokenizer: Tokenizer,
    logits: Logits,
    step: Callable[[Sequence[int], int], Logits | None],
    room: int,
    drafter: Drafter | None = None,
) -> Decoded:
    """Continue a prompt until a stop rule of `request` holds.

    Args:
        request: what to reproduce first and when to stop; its prompt is not read.
        tokenizer: gives the bytes of tokens and those that healing allows.
        logits: `[1 + drafted, vocab]` behind the prompt and each token of a first draft.
        step: takes back as many tokens as its second argument says, appends those of its
            first and returns the logits `[appended, vocab]` behind each of them; None where the
            request was cancelled meanwhile.
        room: how many tokens may be appended until the context is full.
        drafter: guesses the next tokens; the text is the same without.
    """
    text = Text(request.heal, request.max_lines)
    ids: list[int] = []
    logprobs: list[float] = []
    row = 0

    def end(stop: StopReason) -> Decoded:
        return Decoded(decode_complete(bytes(text.data)), tuple(ids), tuple(logprobs), stop)

    while True:
        if len(ids) >= request.max_tokens:
            return end(StopReason.MAX_TOKENS)
        if stop := interrupted(request):
            return end(stop)
        allowed = tokenizer.allowed(text.unhealed) if text.unhealed else None
        # A padded embedding has rows that no token uses.
        avoid: int | NDArray[np.int64] | None = None if ids else request.avoid
        if not request.comments:
            avoid = tokenizer.comment_ids(text.at_line_start)
        token, logprob = choose(logits[row, : tokenizer.vocab_size], allowed, avoid)
        logprobs.append(logprob)
        if token in tokenizer.special_ids:
            return end(StopReason.END_OF_MIDDLE)
        if not text.append(tokenizer.token_bytes(token)):
            return end(StopReason.NEWLINE)
        ids.append(token)
        if request.on_text is not None and request.on_text(decode_complete(bytes(text.data))):
            return end(StopReason.STOPPED)
        if request.min_logprob is not None and math.fsum(logprobs) <= request.min_logprob:
            return end(StopReason.UNLIKELY)
        if (
            request.ended is not None
            and b"\n" in text.data
            and request.ended(decode_complete(bytes(text.data)))
        ):
            return end(StopReason.NEWLINE)
        if len(ids) >= request.max_tokens:
            return end(StopReason.MAX_TOKENS)
        if len(ids) > room:
            return end(StopReason.CONTEXT_FULL)
        if drafter is None:
            appended = step([token], 0)
        elif drafter.accepts(token):
            row += 1
            continue
        else:
            rejected = drafter.rejected
            limit = min(request.max_tokens - 1, room) - len(ids)
            draft = drafter.propose(limit, unhealed=text.unhealed, lines=text.lines_left)
            appended, row = step([token, *draft], rejected), 0
        if appended is None:
            return end(StopReason.CANCELLED)
        logits = appended
