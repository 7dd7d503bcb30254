"""Held-out probe: does the model know the rest of the line?

One teacher-forced pass per cursor, in the joint layout: a line counts as matched when
every token of the middle and the end after it is the model's first choice (the token
under the cursor is constrained to what is typed, as healing does). Cheaper than decoding
and, for choosing between runs, as good.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import torch
import torch.nn.functional as F  # noqa: N812  # the field's usual name
from tokenizers import Tokenizer

from models.training.cursors import Cursor
from models.training.fim import Special
from models.training.model import Model

PREFIX_TOKENS, SUFFIX_TOKENS = 1200, 450


class Probe:
    """Held-out cursors made ready once, since many checkpoints are compared at the same ones.

    Args:
        tokenizer: the models'.
        cursors: where to ask.
    """

    def __init__(self, tokenizer: Tokenizer, cursors: list[Cursor]) -> None:
        tokenizer.encode_special_tokens = True  # code may well spell a marker
        special, vocab = Special(), tokenizer.get_vocab()
        self._newline = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.bool)
        self._newline[[i for t, i in vocab.items() if t.startswith("Ċ")]] = True
        self._newline[special.eom] = True
        agreeing = _Agreeing(vocab)
        rows = [_row(tokenizer, cursor) for cursor in cursors]
        self._rows = sorted(
            ((ids, first, agreeing.ids(typed) if typed else None) for ids, first, typed in rows),
            key=lambda row: len(row[0]),
        )
        self._characters = sum(len(cursor.middle) for cursor in cursors)

    @torch.no_grad()
    def run(self, model: Model, device: str, batch: int = 32) -> dict[str, float]:
        """`line_match` (share) and `bits_per_char` of the middles."""
        matched, nats = 0, 0.0
        for at in range(0, len(self._rows), batch):
            part = self._rows[at : at + batch]
            # Few distinct widths, so that a compiled model is not compiled again and again.
            width = math.ceil(max(len(ids) for ids, _, _ in part) / 256) * 256
            ids = torch.full((len(part), width), Special().pad)
            for i, (row, _, _) in enumerate(part):
                ids[i, : len(row)] = torch.tensor(row)
            kind = device.split(":")[0]
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                hidden = model.hidden(ids.to(device))
            for i, (row, first, agreeing) in enumerate(part):
                states = hidden[i, first - 1 : len(row)].float()
                logits = F.linear(states, model.embed_tokens.weight.float()).cpu()
                if agreeing is not None:
                    penalty = torch.full_like(logits[0], -1e9)
                    penalty[agreeing] = 0.0
                    logits[0] += penalty
                target = torch.tensor(row[first:])
                choice = logits.argmax(-1)
                nats += float(F.cross_entropy(logits[:-1], target, reduction="sum"))
                matched += bool((choice[:-1] == target).all() and self._newline[choice[-1]])
        return {
            "line_match": matched / len(self._rows),
            "bits_per_char": nats / math.log(2) / self._characters,
        }


class _Agreeing:
    """The tokens that begin with some text, or that it begins with."""

    def __init__(self, vocab: dict[str, int]) -> None:
        self._vocab = vocab
        self._sorted = sorted(vocab)

    def ids(self, typed: str) -> list[int]:
        """Their ids, for text of at least a character."""
        begin = bisect_left(self._sorted, typed)
        end = bisect_left(self._sorted, typed[:-1] + chr(ord(typed[-1]) + 1))
        shorter = (typed[:length] for length in range(1, len(typed)))
        found = [self._vocab[token] for token in self._sorted[begin:end]]
        return found + [self._vocab[token] for token in shorter if token in self._vocab]


def _row(tokenizer: Tokenizer, cursor: Cursor) -> tuple[list[int], int, str]:
    """(ids, index of the first generated id, its part that is already typed)."""
    special = Special()
    suffix = tokenizer.encode(cursor.suffix).ids[:SUFFIX_TOKENS]
    line = max(cursor.prefix.rfind("\n"), 0)
    before = tokenizer.encode(cursor.prefix[:line]).ids
    encoding = tokenizer.encode(cursor.prefix[line:] + cursor.middle)
    column = len(cursor.prefix) - line
    first = next(i for i, (_, end) in enumerate(encoding.offsets) if end > column)
    begin = encoding.offsets[first][0]
    if begin == column:  # as the server does: the last prefix token is always generated again
        first -= 1
        begin = encoding.offsets[first][0]
    typed = tokenizer.encode(cursor.prefix[line:][begin:column]).tokens
    ids = [special.eot, special.suffix, *suffix, special.prefix]
    ids += [*before, *encoding.ids][-PREFIX_TOKENS:]
    return ids, len(ids) - len(encoding.ids) + first, "".join(typed)
