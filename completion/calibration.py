"""From the model's log-probability of a suggestion to the probability that it is right.

A model's own probability p is not how often it is right: it may be too sure, and more so in some
places than in others. A logistic curve over ln p and -ln(1 - p) (beta calibration, Kull, Silva
Filho and Flach, 2017), with an offset for each kind of place, is fitted on the tuning projects by
`python -m benchmarks.calibrate` and kept in `calibration.json`, one entry a model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files

from completion.brackets import scan

_FILE = "calibration.json"
_LEAST_DOUBT = 1e-6
"""A sum of log-probabilities in float32 says no more than that."""
_NAME = re.compile(r"\w*$")
_BEFORE_VALUE = re.compile(
    r"([-=+*/%<>:]|\b(return|yield|await|in|if|elif|while|and|or|not|import|from))\s*$"
)


class Place(StrEnum):
    """What stands left of the cursor on its line."""

    LINE = "line"
    """Nothing but blanks."""
    MEMBER = "member"
    """A dot, perhaps with the beginning of a name."""
    ARGUMENTS = "arguments"
    """An open bracket."""
    VALUE = "value"
    """An operator or word that a value follows."""
    TEXT = "text"
    """A string or a comment."""
    OTHER = "other"


def place_of(left: str) -> Place:
    """The kind of place behind `left`, the cursor's line up to the cursor."""
    if not left.strip():
        return Place.LINE
    state = scan(left)
    if state.quote or state.comment:
        return Place.TEXT
    before_name = _NAME.sub("", left)
    if before_name.endswith("."):
        return Place.MEMBER
    if state.open:
        return Place.ARGUMENTS
    return Place.VALUE if _BEFORE_VALUE.search(before_name) else Place.OTHER


def features(total: float) -> tuple[float, float]:
    """ln p and -ln(1 - p) of a suggestion with summed log-probability `total`; both are finite."""
    total = min(total, 0.0)
    return total, -math.log(max(-math.expm1(total), _LEAST_DOUBT))


@dataclass(frozen=True, slots=True)
class Calibration:
    """`P(right) = 1 / (1 + exp(-score))`.

    The score is `intercept + slope * ln p - doubt * ln(1 - p) + offset of the place`; it rises
    with p as long as neither `slope` nor `doubt` is negative.
    """

    intercept: float
    slope: float
    doubt: float = 0.0
    offsets: Mapping[str, float] = field(default_factory=dict)

    def probability(self, total: float, place: Place) -> float:
        """Of a suggestion with summed log-probability `total` (natural, at most 0)."""
        sure, unsure = features(total)
        score = self.intercept + self.slope * sure + self.doubt * unsure
        score += self.offsets.get(place, 0.0)
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, score))))


@cache
def calibration_of(model_id: str) -> Calibration | None:
    """The fitted curve of a model; None for a model that was not fitted."""
    entry = json.loads((files("completion") / _FILE).read_text(encoding="utf-8")).get(model_id)
    return None if entry is None else Calibration(**entry)


def probability(total: float, place: Place, model_id: str) -> float:
    """Probability that a suggestion is what the user would write.

    For a model without a fitted curve, the model's own probability of the text.
    """
    if (fitted := calibration_of(model_id)) is not None:
        return fitted.probability(total, place)
    return math.exp(min(total, 0.0))
