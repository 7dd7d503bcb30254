"""Fits the confidence of a model on the tuning projects; writes `completion/calibration.json`.

Usage: python -m benchmarks.calibrate [--limit 1500] [--model PATH] [--seed 1] [--json]

To be run again with every new model. What the curve is worth on other projects is what
`python -m benchmarks.filters` reports (`ece`, `brier`) on the validation projects.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import completion
from benchmarks import prepare
from benchmarks.data import BenchmarkDataError
from benchmarks.filters import Judged, complete, place
from benchmarks.harness import parser, report
from benchmarks.lines import line_cases
from completion.calibration import Calibration, Place, features
from completion.engine import CompletionEngine
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find

_RIDGE = 1.0
"""Pull of the places' offsets towards zero: places with few cursors keep the common curve."""
_TINY = 1e-6
"""Pull of the curve itself: none, but for a column that is all zeros."""
_STEPS = 50
_DOUBT = 2
"""Column of the term that counts only where the model is sure."""


def fit(judged: Sequence[Judged]) -> Calibration:
    """The logistic curve of largest penalised likelihood (Newton's method).

    Raises:
        ValueError: all are right or all are wrong, or there are none.
    """
    scored = [one for one in judged if one.text is not None and one.logprob is not None]
    right = np.array([one.exact for one in scored], np.float64)
    if not len(right) or right.min() == right.max():
        raise ValueError("nothing to tell apart: all suggestions are right, or all wrong")
    columns = _columns(scored)
    weights = _regress(columns, right)
    if weights[_DOUBT] < 0:
        # The curve must rise (Kull, Silva Filho and Flach, 2017, section 4): without that term.
        columns[:, _DOUBT] = 0
        weights = _regress(columns, right)
    intercept, slope, doubt, *offsets = (round(float(weight), 4) for weight in weights)
    by_place = {name.value: weight for name, weight in zip(Place, offsets, strict=True)}
    return Calibration(intercept, slope, doubt, by_place)


def _columns(scored: Sequence[Judged]) -> NDArray[np.float64]:
    """A row each: 1, the two features of the curve, and which of the places it is."""
    rows = [
        (1.0, *features(one.logprob or 0.0), *(place(one.case) is other for other in Place))
        for one in scored
    ]
    return np.array(rows, np.float64)


def _regress(columns: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    penalty = np.diag([_TINY] * (_DOUBT + 1) + [_RIDGE] * len(Place))
    weights: NDArray[np.float64] = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        probabilities = 1 / (1 + np.exp(-columns @ weights))
        gradient = columns.T @ (right - probabilities) - penalty @ weights
        spread = columns * (probabilities * (1 - probabilities))[:, None]
        weights += np.linalg.solve(columns.T @ spread + penalty, gradient)
    return weights


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Missing projects are reported as skipped."""
    options = parser(__doc__)
    options.set_defaults(seed=1)
    options.add_argument("--limit", type=int, default=1500, help="cursors")
    arguments = options.parse_args(given)
    try:
        cases = line_cases(prepare.CACHE / "tuning", arguments.limit, arguments.seed)
    except BenchmarkDataError as error:
        report({"skipped": str(error)}, arguments.json)
        return 0
    try:
        backend = LocalBackend.load(find(arguments.model), threads=arguments.threads)
    except ModelError as error:
        print(f"benchmarks.calibrate: {error}", file=sys.stderr)
        return 1
    engine = CompletionEngine(backend)
    fitted = fit([complete(engine, case, number) for number, case in enumerate(cases)])
    path = Path(completion.__file__).with_name("calibration.json")
    entries = json.loads(path.read_text(encoding="utf-8"))
    entry = {
        "intercept": fitted.intercept,
        "slope": fitted.slope,
        "doubt": fitted.doubt,
        "offsets": dict(fitted.offsets),
    }
    entries[backend.model_id] = entry
    path.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    report({"model": backend.model_id, "cursors": len(cases), **entry}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
