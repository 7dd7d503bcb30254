"""Comment pivots: the same code with and without the comments that announce it (MANGO).

A block whose first line is a comment is taken twice, as it stands and with its comments removed.
The model should find the code likelier behind the comments:
`CE_pos + max(0, 0.10 + CE_pos - CE_neg)`, each the mean over the *same* code tokens; comments take
no part in the loss. They are found by Python's tokenizer: a `#` in a string is none.

Code and comments are tokenised apart, so that both variants have the same code ids. Rows have the
joint layout of `models.training.fim`, the block at the end of the prefix.
"""

from __future__ import annotations

import io
import random
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.source_tree import parse
from models.training.fim import Special
from models.training.model import IGNORE
from models.training.shards import read_shards

MARGIN = 0.10
"""How much likelier a code token should be behind the comments, natural logarithm."""
MOST_SHARE = 0.05
"""Of the batches: the term pulls the model away from code without comments."""
ROW_IDS = 768
"""Of a row at most: room for a block of twenty lines and what stands before it."""
_PREFIX_CHARACTERS, _SUFFIX_CHARACTERS = 1600, 400
_LEAST_CODE = 8
"""Code ids of a block; fewer say little about a comment."""
_PAIRS_A_FILE = 2
_SILENT = frozenset({tokenize.COMMENT, tokenize.NL})


class PivotError(ValueError):
    """The corpus has no block that begins with a comment."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line, its line break in front; comments have the blanks before them."""

    text: str
    comment: bool


@dataclass(frozen=True, slots=True)
class Block:
    """A block whose first line is a comment: text before it, its pieces, text after it."""

    before: str
    pieces: tuple[Piece, ...]
    after: str


@dataclass(frozen=True, slots=True)
class Row:
    """Ids of one variant, and which of them are code of the block."""

    ids: list[int]
    code: list[bool]


def _tokens(text: str) -> list[tokenize.TokenInfo] | None:
    """Python's tokens; None where the text is no Python: its tokenizer alone is too lenient.

    None as well where a comment continues a line, which cannot do without it.
    """
    if parse(text) is None:
        return None
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = text.split("\n")
    for token in tokens:
        row, column = token.start
        # Lines that end otherwise (a lone carriage return) are counted otherwise.
        if token.type == tokenize.COMMENT and not (
            row <= len(lines) and lines[row - 1].startswith(token.string, column)
        ):
            return None
        if token.type == tokenize.COMMENT and row > 1 and lines[row - 2].endswith("\\"):
            return None
    return tokens


def _pieces(lines: list[str], columns: dict[int, int], first: int, end: int) -> list[Piece]:
    """Lines `first` to `end` (0-based); `columns` tells where a line's comment begins."""
    pieces = []
    for number in range(first, end):
        line, opening = lines[number], "\n" if number else ""
        code = line[: columns[number]].rstrip() if number in columns else line
        if code or number not in columns:
            pieces.append(Piece(opening + code, comment=False))
            opening = ""
        if number in columns:
            pieces.append(Piece(opening + line[len(code) :], comment=True))
    return pieces


def _columns(tokens: Iterable[tokenize.TokenInfo]) -> dict[int, int]:
    return {t.start[0] - 1: t.start[1] for t in tokens if t.type == tokenize.COMMENT}


def without_comments(text: str) -> str | None:
    """`text` without its comments, a line that was nothing else included; None if it is broken."""
    tokens = _tokens(text)
    if tokens is None:
        return None
    lines = text.split("\n")
    kept = _pieces(lines, _columns(tokens), 0, len(lines))
    return "".join(piece.text for piece in kept if not piece.comment)


def blocks(text: str) -> list[Block]:
    """The blocks of a file whose first line is a comment, inner ones too; none if it is broken."""
    if (tokens := _tokens(text)) is None:
        return []
    lines, columns = text.split("\n"), _columns(tokens)
    found: list[Block] = []
    open_blocks: list[int | None] = []
    comment: int | None = None
    last_code = 0
    for token in tokens:
        row = token.start[0] - 1
        if token.type == tokenize.COMMENT:
            alone = not lines[row][: token.start[1]].strip()
            comment = row if alone and comment is None else comment
        elif token.type == tokenize.INDENT:
            aligned = comment is not None and columns[comment] == len(token.string)
            open_blocks.append(comment if aligned else None)
        elif token.type == tokenize.DEDENT:
            start = open_blocks.pop()
            if start is not None:
                pieces = _pieces(lines, columns, start, last_code + 1)
                after = "".join(f"\n{line}" for line in lines[last_code + 1 :])
                found.append(Block("\n".join(lines[:start]), tuple(pieces), after))
        if token.type == tokenize.NEWLINE:
            last_code = row
        if token.type not in _SILENT:
            comment = None
    return found


