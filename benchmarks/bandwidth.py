"""How fast this machine reads memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 256 * 1024 * 1024
"""Larger than any cache."""
_REPETITIONS = 7


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` cores read together, the best of some runs.

    Every element of an array is compared with a maximum: the cheapest of NumPy's vector loops, so
    that reading is what takes the time. The array is written first: pages that never were are all
    one page of zeros, which a cache holds.
    """
    parts = np.array_split(np.ones(_BYTES, np.int8), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPETITIONS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - started)
    return _BYTES / best
