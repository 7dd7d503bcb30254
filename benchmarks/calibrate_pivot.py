"""Fits when a block written behind a comment is shown; writes `completion/pivots.json`.

Usage: python -m benchmarks.calibrate_pivot [--limit 500] [--model PATH] [--seed 1] [--json]

Function bodies of the tuning projects are taken out and written again, directly and behind a
comment. The margin is the one with which the shown blocks are most like the project's own, by
edit similarity. To be run again with every new model; whether it is worth its time there is what
`python -m benchmarks.quality --pivot off strip keep` tells.
"""

from __future__ import annotations

import ast
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import completion
from benchmarks import prepare
from benchmarks.cases import Case, span_policy
from benchmarks.data import BenchmarkDataError
from benchmarks.harness import parser, report
from benchmarks.lines import python_files
from benchmarks.stats import cluster_interval, edit_similarity
from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    DecodePolicy,
    Pivot,
    PivotPolicy,
    Policies,
    Suggestion,
    TriggerPolicy,
    WindowPolicy,
)
from models.backend import Backend
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find
from models.source_tree import parse

LINES = 8
"""Of a block, as in the server's settings."""
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Tried:
    """One block, written twice.

    Attributes:
        gap: how much likelier a token was behind the comment, natural logarithm.
        gain: how much more the block behind the comment is like the real one, -1..1.
        cluster: the file.
    """

    gap: float
    gain: float
    cluster: str


def block_cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Draw `count` function bodies, each with the cursor where its first line stood.

    Raises:
        BenchmarkDataError: the folder is missing or holds no function.
    """
    if not folder.is_dir():
        raise BenchmarkDataError(f"{folder} is not a folder")
    cases = [case for name, text in python_files(folder) for case in _bodies(name, text)]
    if not cases:
        raise BenchmarkDataError(f"no Python functions under {folder}")
    return random.Random(seed).sample(cases, min(count, len(cases)))


def _bodies(name: str, text: str) -> list[Case]:
    tree = parse(text)
    if tree is None:
        return []
    lines = text.split("\n")
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not body or "\f" in text:  # a form feed is a line's end for `ast` alone
            continue
        first = body[0].lineno - 1
        while first > node.lineno and _is_silent(lines[first - 1]):
            first -= 1  # comments above the first statement are part of the block
        indentation = lines[body[0].lineno - 1][: body[0].col_offset]
        if indentation.strip():  # `def f(): return 1`, or a decorated first statement
            continue
        before = "".join(f"{line}\n" for line in lines[:first]) + indentation
        after = "".join(f"\n{line}" for line in lines[node.end_lineno :])
        gold = "\n".join(lines[first : node.end_lineno]).lstrip()
        case_id = f"{name}:{first + 1}"
        found.append(Case(case_id, before + after, len(before), gold, name, span_policy(before)))
    return found


def _is_silent(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def code_of(text: str) -> str:
    """At most the first lines that are shown of a block, without comments and blank lines."""
    kept = [line.rstrip() for line in text.split("\n") if not _is_silent(line)]
    return "\n".join(kept[:LINES])


def try_twice(engine: CompletionEngine, case: Case, number: int) -> Tried | None:
    """A block directly and behind a comment; None where there was no second candidate."""
    texts, gap = [], None
    for mode in (Pivot.OFF, Pivot.STRIP):
        policies = Policies(
            trigger=TriggerPolicy(enabled=False),
            window=WindowPolicy().rested(),
            decode=DecodePolicy(deadline_ms=None, block_lines=LINES),
            confidence=ConfidencePolicy(None),
            pivot=PivotPolicy(mode, deadline_ms=None, margin=-math.inf),
        )
        uri = f"bench:///pivot/{number}.py"
        outcome = engine.complete(
            CompletionRequest(case.text, case.offset, uri=uri, policies=policies)
        )
        engine.forget(uri)
        texts.append(code_of(outcome.insert) if isinstance(outcome, Suggestion) else "")
        gap = outcome.record.pivot_gain
    if gap is None or not math.isfinite(gap):
        return None
    direct, behind = (edit_similarity(text, code_of(case.gold)) for text in texts)
    return Tried(gap, behind - direct, case.cluster)


def fit(tried: Sequence[Tried]) -> float:
    """The margin of the largest summed gain; of several such, the one that shows fewest comments.

    Raises:
        ValueError: nothing was tried.
    """
    if not tried:
        raise ValueError("no block had a candidate behind a comment")
    ordered = sorted(tried, key=lambda one: -one.gap)
    margin, best, total = ordered[0].gap, 0.0, 0.0
    for index, one in enumerate(ordered):
        total += one.gain
        below = ordered[index + 1].gap if index + 1 < len(ordered) else one.gap - 1.0
        if below < one.gap and total > best:
            margin, best = (one.gap + below) / 2, total
    return round(margin, _DIGITS)


def main(given: Sequence[str] | None = None, backend: Backend | None = None) -> int:
    """Run the command line; returns the exit status. Missing projects are reported as skipped.

    Args:
        given: arguments, those of the process by default.
        backend: a loaded model instead of `--model`.
    """
    options = parser(__doc__)
    options.set_defaults(seed=1)
    options.add_argument("--limit", type=int, default=500, help="blocks")
    options.add_argument(
        "--folder", type=Path, default=prepare.CACHE / "tuning", help="the tuning projects"
    )
    arguments = options.parse_args(given)
    try:
        cases = block_cases(arguments.folder, arguments.limit, arguments.seed)
    except BenchmarkDataError as error:
        report({"skipped": str(error)}, arguments.json)
        return 0
    try:
        model = backend or LocalBackend.load(find(arguments.model), threads=arguments.threads)
        engine = CompletionEngine(model)
        found = [try_twice(engine, case, number) for number, case in enumerate(cases)]
        tried = [one for one in found if one is not None]
        margin = fit(tried)
    except (ModelError, ValueError) as error:
        print(f"benchmarks.calibrate_pivot: {error}", file=sys.stderr)
        return 1
    path = Path(completion.__file__).with_name("pivots.json")
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[model.model_id] = {"margin": margin}
    path.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    gains = [one.gain if one.gap > margin else 0.0 for one in tried]
    low, high = cluster_interval(gains, [one.cluster for one in tried], seed=arguments.seed)
    result = {
        "model": model.model_id,
        "blocks": len(cases),
        "tried": len(tried),
        "margin": margin,
        "taken": sum(one.gap > margin for one in tried),
        "gain": round(sum(gains) / len(gains), _DIGITS),
        "gain_low": round(low, _DIGITS),
        "gain_high": round(high, _DIGITS),
        "gain_if_always": round(sum(one.gain for one in tried) / len(tried), _DIGITS),
    }
    report(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
