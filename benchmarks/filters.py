"""What the filters and the confidence show of held-out cursors, and what they wrongly hide.

Usage: python -m benchmarks.filters [--limit 1000] [--folder DIR] [--model PATH] [--json]

Every cursor is completed with a user's policies but for deadline and confidence, which is applied
to the outcome here, so that hidden suggestions can be judged too. The judges are Python's own
`ast.parse` and this file, not the filters' code. Keys:

- shown_share, precision: shown cursors among all, exact matches among the shown
- auc, ece, brier: of the confidence as a predictor of an exact match, over all that reached it; the
  calibration error is that of `completion.calibration.probability`, in ten bins of equal count
- reliability: mean probability and share of exact matches in each of those bins
- new_parse_errors: share of shown where the file no longer parses though it did with the gold text
- repeated_suffix, duplicate_brackets: shown suggestions that repeat the next line, or whose
  brackets do not balance where the gold text's do
- correct_dropped: for each filter, the share of all cursors whose exact match it hid; min_logprob
  is not a filter: what it hides is the other side of shown_share
"""

from __future__ import annotations

import ast
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare
from benchmarks.cases import Case
from benchmarks.data import BenchmarkDataError
from benchmarks.harness import parser, report
from benchmarks.lines import line_cases
from completion.calibration import Place, place_of, probability
from completion.confidence import confident
from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    DecodePolicy,
    HiddenReason,
    Policies,
    ShapePolicy,
    Suggestion,
    TriggerPolicy,
)
from models.backend import Backend
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find

BINS = 10
FILTERS = (
    HiddenReason.REPEATS_SUFFIX,
    HiddenReason.REPETITION,
    HiddenReason.PARSE_ERROR,
    HiddenReason.SECRET,
    HiddenReason.EMPTY,
)
UNFILTERED = Policies(
    trigger=TriggerPolicy(enabled=False),
    decode=DecodePolicy(deadline_ms=None),
    shape=ShapePolicy(enabled=False),
    confidence=ConfidencePolicy(None),
)
FILTERED = Policies(
    decode=DecodePolicy(deadline_ms=None, block_lines=8), confidence=ConfidencePolicy(None)
)
_BRACKETS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class Judged:
    """One cursor. `text` is the document with the suggestion; None where a filter hid it."""

    case: Case
    text: str | None
    insert: str
    exact: bool
    logprob: float | None
    reason: HiddenReason | None


def complete(engine: CompletionEngine, case: Case, number: int) -> Judged:
    """Complete one cursor; what a filter hid is judged by the bare model's first line."""
    request = CompletionRequest(
        case.text, case.offset, uri=f"bench:///filters/{number}.py", policies=FILTERED
    )
    outcome = engine.complete(request)
    logprob = outcome.record.logprob_sum
    if isinstance(outcome, Suggestion):
        text = case.text[: outcome.start] + outcome.insert + case.text[outcome.end :]
        exact = outcome.insert.partition("\n")[0].rstrip() == case.gold.rstrip()
        judged = Judged(case, text, outcome.insert, exact, logprob, None)
    else:
        bare = engine.complete(replace(request, policies=UNFILTERED))
        insert = bare.insert if isinstance(bare, Suggestion) else ""
        exact = insert.partition("\n")[0].rstrip() == case.gold.rstrip()
        judged = Judged(case, None, insert, exact, logprob, outcome.reason)
    engine.forget(request.uri)
    return judged


def place(case: Case) -> Place:
    """The kind of place that the cursor is in."""
    return place_of(case.text[: case.offset].rpartition("\n")[2])


def parses(text: str) -> bool:
    """Whether Python's own parser takes `text`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def unbalanced(line: str) -> int:
    """Closing brackets in `line` that close nothing; strings are not looked into."""
    stack: list[str] = []
    count = 0
    for char in line:
        if char in _BRACKETS.values():
            stack.append(char)
        elif char in _BRACKETS:
            if stack and stack[-1] == _BRACKETS[char]:
                stack.pop()
            else:
                count += 1
    return count


def repeats_next_line(judged: Judged) -> bool:
    """Whether the last line with the suggestion is the next line of the document again."""
    prefix = judged.case.text[: judged.case.offset]
    last = (prefix + judged.insert).rpartition("\n")[2].strip()
    after = judged.case.text[judged.case.offset :].partition("\n")[2]
    following = next((line.strip() for line in after.split("\n") if line.strip()), "")
    trivial = not any(char.isalnum() for char in last)
    gold_too = last == (prefix + judged.case.gold).rpartition("\n")[2].strip()
    return last == following and not trivial and not gold_too


def duplicates_brackets(judged: Judged) -> bool:
    """Whether the completed line closes more than it opens, and more than the gold line does."""
    prefix = judged.case.text[: judged.case.offset].rpartition("\n")[2]
    ours = unbalanced(prefix + judged.insert.partition("\n")[0])
    return ours > unbalanced(prefix + judged.case.gold) and not parses(judged.text or "")


def area_under_curve(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Probability that a right one scores higher than a wrong one (Mann and Whitney)."""
    values, labels = np.asarray(scores), np.asarray(right)
    hits, misses = values[labels], values[~labels]
    if not len(hits) or not len(misses):
        return None
    higher = (hits[:, None] > misses[None, :]).mean()
    equal = (hits[:, None] == misses[None, :]).mean()
    return float(higher + equal / 2)


