"""Scores and their uncertainty: edit similarity, percentiles, clustered bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
"""Bootstrap resamples; the Monte Carlo error of a 95 % bound is then about 0.1 of its width."""


def levenshtein(left: str, right: str) -> int:
    """Return the least number of inserted, deleted or replaced code points between two texts."""
    if len(left) < len(right):
        left, right = right, left
    previous = list(range(len(right) + 1))
    for row, char in enumerate(left, start=1):
        current = [row]
        for column, other in enumerate(right, start=1):
            current.append(
                min(
                    previous[column] + 1,
                    current[column - 1] + 1,
                    previous[column - 1] + (char != other),
                )
            )
        previous = current
    return previous[-1]


def edit_similarity(left: str, right: str) -> float:
    """Return `1 - levenshtein / max(len)`: 1.0 for equal texts, two empty ones included."""
    longest = max(len(left), len(right))
    return 1.0 if longest == 0 else 1.0 - levenshtein(left, right) / longest


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the `share` (0..1) quantile, linearly interpolated, or None without values."""
    if not values:
        return None
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))


def cluster_interval(
    scores: Sequence[float], clusters: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Bound the mean score by a percentile bootstrap that resamples whole clusters.

    Cursors of one file share names and style, so they are not independent: drawing files
    instead of cursors keeps the interval honest (Efron and Tibshirani, 1993, chapter 8).

    Args:
        scores: one score per case.
        clusters: the file or problem each case came from, same length.
        seed: of the resampling.
        resamples: number of bootstrap samples.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means.

    Raises:
        ValueError: no scores, or lengths that differ.
    """
    if not scores or len(scores) != len(clusters):
        raise ValueError("cluster_interval needs one cluster per score and at least one score")
    names = {name: index for index, name in enumerate(sorted(set(clusters)))}
    sums = np.zeros(len(names))
    counts = np.zeros(len(names))
    for score, cluster in zip(scores, clusters, strict=True):
        sums[names[cluster]] += score
        counts[names[cluster]] += 1
    generator = np.random.default_rng(seed)
    # [resamples, clusters] drawn row by row: the whole matrix would be 60 MB for HumanEval multi.
    means = np.empty(resamples)
    for index in range(resamples):
        drawn = generator.integers(0, len(names), len(names))
        means[index] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
