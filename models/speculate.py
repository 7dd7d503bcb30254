"""Speculative decoding without a second model: n-gram drafts, verified in one run.

What the user writes has mostly been written before, so the tokens that followed the last ones
where they stood earlier (in the suffix, the prefix, the context or the text being generated)
are a good guess of what comes next ("prompt look-up"). The model reads the whole guess in one
run, which costs little more than one token, and keeps the part that it would have chosen
itself: the output is that of plain greedy decoding (Leviathan et al., 2023, greedy case).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.session import MIN_ROWS
from models.tokenizer import Tokenizer

MAX_DRAFT = 8
"""Tokens; longer drafts gained nothing more (dev/LOG.md, 2026-11-25)."""
_NGRAMS = (3, 2, 1)
"""Matches of one token are mostly wrong, but one guess costs nothing: see `MIN_ROWS`."""
_CANDIDATES = 8
"""Matches looked at while healing, the latest first; the first that agrees is taken."""
_TYPED = 0
"""In place of an n-gram's length: the draft is the word under the cursor, as it is cut so far."""
_ACCEPTANCE = {3: 0.65, 2: 0.5, 1: 0.2, _TYPED: 0.8}
_ACCEPTANCE_RATE = 0.03
_TOKEN_COST = 0.1
"""Cost of one more token in a run, in runs of one token: where learning starts."""
_TABLE = 16
_COST_RATE = 0.15
_OUTLIER = 2.5
_RETRY = 32
"""Of the drafts that the guard would skip, every so many-th is tried, to notice a change."""


