"""How sure one can be that two arms differ: intervals for a difference of ratios.

`x` and `y` are numerator and denominator, `[units] float64`, one value a unit of randomisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Vector = NDArray[np.float64]

FEWEST_CLUSTERS = 20
"""Units an arm below which nothing is called significant: the normal approximation is wrong."""
SRM_ALPHA = 0.001
"""A sample ratio less likely than this means that assignment or logging is broken."""
EXPECTED_EFFECT = 0.1
"""Relative effect around which the always-valid interval is tightest (its mixture's scale)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference, treatment minus control, with its interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference is distinguishable from none."""
        return not self.low <= 0 <= self.high


def ratio(x: Vector, y: Vector) -> float:
    """Ratio of sums; not a number if there is no denominator."""
    total = float(y.sum())
    return float(x.sum()) / total if total else math.nan


def delta_variance(x: Vector, y: Vector) -> float:
    """Variance of the ratio of means by the delta method."""
    linear = (x - ratio(x, y) * y) / y.mean()
    return float(linear.var(ddof=1)) / len(x)


def fixed_interval(
    control: tuple[Vector, Vector], treatment: tuple[Vector, Vector], *, alpha: float = 0.05
) -> Interval:
    """Valid for one look at a time decided beforehand (delta method, Welch's t)."""
    difference, parts = _difference(control, treatment)
    variance = sum(parts)
    sizes = (len(control[0]), len(treatment[0]))
    spread = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    freedom = variance**2 / spread if spread else math.inf
    half = float(stats.t.ppf(1 - alpha / 2, freedom)) * math.sqrt(variance)
    return Interval(difference, difference - half, difference + half)


def always_valid_interval(
    control: tuple[Vector, Vector], treatment: tuple[Vector, Vector], *, alpha: float = 0.05
) -> Interval:
    """Valid however often one looks: normal mixture SPRT, inverted (Johari et al. 2017).

    Looks begin once both arms have `FEWEST_CLUSTERS` units.
    """
    difference, parts = _difference(control, treatment)
    variance = sum(parts)
    mixture = (EXPECTED_EFFECT * ratio(*control)) ** 2
    if not variance or not mixture:
        return Interval(difference, -math.inf, math.inf)
    total = variance + mixture
    half = math.sqrt(
        variance * total / mixture * (2 * math.log(1 / alpha) + math.log(total / variance))
    )
    return Interval(difference, difference - half, difference + half)


def bootstrap_interval(
    control: tuple[Vector, Vector],
    treatment: tuple[Vector, Vector],
    *,
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval from resampled units: a cross-check without the delta method."""
    random = np.random.default_rng(seed)
    differences = _resampled(*treatment, draws, random) - _resampled(*control, draws, random)
    low, high = np.quantile(differences, [alpha / 2, 1 - alpha / 2])
    return Interval(_difference(control, treatment)[0], float(low), float(high))


def srm_p_value(counts: list[int], weights: list[int]) -> float:
    """Probability of a sample ratio at least this uneven (χ² test)."""
    total = sum(counts)
    expected = [total * weight / sum(weights) for weight in weights]
    return float(stats.chisquare(counts, expected).pvalue)


def _difference(
    control: tuple[Vector, Vector], treatment: tuple[Vector, Vector]
) -> tuple[float, tuple[float, float]]:
    parts = delta_variance(*control), delta_variance(*treatment)
    return ratio(*treatment) - ratio(*control), parts


def _resampled(x: Vector, y: Vector, draws: int, random: np.random.Generator) -> Vector:
    counts = random.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws)
    return np.asarray((counts @ x) / (counts @ y), dtype=np.float64)
