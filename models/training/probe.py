"""Held-out probe: does the model know the rest of the line?

One teacher-forced pass per cursor, in the joint layout: a line counts as matched when
every token of the middle and the end after it is the model's first choice (the token
under the cursor is constrained to what is typed, as healing does). Cheaper than decoding
and, for choosing between runs, as good.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  # the field's usual name
from tokenizers import Tokenizer
from torch import Tensor

from models.training.cursors import Cursor
from models.training.fim import Special
from models.training.model import Model

PREFIX_TOKENS, SUFFIX_TOKENS = 1200, 450


@torch.no_grad()
def probe(
    model: Model, tokenizer: Tokenizer, cursors: list[Cursor], device: str, batch: int = 32
) -> dict[str, float]:
    """`line_match` (share) and `bits_per_char` of the middles."""
    special = Special()
    newline = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.bool)
    newline[[i for t, i in tokenizer.get_vocab().items() if t.startswith("Ċ")]] = True
    newline[special.eom] = True
    rows = sorted((_row(tokenizer, c) for c in cursors), key=lambda row: len(row[0]))
    texts = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    matched, nats = 0, 0.0
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        # Few distinct widths, so that a compiled model is not compiled again and again.
        width = math.ceil(max(len(ids) for ids, _, _ in part) / 256) * 256
        ids = torch.full((len(part), width), special.pad)
        for i, (row, _, _) in enumerate(part):
            ids[i, : len(row)] = torch.tensor(row)
        kind = device.split(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            hidden = model.hidden(ids.to(device))
        for i, (row, first, typed) in enumerate(part):
            states = hidden[i, first - 1 : len(row)].float()
            logits = F.linear(states, model.embed_tokens.weight.float()).cpu()
            if typed:
                logits[0] += _healing_mask(texts, typed)
            target = torch.tensor(row[first:])
            choice = logits.argmax(-1)
            nats += float(F.cross_entropy(logits[:-1], target, reduction="sum"))
            matched += bool((choice[:-1] == target).all() and newline[choice[-1]])
    characters = sum(len(c.middle) for c in cursors)
    return {
        "line_match": matched / len(cursors),
        "bits_per_char": nats / math.log(2) / characters,
    }


def _row(tokenizer: Tokenizer, cursor: Cursor) -> tuple[list[int], int, str]:
    """(ids, index of the first generated id, its part that is already typed)."""
    special = Special()
    suffix = tokenizer.encode(cursor.suffix).ids[:SUFFIX_TOKENS]
    line = cursor.prefix.rfind("\n")
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


def _healing_mask(texts: list[str], typed: str) -> Tensor:
    """0 for tokens that agree with what is typed, a large negative number elsewhere."""
    agrees = [t.startswith(typed) or typed.startswith(t) for t in texts]
    return torch.where(torch.tensor(agrees), 0.0, -1e9)