class Speculation:
    """What drafts are worth on this machine with this model, learnt while running.

    Two things decide: how often the model agrees with a drafted token (per n-gram length), and
    what a run of m tokens costs compared with a run of one.

    Attributes:
        step_seconds: moving average of a run of up to `MIN_ROWS` tokens, None before the first.
    """

    def __init__(self) -> None:
        self.step_seconds: float | None = None
        self._acceptance = dict(_ACCEPTANCE)
        self._ratios = [1 + _TOKEN_COST * max(0, rows - MIN_ROWS) for rows in range(1, _TABLE + 1)]
        self._skipped = 0

    def cost(self, tokens: int) -> float:
        """Cost of a run of `tokens`, in runs of one token."""
        if tokens <= _TABLE:
            # Never less than a shorter run's, which may be known better.
            return max(self._ratios[:tokens])
        slope = (self._ratios[-1] - self._ratios[_TABLE // 2 - 1]) / (_TABLE / 2)
        return self._ratios[-1] + slope * (tokens - _TABLE)

    def length(self, ngram: int, available: int, fed: int = 1) -> int:
        """How many of `available` drafted tokens to verify in a run that feeds `fed` others.

        The number that saves most: each accepted token saves a run of one token later.
        Zero is the guard: here drafts lose.
        """
        probability = self._acceptance[ngram]
        best, most, saved = 0, 0.0, 0.0
        for count in range(1, available + 1):
            saved += probability**count
            gain = saved - (self.cost(fed + count) - self.cost(fed))
            if gain > most:
                best, most = count, gain
        if best == 0 and available:
            self._skipped += 1
            if self._skipped % _RETRY == 0:
                return min(2, available)
        return best

    def observe_run(self, tokens: int, seconds: float) -> None:
        """A run of `tokens` took so long."""
        if tokens <= MIN_ROWS:
            before = self.step_seconds
            # A run that was interrupted by another process says nothing about the model.
            sample = seconds if before is None else min(seconds, _OUTLIER * before)
            self.step_seconds = sample if before is None else _towards(before, sample, _COST_RATE)
        elif tokens <= _TABLE and self.step_seconds:
            before = self._ratios[tokens - 1]
            sample = min(max(1.0, seconds / self.step_seconds), _OUTLIER * before)
            self._ratios[tokens - 1] = _towards(before, sample, _COST_RATE)

    def observe_draft(self, ngram: int, proposed: int, accepted: int) -> None:
        """Of `proposed` tokens the first `accepted` were what the model chose."""
        for position in range(min(accepted + 1, proposed)):
            outcome = 1.0 if position < accepted else 0.0
            before = self._acceptance[ngram]
            self._acceptance[ngram] = _towards(before, outcome, _ACCEPTANCE_RATE)


def _towards(value: float, sample: float, rate: float) -> float:
    return value + rate * (sample - value)


class Drafter:
    """Drafts for one request.

    Attributes:
        proposed: tokens drafted so far.
        accepted: how many of them the model chose.
    """

    def __init__(
        self,
        speculation: Speculation,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        max_tokens: int,
    ) -> None:
        """`max_tokens` bounds the generated tokens."""
        self.proposed = self.accepted = 0
        self._speculation = speculation
        self._tokenizer = tokenizer
        self._tokens = np.empty(len(prompt_ids) + max_tokens, np.int64)
        self._tokens[: len(prompt_ids)] = prompt_ids
        self._length = len(prompt_ids)
        self._draft: list[int] = []
        self._ngram = 0
        self._verified = 0

    def propose(
        self, limit: int, *, unhealed: bytes = b"", lines: int | None = None, fed: int = 1
    ) -> list[int]:
        """Draft what follows the tokens so far; the model must read it right behind them.

        Args:
            limit: no more tokens than this.
            unhealed: bytes with which the draft must begin.
            lines: the draft ends before the token that holds the line break of this number.
            fed: tokens that the same run reads before the draft.
        """
        self.finish()
        self._ngram, found = self._find(min(limit, MAX_DRAFT), unhealed, lines)
        if found:
            self._draft = found[: self._speculation.length(self._ngram, len(found), fed)]
            self.proposed += len(self._draft)
        return list(self._draft)

    def accepts(self, token: int) -> bool:
        """Take the token that the model chose; whether it is the next one of the draft.

        If not, the rest of the draft is worthless: see `rejected`.
        """
        self._tokens[self._length] = token
        self._length += 1
        if self._verified < len(self._draft) and self._draft[self._verified] == token:
            self._verified += 1
            self.accepted += 1
            return True
        return False

    @property
    def rejected(self) -> int:
        """How many tokens of the last draft the model read in vain."""
        return len(self._draft) - self._verified

    def finish(self) -> None:
        """The model is done with the last draft: learn from it."""
        if self._draft:
            self._speculation.observe_draft(self._ngram, len(self._draft), self._verified)
        self._draft, self._verified = [], 0

    def _find(self, limit: int, unhealed: bytes, lines: int | None) -> tuple[int, list[int]]:
        tokens = self._tokens[: self._length]
        for ngram in _NGRAMS:
            if limit < 1 or len(tokens) <= ngram:
                continue
            hits = tokens[ngram - 1 : -1] == tokens[-1]
            for back in range(2, ngram + 1):
                hits &= tokens[ngram - back : -back] == tokens[-back]
            behind = (np.flatnonzero(hits) + ngram)[::-1]
            for start in behind[: _CANDIDATES if unhealed else 1].tolist():
                draft = self._usable(tokens[start : start + limit].tolist(), lines)
                if draft and self._tokenizer.token_bytes(draft[0]).startswith(unhealed):
                    return ngram, draft
        # The last token is left out: that one is most likely to come out longer.
        typed = self._tokenizer.encode(unhealed.decode("utf-8", "replace"))[:-1]
        return _TYPED, typed[:limit]

    def _usable(self, draft: list[int], lines: int | None) -> list[int]:
        """Cut before what could only end the text: that is seen without reading it."""
        for count, token in enumerate(draft):
            if token in self._tokenizer.special_ids:
                return draft[:count]
            if lines is not None:
                lines -= self._tokenizer.token_bytes(token).count(b"\n")
                if lines <= 0:
                    return draft[:count]
        return draft
