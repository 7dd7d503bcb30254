"""Near-duplicates, and keeping protected text out of the training data.

Words are identifiers and numbers; a file is compared by its 10-word shingles.
Near-duplicates: MinHash with banded LSH (Broder 1997), `rensa`'s implementation.
Protected text (benchmarks, and the projects that tuning, validation and acceptance
use): a file is dropped when it holds one of a benchmark's distinctive shingles, when
a quarter of its shingles stand in protected projects, or when it is a near-duplicate
of a protected file.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash, RMinHashLSH

SHINGLE = 10
_PERMUTATIONS = 128
_BANDS = 16
"""16 bands of 8 rows: half of the pairs at Jaccard 0.7 collide, nearly all at 0.85."""
PROTECTED_SHARE = 0.25
_WORD = re.compile(r"\w+")
_HEADER = re.compile(r"(?:[ \t]*#[^\n]*\n|[ \t]*\n)*")
_PRIME = np.uint64(0x9E3779B97F4A7C15)

Shingles = NDArray[np.uint64]


def shingles(text: str) -> Shingles:
    """Sorted distinct 64-bit hashes of the text's 10-word shingles.

    The comment block at the top is left out: short files that share nothing but a
    licence header are not duplicates.
    """
    header = _HEADER.match(text)
    words = _WORD.findall(text, header.end() if header else 0)
    if len(words) < SHINGLE:
        words += [""] * (SHINGLE - len(words))
    hashes = np.fromiter((zlib.crc32(w.encode()) for w in words), np.uint64, len(words))
    count = len(words) - SHINGLE + 1
    rolled = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(SHINGLE):
            rolled = rolled * _PRIME + hashes[i : i + count]
        # One multiplicative mix, so that the low bits depend on every word.
        rolled ^= rolled >> np.uint64(29)
        rolled *= np.uint64(0xBF58476D1CE4E5B9)
    return np.unique(rolled)


class NearDuplicates:
    """Answers whether a file is a near-duplicate of one seen before."""

    def __init__(self) -> None:
        self._index = RMinHashLSH(threshold=0.7, num_perm=_PERMUTATIONS, num_bands=_BANDS)
        self._count = 0

    def seen(self, text_shingles: Shingles, *, add: bool = True) -> bool:
        """Whether a similar file was added before; adds this one if it is new."""
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            text_shingles, [0, len(text_shingles)], _PERMUTATIONS, 42
        )
        if self._index.query_duplicate_flags_matrix_one_shot(matrix)[0]:
            return True
        if add:
            self._index.insert_matrix(matrix, self._count)
            self._count += 1
        return False


class Protected:
    """What may not be trained on, and the test for it."""

    def __init__(self, benchmarks: Iterable[str], projects: Iterable[str]) -> None:
        """`benchmarks` and `projects` are texts of problems and of source files."""
        self._near = NearDuplicates()
        project_shingles = []
        for text in projects:
            found = shingles(text)
            project_shingles.append(found)
            self._near.seen(found)
        self._projects = _union(project_shingles)
        # A shingle that many problems share is boilerplate ("import sys input sys stdin …").
        counts = Counter[int]()
        for text in benchmarks:
            counts.update(shingles(text).tolist())
        self._benchmarks = np.array(
            sorted(h for h, n in counts.items() if n <= 40), dtype=np.uint64
        )

    def matches(self, text_shingles: Shingles) -> str | None:
        """Why a file may not be used ("benchmark", "project", "near-duplicate"), or None."""
        if _shared(text_shingles, self._benchmarks) > 0:
            return "benchmark"
        if _shared(text_shingles, self._projects) >= PROTECTED_SHARE * len(text_shingles):
            return "project"
        if self._near.seen(text_shingles, add=False):
            return "near-duplicate"
        return None


def _union(parts: list[Shingles]) -> Shingles:
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def _shared(a: Shingles, b: Shingles) -> int:
    """How many elements of `a` are in `b`; both sorted."""
    if not len(b):
        return 0
    at = np.searchsorted(b, a)
    at[at == len(b)] = 0
    return int((b[at] == a).sum())
