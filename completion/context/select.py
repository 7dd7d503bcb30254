"""From what the retrievers propose to what a prompt gets: fused, without repetition, in budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from completion.context.retrievers import Candidate, Query
from completion.context.types import Chunk
from completion.context.words import covered, telling_lines
from models.tokenizer import Tokenizer

_RRF = 60
"""Reciprocal rank fusion's constant (Cormack et al. 2009)."""
_REPEATED = 0.6
"""A chunk with this share of its lines already in the prompt brings nothing new."""
_CHUNK_TOKENS = 160
_LEAST_TOKENS = 24
_MOST_CHUNKS = 6


@dataclass(frozen=True, slots=True)
class Picked:
    """A chunk in a prompt.

    Attributes:
        chunk: what it is, cut to what the prompt holds.
        ids: its tokens, file marker and path included.
        score: by reciprocal rank fusion.
        sources: score by the name of each retriever that proposed it.
    """

    chunk: Chunk
    ids: tuple[int, ...]
    score: float
    sources: Mapping[str, float]


@dataclass(slots=True)
class _Fused:
    chunk: Chunk
    score: float
    sources: dict[str, float]


def fuse(proposed: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]) -> list[_Fused]:
    """One list by reciprocal rank fusion, best first; overlapping chunks of a file are one."""
    fused: list[_Fused] = []
    for name, candidates in proposed.items():
        for rank, candidate in enumerate(candidates):
            gain = weights.get(name, 1.0) / (_RRF + rank)
            for known in fused:
                if _overlap(known.chunk, candidate.chunk):
                    if name not in known.sources:
                        known.score += gain
                        known.sources[name] = candidate.score
                    break
            else:
                fused.append(_Fused(candidate.chunk, gain, {name: candidate.score}))
    return sorted(fused, key=lambda one: -one.score)


def pick(fused: Sequence[_Fused], query: Query, tokenizer: Tokenizer, budget: int) -> list[Picked]:
    """The best chunks that say something new, at most `budget` tokens together."""
    known = {*telling_lines(query.prefix[-query.seen :]), *telling_lines(query.suffix)}
    picked: list[Picked] = []
    left = budget
    for one in fused:
        if len(picked) >= _MOST_CHUNKS or left < _LEAST_TOKENS:
            break
        if covered(one.chunk.text, known) >= _REPEATED:
            continue
        chunk, ids = cut(one.chunk, tokenizer, min(left, _CHUNK_TOKENS))
        if not chunk.text:
            continue
        picked.append(Picked(chunk, tuple(ids), one.score, one.sources))
        known.update(telling_lines(chunk.text))
        left -= len(ids)
    return picked


def cut(chunk: Chunk, tokenizer: Tokenizer, budget: int) -> tuple[Chunk, list[int]]:
    """The first lines of `chunk` that fit, and their ids as in training: marker, path, text."""
    ids = [tokenizer.special.file, *tokenizer.encode(chunk.path)]
    kept = 0
    text = chunk.text.rstrip()
    for piece in tokenizer.encode_lines("\n" + text):
        if len(ids) + len(piece) > budget:
            break
        ids += piece
        kept += 1
    lines = text.split("\n")[:kept]
    shown = "".join(f"{line}\n" for line in lines)
    return Chunk(chunk.path, chunk.start_line, chunk.start_line + kept, shown, chunk.name), ids


def context_ids(picked: Sequence[Picked]) -> list[int]:
    """What stands behind `<|eot|>`: the best chunk last, nearest to the code."""
    return [token for one in reversed(picked) for token in one.ids]


def _overlap(left: Chunk, right: Chunk) -> bool:
    """Whether two chunks of a file share more than half of the smaller one's lines."""
    if left.path != right.path:
        return False
    common = min(left.end_line, right.end_line) - max(left.start_line, right.start_line)
    smaller = min(left.end_line - left.start_line, right.end_line - right.start_line)
    return 2 * common > max(1, smaller)
