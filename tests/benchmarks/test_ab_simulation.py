from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the extra analysis is not installed")

from benchmarks.ab_simulation import Design, draw_arm, simulate, true_ratio, until
from telemetry.analysis.inference import ratio


def test_the_population_has_the_ratio_that_is_called_true() -> None:
    random = np.random.default_rng(0)
    for effect in (0.0, 0.2):
        found = ratio(*until(draw_arm(random, 200_000, 2, effect), 2))
        assert found == pytest.approx(true_ratio(effect), rel=0.01)


def test_all_keys_and_promises_on_a_small_scale() -> None:
    result = simulate(Design(users=100, days=5, effect=0.5), 60, seed=0)
    assert {"fpr_fixed", "fpr_peeking", "fpr_naive", "coverage", "power", "power_analytic"} <= {
        *result
    }
    assert result["experiments"] == 120
    assert result["fpr_peeking"] <= result["fpr_fixed"] <= result["fpr_naive"]
    assert result["coverage"] > 0.8
    assert result["power"] > 0.9