def calibration_error(probabilities: Sequence[float], right: Sequence[bool]) -> float | None:
    """Expected calibration error over bins of equal count."""
    if not probabilities:
        return None
    values = np.asarray(probabilities)
    order = np.argsort(values, kind="stable")
    error = 0.0
    for part in np.array_split(order, min(BINS, len(order))):
        gap = abs(values[part].mean() - np.asarray(right, dtype=float)[part].mean())
        error += gap * len(part) / len(order)
    return float(error)


def reliability(probabilities: Sequence[float], right: Sequence[bool]) -> list[list[float]]:
    """Mean probability and share of right ones in bins of equal count, for a plot."""
    values, labels = np.asarray(probabilities), np.asarray(right, dtype=float)
    parts = np.array_split(np.argsort(values, kind="stable"), min(BINS, len(values)) or 1)
    return [
        [round(float(values[part].mean()), 4), round(float(labels[part].mean()), 4)]
        for part in parts
        if len(part)
    ]


def summarise(
    judged: Sequence[Judged], policy: ConfidencePolicy, model_id: str = ""
) -> dict[str, Any]:
    """Compute the keys."""
    reached = [one for one in judged if one.text is not None and one.logprob is not None]
    scores = [one.logprob or 0.0 for one in reached]
    right = [one.exact for one in reached]
    sure = [
        probability(score, place(one.case), model_id)
        for one, score in zip(reached, scores, strict=True)
    ]
    shown = [one for one, score in zip(reached, scores, strict=True) if confident(score, policy)]
    dropped = Counter(one.reason for one in judged if one.text is None and one.exact)
    broken = sum(not parses(one.text or "") and parses(_gold(one.case)) for one in shown)
    return {
        "n": len(judged),
        "shown_share": _share(len(shown), len(judged)),
        "precision": _share(sum(one.exact for one in shown), len(shown)),
        "auc": _rounded(area_under_curve(scores, right)),
        "ece": _rounded(calibration_error(sure, right)),
        "brier": _rounded(
            float(np.mean((np.asarray(sure) - np.asarray(right)) ** 2)) if sure else None
        ),
        "reliability": reliability(sure, right),
        "new_parse_errors": _share(broken, len(shown)),
        "repeated_suffix": sum(map(repeats_next_line, shown)),
        "duplicate_brackets": sum(map(duplicates_brackets, shown)),
        "correct_dropped": {name.value: _share(dropped[name], len(judged)) for name in FILTERS},
    }


def _gold(case: Case) -> str:
    return case.text[: case.offset] + case.gold + case.text[case.offset :]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def run(backend: Backend, cases: Sequence[Case], policy: ConfidencePolicy) -> dict[str, Any]:
    """Complete all cursors and report."""
    engine = CompletionEngine(backend)
    began = time.perf_counter()
    judged = [complete(engine, case, number) for number, case in enumerate(cases)]
    result = summarise(judged, policy, backend.model_id)
    return {
        **result,
        "model": backend.model_id,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(given: Sequence[str] | None = None, backend: Backend | None = None) -> int:
    """Run the command line; returns the exit status. Missing files are reported as skipped.

    Args:
        given: arguments, those of the process by default.
        backend: a loaded model instead of `--model`.
    """
    options = parser(__doc__)
    options.add_argument("--limit", type=int, default=1000, help="cursors")
    options.add_argument("--folder", type=Path, help="Python files; default: validation projects")
    arguments = options.parse_args(given)
    folder = arguments.folder or prepare.CACHE / "validation"
    try:
        cases = line_cases(folder, arguments.limit, arguments.seed)
    except BenchmarkDataError as error:
        print(f"benchmarks.filters: {error}", file=sys.stderr)
        report({"skipped": str(error)}, arguments.json)
        return 0
    try:
        model = backend or LocalBackend.load(find(arguments.model), threads=arguments.threads)
    except ModelError as error:
        print(f"benchmarks.filters: {error}", file=sys.stderr)
        return 1
    report(run(model, cases, ConfidencePolicy()), arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
