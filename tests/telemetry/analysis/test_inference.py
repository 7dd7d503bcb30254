from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tea_tasting", reason="the extra analysis is not installed")

import pyarrow as pa
import tea_tasting as tt

from telemetry.analysis.inference import (
    Vector,
    always_valid_interval,
    bootstrap_interval,
    delta_variance,
    fixed_interval,
    ratio,
    srm_p_value,
)


def arm(seed: int, size: int, rate: float = 10.0) -> tuple[Vector, Vector]:
    random = np.random.default_rng(seed)
    y = random.gamma(4, 1, size)
    return random.poisson(rate * y).astype(np.float64), y


CONTROL, TREATMENT = arm(1, 150), arm(2, 170, 11.0)


def test_the_delta_method_agrees_with_tea_tasting() -> None:
    ours = fixed_interval(CONTROL, TREATMENT)
    data = pa.table(
        {
            "x": np.concatenate([CONTROL[0], TREATMENT[0]]),
            "y": np.concatenate([CONTROL[1], TREATMENT[1]]),
            "variant": [0] * 150 + [1] * 170,
        }
    )
    theirs = tt.Experiment({"r": tt.RatioOfMeans("x", "y")}).analyze(data, control=0)["r"]
    assert ours.difference == pytest.approx(theirs.effect_size, rel=1e-6)
    assert ours.low == pytest.approx(theirs.effect_size_ci_lower, rel=1e-6)
    assert ours.high == pytest.approx(theirs.effect_size_ci_upper, rel=1e-6)


def test_the_cluster_bootstrap_agrees_within_its_error() -> None:
    draws = 4000
    ours, boot = (
        fixed_interval(CONTROL, TREATMENT),
        bootstrap_interval(CONTROL, TREATMENT, draws=draws),
    )
    # Standard error of a 2.5 % quantile of that many draws, generously.
    error = 6 * (ours.high - ours.low) / draws**0.5
    assert abs(boot.low - ours.low) < error
    assert abs(boot.high - ours.high) < error


def test_a_denominator_of_ones_is_the_variance_of_a_mean() -> None:
    x = np.array([1.0, 2.0, 4.0, 9.0])
    ones = np.ones(4)
    assert ratio(x, ones) == x.mean()
    assert delta_variance(x, ones) == pytest.approx(x.var(ddof=1) / 4)


def test_always_valid_is_wider_and_covers_at_every_look() -> None:
    fixed, always = fixed_interval(CONTROL, TREATMENT), always_valid_interval(CONTROL, TREATMENT)
    assert always.low < fixed.low < fixed.high < always.high
    wrong = 0
    for seed in range(200):
        control, treatment = arm(2 * seed, 400), arm(2 * seed + 1, 400)
        looks = range(20, 400, 20)
        wrong += any(
            always_valid_interval(
                (control[0][:n], control[1][:n]), (treatment[0][:n], treatment[1][:n])
            ).excludes_zero
            for n in looks
        )
    assert wrong <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_sample_ratio() -> None:
    assert srm_p_value([500, 500], [1, 1]) == 1.0
    assert srm_p_value([300, 100], [3, 1]) == 1.0
    assert srm_p_value([600, 400], [1, 1]) < 1e-6
