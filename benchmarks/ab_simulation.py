"""Do the report's intervals keep their promises? Experiments whose truth is known.

Users differ in skill (characters retained per hour) and habit (hours per day, and whether who
works more also retains more); days of a user are alike. Half of the experiments are A/A, half
A/B with a true relative effect. The unit is the user, as in the report.

    fpr_fixed        A/A experiments called different by the one-look interval at the end
    fpr_peeking      the same by the always-valid interval, looking every day
    fpr_naive        the same by the one-look interval, looking every day: why not to
    coverage         A/B experiments whose one-look interval holds the true difference
    power            A/B experiments called different at the end
    power_analytic   the same, foretold from the variance of the population
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.harness import report
from telemetry.analysis.inference import (
    Vector,
    always_valid_interval,
    delta_variance,
    fixed_interval,
)

ALPHA = 0.05
RATE = 60.0
"""Characters retained per active hour by the median user."""
SKILL, HABIT, TOGETHER = 0.35, 0.5, 0.3
"""Spread of the logarithms of skill and habit, and their correlation."""
DAY = 0.3
"""Spread of the logarithm of one user's hours from day to day."""
BURST = 4.0
"""Characters come in suggestions of about this many: more variance than Poisson."""

Arm = tuple[Vector, Vector]
"""Characters and hours, each `[users, days]`."""


@dataclass(frozen=True, slots=True)
class Design:
    """Size of one experiment."""

    users: int = 200
    days: int = 14
    effect: float = 0.1
    """True relative effect in an A/B experiment."""


def draw_arm(random: np.random.Generator, users: int, days: int, effect: float) -> Arm:
    """Characters and hours of every user on every day."""
    skill = random.standard_normal(users)
    habit = TOGETHER * skill + math.sqrt(1 - TOGETHER**2) * random.standard_normal(users)
    daily = DAY * random.standard_normal((users, days))
    hours = np.exp(HABIT * habit[:, None] + daily)
    expected = RATE * (1 + effect) * np.exp(SKILL * skill)[:, None] * hours
    return BURST * random.poisson(expected / BURST).astype(np.float64), hours


def true_ratio(effect: float) -> float:
    """Expected characters over expected hours, of the log-normal population."""
    return RATE * (1 + effect) * math.exp(SKILL**2 / 2 + TOGETHER * SKILL * HABIT)


def until(arm: Arm, day: int) -> tuple[Vector, Vector]:
    """Sums per user up to `day`."""
    return arm[0][:, :day].sum(axis=1), arm[1][:, :day].sum(axis=1)


def analytic_power(design: Design, seed: int) -> float:
    """Power of the normal test with the variances of a very large sample."""
    random = np.random.default_rng(seed)
    size, variance = 200_000, 0.0
    for effect in (0.0, design.effect):
        sums = until(draw_arm(random, size, design.days, effect), design.days)
        variance += delta_variance(*sums) * size / design.users
    shift = (true_ratio(design.effect) - true_ratio(0.0)) / math.sqrt(variance)
    bound = float(stats.norm.ppf(1 - ALPHA / 2))
    return float(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift))


def simulate(design: Design, experiments: int, seed: int) -> dict[str, Any]:
    """Run `experiments` A/A and as many A/B experiments."""
    random = np.random.default_rng(seed)
    fixed = peeking = naive = covered = powered = 0
    truth = true_ratio(design.effect) - true_ratio(0.0)
    for _ in range(experiments):
        control = draw_arm(random, design.users, design.days, 0.0)
        same = draw_arm(random, design.users, design.days, 0.0)
        looks = [(until(control, day), until(same, day)) for day in range(1, design.days + 1)]
        once = [fixed_interval(*look, alpha=ALPHA).excludes_zero for look in looks]
        fixed, naive = fixed + once[-1], naive + any(once)
        peeking += any(always_valid_interval(*look, alpha=ALPHA).excludes_zero for look in looks)
        better = draw_arm(random, design.users, design.days, design.effect)
        interval = fixed_interval(until(control, design.days), until(better, design.days))
        covered += interval.low <= truth <= interval.high
        powered += interval.excludes_zero
    return {
        "experiments": 2 * experiments,
        "users_per_arm": design.users,
        "days": design.days,
        "fpr_fixed": fixed / experiments,
        "fpr_peeking": peeking / experiments,
        "fpr_naive": naive / experiments,
        "coverage": covered / experiments,
        "power": powered / experiments,
        "power_analytic": round(analytic_power(design, seed + 1), 4),
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args(given)
    result = simulate(Design(), arguments.experiments, arguments.seed)
    report(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
