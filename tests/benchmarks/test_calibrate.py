import math

import numpy as np
import pytest

from benchmarks.calibrate import fit
from benchmarks.cases import Case, line_policy
from benchmarks.filters import Judged, reliability
from completion.calibration import Calibration, Place

LEFTS = {Place.MEMBER: "x.", Place.VALUE: "y = "}


def judged(place, logprob, exact):
    left = LEFTS[place]
    case = Case("c", left, len(left), "gold", "file", line_policy())
    return Judged(case, left, "gold", exact, logprob, None)


def drawn(count, true):
    """Cursors whose suggestions are right as often as `true` says."""
    generator = np.random.default_rng(0)
    cases = []
    for number in range(count):
        place = list(LEFTS)[number % 2]
        total = -generator.exponential(2.0)
        cases.append(judged(place, total, bool(generator.random() < true(place, total))))
    return cases


def test_a_known_curve_is_found_again():
    def true(place, total):
        return 1 / (1 + math.exp(-(0.5 + 0.7 * total + (1.0 if place is Place.MEMBER else 0.0))))

    curve = fit(drawn(6000, true))
    assert curve.slope == pytest.approx(0.7, abs=0.1)
    for place in LEFTS:
        for total in (-0.1, -1.0, -4.0):
            assert curve.probability(total, place) == pytest.approx(true(place, total), abs=0.05)
    assert curve.offsets["line"] == 0, "a place that was never seen keeps the common curve"


def test_a_curve_with_doubt_is_found_again():
    def true(place, total):
        return Calibration(-0.5, 0.6, 1.2).probability(total, place)

    curve = fit(drawn(12_000, true))
    assert curve.doubt == pytest.approx(1.2, abs=0.2)
    for total in (-0.01, -0.1, -0.5, -2.0, -6.0):
        assert curve.probability(total, Place.VALUE) == pytest.approx(
            true(Place.VALUE, total), abs=0.04
        )


def test_a_curve_that_would_fall_is_fitted_without_doubt():
    def true(place, total):
        return Calibration(1.0, 0.8, -0.4).probability(total, place)

    curve = fit(drawn(6000, true))
    assert curve.doubt == 0
    assert curve.slope > 0


def test_hidden_suggestions_are_left_out_and_nothing_to_tell_apart_is_refused():
    hidden = Judged(judged(Place.VALUE, -1.0, False).case, None, "", False, -1.0, None)
    with pytest.raises(ValueError, match="tell apart"):
        fit([judged(Place.VALUE, -1.0, True), hidden])


def test_reliability_has_bins_of_equal_count():
    assert reliability([], []) == []
    bins = reliability([0.1] * 10 + [0.9] * 10, [False] * 10 + [True] * 10)
    assert bins == [[0.1, 0.0]] * 5 + [[0.9, 1.0]] * 5
