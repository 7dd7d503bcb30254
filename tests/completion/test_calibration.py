import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.calibration import Calibration, Place, calibration_of, place_of, probability


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ("", Place.LINE),
        ("    ", Place.LINE),
        ("    self.", Place.MEMBER),
        ("    x = os.pa", Place.MEMBER),
        ("print(os.path.jo", Place.MEMBER),
        ("print(", Place.ARGUMENTS),
        ("call(a, b", Place.ARGUMENTS),
        ("x = [", Place.ARGUMENTS),
        ("x = ", Place.VALUE),
        ("    return val", Place.VALUE),
        ("for größe in ", Place.VALUE),
        ("def f() -> ", Place.VALUE),
        ("from ", Place.VALUE),
        ("    de", Place.OTHER),
        ("print(x)", Place.OTHER),
        ('name = "he', Place.TEXT),
        ("x = 1  # the ", Place.TEXT),
    ],
)
def test_places(left, expected):
    assert place_of(left) == expected


@given(st.text())
def test_every_text_has_a_place(left):
    assert place_of(left) in Place


@given(st.floats(-1e6, 1e6), st.floats(0, 5), st.floats(-1e6, 1e-9), st.sampled_from(list(Place)))
def test_probabilities_are_probabilities_and_rise_with_the_score(intercept, doubt, total, place):
    curve = Calibration(intercept, 0.8, doubt, {"member": 0.3})
    low, high = curve.probability(total - 1, place), curve.probability(total, place)
    assert 0 <= low <= high <= 1


def test_offsets_shift_one_place_only():
    curve = Calibration(0.0, 1.0, offsets={"member": 1.0})
    assert curve.probability(0, Place.OTHER) == 0.5
    assert curve.probability(0, Place.MEMBER) == pytest.approx(1 / (1 + math.exp(-1)))


def test_an_unknown_model_keeps_its_own_probability():
    assert calibration_of("somebody's model") is None
    assert probability(math.log(0.25), Place.OTHER, "somebody's model") == pytest.approx(0.25)
    assert probability(0.1, Place.OTHER, "somebody's model") == 1.0


def test_the_packaged_model_is_fitted():
    fitted = calibration_of("snowcoder-88m")
    assert fitted is not None
    assert fitted.slope > 0
    assert set(fitted.offsets) == {place.value for place in Place}
