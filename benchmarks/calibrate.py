"""Fits the confidence of a model on the tuning projects; writes `completion/calibration.json`.

Usage: python -m benchmarks.calibrate [--limit 1000] [--model PATH] [--seed 1] [--json]

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
from completion.calibration import Calibration, Place
from completion.engine import CompletionEngine
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find

_RIDGE = 1.0
"""Pull of the places' offsets towards zero: places with few cursors keep the common curve."""
_STEPS = 50


def fit(judged: Sequence[Judged]) -> Calibration:
    """The logistic curve of largest penalised likelihood (Newton's method).

    Raises:
        ValueError: all are right or all are wrong, or there are none.
    """
    scored = [one for one in judged if one.text is not None and one.logprob is not None]
    right = np.array([one.exact for one in scored], np.float64)
    if not len(right) or right.min() == right.max():
        raise ValueError("nothing to tell apart: all suggestions are right, or all wrong")
    places = list(Place)
    features = np.zeros((len(scored), 2 + len(places)))
    features[:, 0] = 1
    features[:, 1] = [min(one.logprob or 0.0, 0.0) for one in scored]
    for row, one in enumerate(scored):
        features[row, 2 + places.index(place(one.case))] = 1
    penalty: NDArray[np.float64] = np.diag([1e-6, 1e-6, *[_RIDGE] * len(places)])
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        probabilities = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (right - probabilities) - penalty @ weights
        spread = features * (probabilities * (1 - probabilities))[:, None]
        weights += np.linalg.solve(features.T @ spread + penalty, gradient)
    rounded = [round(float(weight), 4) for weight in weights]
    offsets = {name.value: weight for name, weight in zip(places, rounded[2:], strict=True)}
    return Calibration(rounded[0], rounded[1], offsets)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Missing projects are reported as skipped."""
    options = parser(__doc__)
    options.set_defaults(seed=1)
    options.add_argument("--limit", type=int, default=1000, help="cursors")
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
        "offsets": dict(fitted.offsets),
    }
    entries[backend.model_id] = entry
    path.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    report({"model": backend.model_id, "cursors": len(cases), **entry}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