def pair(block: Block, tokenizer: Tokenizer, length: int) -> tuple[Row, Row] | None:
    """The block with and without its comments; None where it is too short or long for a row.

    Args:
        block: see `blocks`.
        tokenizer: no token of it crosses a line break.
        length: most ids of a row.
    """
    special = Special()
    encoded = [(tokenizer.encode(piece.text).ids, piece.comment) for piece in block.pieces]
    suffix = tokenizer.encode(block.after[:_SUFFIX_CHARACTERS]).ids[: length // 8]
    room = length - len(suffix) - 3 - sum(len(ids) for ids, _ in encoded)
    if room < 0:
        return None
    before = tokenizer.encode(block.before[-_PREFIX_CHARACTERS:]).ids
    before = before[max(0, len(before) - room) :]
    head = [special.eot, special.suffix, *suffix, special.prefix, *before]
    rows = []
    for with_comments in (True, False):
        ids, code = list(head), [False] * len(head)
        for piece, comment in encoded:
            if with_comments or not comment:
                ids += piece
                code += [not comment] * len(piece)
        rows.append(Row(ids, code))
    positive, negative = rows
    if sum(positive.code) < _LEAST_CODE:
        return None
    return positive, negative


def tensors(rows: Iterable[Row], length: int) -> tuple[Tensor, Tensor]:
    """`(ids, targets)` `[rows, length]` int64; targets are `IGNORE` but for code of the block."""
    ids, targets = [], []
    for row in rows:
        padding = [Special().pad] * (length + 1 - len(row.ids))
        wanted = [i if code else IGNORE for i, code in zip(row.ids, row.code, strict=True)]
        ids.append((row.ids + padding)[:-1])
        targets.append((wanted + [IGNORE] * len(padding))[1:])
    return torch.tensor(ids), torch.tensor(targets)


def contrast(losses: Tensor, margin: float = MARGIN) -> tuple[Tensor, Tensor]:
    """The loss of some pairs, and the part of it that is the hinge.

    Args:
        losses: `[2 * pairs]`, mean cross-entropy of the code with and without comments in turn.
        margin: see `MARGIN`.
    """
    positive, negative = losses[0::2], losses[1::2]
    hinge = torch.relu(margin + positive - negative).mean()
    return positive.mean() + hinge, hinge


def due(number: int, share: float) -> bool:
    """Whether batch `number` of all is one of the evenly spread `share` with the term."""
    return int((number + 1) * share) > int(number * share)


class PairDataset(IterableDataset[tuple[Row, Row]]):
    """Endless pairs from corpus shards; every (seed, part of the readers) is reproducible.

    Args:
        paths: corpus shards.
        tokenizer: fits the model.
        length: most ids of a row.
        seed, rank, world: what this process reads of the whole.
    """

    def __init__(
        self,
        paths: list[Path],
        tokenizer: Tokenizer,
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = length
        self._paths, self._tokenizer = paths, tokenizer
        self._seed, self._rank, self._world = seed, rank, world

    def __iter__(self) -> Iterator[tuple[Row, Row]]:
        info = get_worker_info()
        workers = info.num_workers if info else 1
        part = self._rank * workers + (info.id if info else 0)
        parts = self._world * workers
        self._tokenizer.encode_special_tokens = True
        rng = random.Random(f"{self._seed}/{part}")
        while True:
            found = False
            paths = rng.sample(self._paths, len(self._paths))
            for document in islice(read_shards(paths), part, None, parts):
                candidates = blocks(document["text"])
                for block in rng.sample(candidates, min(_PAIRS_A_FILE, len(candidates))):
                    if (rows := pair(block, self._tokenizer, self.length)) is not None:
                        found = True
                        yield rows
            if not found and parts == 1:
                raise PivotError("the corpus has no block that begins with a comment")
            if not found:  # fewer such files than readers: everyone reads everything
                part, parts = 0, 1


def pair_batches(dataset: PairDataset, pairs: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`(ids, targets)` `[2 * pairs, length]`, code with and without comments in turn.

    Raises:
        PivotError: there are none.
    """
    length = dataset.length

    def collate(found: list[tuple[Row, Row]]) -> tuple[Tensor, Tensor]:
        return tensors((row for both in found for row in both), length)

    loader = DataLoader(
        dataset,
        batch_size=pairs,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
