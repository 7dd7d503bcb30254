"""Completion quality through the serving engine.

Usage: python -m benchmarks.quality --suite S [--limit N] [--seed K] [--json]

S is he-single, he-multi, he-random, safim-api, safim-control, safim-block, or lines:DIR,
spans:DIR or random:DIR with DIR a folder of Python files or git repositories; validation and tuning
are the folders that `python -m benchmarks.prepare` makes. See benchmarks/README.md for the keys.

--pivot off strip keep runs the suite once for each and compares them with the first, case by case;
--mode joint sep does so for a model's two prompt layouts. --processes N shares the cases among N
processes of --threads each, with the same results: completions do not depend on each other.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import data, prepare
from benchmarks.cases import Case
from benchmarks.lines import DEFAULT_CURSORS, line_cases, random_cases, span_cases
from benchmarks.stats import cluster_interval, edit_similarity, percentile
from completion.engine import CompletionEngine
from completion.types import Mode, Pivot, PivotPolicy, Record
from models.backend import Backend
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find

SUITES = ("he-single", "he-multi", "he-random", "safim-api", "safim-control", "safim-block")
HOLES = {"single": "SingleLine", "multi": "MultiLine", "random": "RandomSpan"}
DRAWN = {"lines": line_cases, "spans": span_cases, "random": random_cases}
"""Suites drawn from a folder, which follows their name and a colon."""
_NAMES = ", ".join((*SUITES, *(f"{kind}:DIR" for kind in DRAWN)))
WORKERS = 2
"""Programs that are tested at the same time, while the model decodes the next case."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One case after its completion.

    Attributes:
        case: the case.
        completion: the text at the cursor; empty where nothing came out.
        shown: whether there was a suggestion at all.
        passed: verdict of the suite's judge, None where there is none.
        record: what happened; programs may be tested at the same time.
    """

    case: Case
    completion: str
    shown: bool
    passed: bool | None
    record: Record

    @property
    def exact(self) -> bool:
        """A hidden suggestion matches nothing."""
        return self.shown and self.case.exact(self.completion)


def load_suite(suite: str, folder: Path | None, limit: int | None, seed: int) -> list[Case]:
    """Load a suite; `limit` draws a seeded sample of it.

    Raises:
        BenchmarkDataError: its data is not there.
    """
    kind, colon, name = suite.partition(":")
    if colon:
        files = prepare.CACHE / name if name in prepare.SPLITS else Path(name)
        if name in prepare.SPLITS and not files.is_dir():
            raise data.BenchmarkDataError(f"{files} is missing; run python -m benchmarks.prepare")
        return DRAWN[kind](files, DEFAULT_CURSORS if limit is None else limit, seed)
    found = data.data_folder(folder)
    kind, _, name = suite.partition("-")
    cases = data.safim(found, name) if kind == "safim" else data.human_eval(found, HOLES[name])
    if limit is None or limit >= len(cases):
        return cases
    drawn = sorted(random.Random(seed).sample(range(len(cases)), limit))
    return [cases[index] for index in drawn]


def run_cases(
    backend: Backend,
    cases: Sequence[Case],
    suite: str,
    *,
    as_shown: bool,
    progress: bool = False,
    pivot: Pivot = Pivot.OFF,
    mode: Mode | None = None,
) -> list[Scored]:
    """Complete every case with the engine and judge the results.

    Args:
        backend: the model.
        cases: of one suite.
        suite: its name, used in the document names.
        as_shown: with a user's policies instead of the bare model.
        progress: write a counter to standard error.
        pivot: whether blocks are also written behind a comment; without a deadline.
        mode: prompt layout in the place of the suite's own.
    """
    engine = CompletionEngine(backend)
    waiting: list[tuple[Case, str | None, Future[bool] | None, Record]] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, case in enumerate(cases):
            # A document per case: no case may profit from the text of another.
            uri = f"bench:///{suite}/{number}.py"
            request = case.request(uri, as_shown=as_shown)
            decode = request.policies.decode
            policies = replace(
                request.policies,
                decode=replace(decode, mode=mode or decode.mode),
                pivot=PivotPolicy(pivot, deadline_ms=None),
            )
            outcome = engine.complete(replace(request, policies=policies))
            completion = case.completion(outcome)
            engine.forget(uri)
            verdict = None
            # An empty completion may be right (a line that changes nothing); a hidden one is not.
            if case.judge is not None and not (as_shown and completion is None):
                verdict = pool.submit(case.judge, completion or "")
            waiting.append((case, completion, verdict, outcome.record))
            if progress and (number + 1) % 20 == 0:
                print(f"\r{number + 1}/{len(cases)}", end="", file=sys.stderr, flush=True)
        if progress:
            print(file=sys.stderr)
        return [
            Scored(
                case=case,
                completion=completion or "",
                shown=completion is not None,
                passed=verdict.result() if verdict is not None else _unjudged(case),
                record=record,
            )
            for case, completion, verdict, record in waiting
        ]


def run_share(
    arguments: argparse.Namespace, pivot: Pivot, mode: Mode | None, number: int
) -> list[tuple[str, bool, bool | None, Record]]:
    """Completion, whether shown, verdict and record of every `processes`-th case from `number` on.

    Runs in a process of its own, which loads the suite itself: judges cannot be sent.
    """
    cases = load_suite(arguments.suite, arguments.data, arguments.limit, arguments.seed)
    scored = run_cases(
        LocalBackend.load(find(arguments.model), threads=arguments.threads),
        cases[number :: arguments.processes],
        arguments.suite,
        as_shown=arguments.as_shown,
        pivot=pivot,
        mode=mode,
    )
    return [(one.completion, one.shown, one.passed, one.record) for one in scored]


def run_in_processes(
    cases: Sequence[Case], arguments: argparse.Namespace, pivot: Pivot, mode: Mode | None
) -> list[Scored]:
    """Complete and judge the cases in `arguments.processes` processes, a model in each."""
    count = arguments.processes
    work = partial(run_share, arguments, pivot, mode)
    scored: dict[int, Scored] = {}
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        for number, rows in enumerate(pool.map(work, range(count))):
            for index, row in zip(range(number, len(cases), count), rows, strict=True):
                scored[index] = Scored(cases[index], *row)
    return [scored[index] for index in range(len(cases))]


def _unjudged(case: Case) -> bool | None:
    return None if case.judge is None else False


def report(
    scored: Sequence[Scored], *, suite: str, model: str, seconds: float, as_shown: bool, seed: int
) -> dict[str, Any]:
    """Summarise one run.

    The interval bounds `pass_at_1` where the suite has it, `exact_match` elsewhere.
    With `as_shown`, hidden cases count as wrong, and two keys are added: `shown_share` and
    `exact_match_shown`, the share of exact matches among the shown ones.
    """
    exact = [float(one.exact) for one in scored]
    passed = [float(one.passed) for one in scored if one.passed is not None]
    clusters = [one.case.cluster for one in scored]
    low, high = cluster_interval(passed or exact, clusters, seed=seed)
    similarity = [edit_similarity(one.completion.strip(), one.case.gold.strip()) for one in scored]
    result: dict[str, Any] = {
        "suite": suite,
        "n": len(scored),
        "exact_match": _mean(exact),
        "pass_at_1": _mean(passed) if passed else None,
        "edit_similarity": _mean(similarity),
        "interval_low": round(low, 4),
        "interval_high": round(high, 4),
        "model": model,
        "seconds": round(seconds, 1),
    }
    if as_shown:
        shown = [one for one in scored if one.shown]
        result["shown_share"] = round(len(shown) / len(scored), 4)
        result["exact_match_shown"] = _mean([float(one.exact) for one in shown]) if shown else None
    return result


def pivot_report(scored: Sequence[Scored]) -> dict[str, Any]:
    """How often there was a candidate behind a comment and how often it was taken; latency."""
    times = [one.record.total_ms for one in scored]
    added = [one.record.pivot_ms for one in scored if one.record.pivot]
    return {
        "pivot_tried": sum(one.record.pivot != "" for one in scored),
        "pivot_taken": sum(one.record.pivot == "comment" for one in scored),
        "ms_p50": round(percentile(times, 0.5) or 0.0, 1),
        "ms_p90": round(percentile(times, 0.9) or 0.0, 1),
        "pivot_ms_p50": round(percentile(added, 0.5) or 0.0, 1),
    }


def compare(base: Sequence[Scored], other: Sequence[Scored], *, seed: int) -> dict[str, Any]:
    """The difference `other` - `base` on the same cases, with a paired, clustered interval.

    `pass_at_1` where the suite has it, `exact_match` elsewhere. `only_base` and `only_other` are
    the numbers of cases that one of the two alone has right.
    """
    pairs = [(float(_right(a)), float(_right(b))) for a, b in zip(base, other, strict=True)]
    gains = [b - a for a, b in pairs]
    low, high = cluster_interval(gains, [one.case.cluster for one in base], seed=seed)
    return {
        "difference": _mean(gains),
        "difference_low": round(low, 4),
        "difference_high": round(high, 4),
        "only_base": sum(gain < 0 for gain in gains),
        "only_other": sum(gain > 0 for gain in gains),
    }


def _right(one: Scored) -> bool:
    return one.exact if one.passed is None else one.passed


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def write_cases(path: Path, scored: Sequence[Scored]) -> None:
    """Write one JSON object per case, for paired comparisons and for reading the failures."""
    with path.open("w", encoding="utf-8") as file:
        for one in scored:
            row = {
                "case": one.case.case_id,
                "cluster": one.case.cluster,
                "before": one.case.text[: one.case.offset].rpartition("\n")[2],
                "gold": one.case.gold,
                "completion": one.completion,
                "shown": one.shown,
                "exact": one.exact,
                "passed": one.passed,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _cases_file(arguments: argparse.Namespace, variant: str) -> Path:
    path: Path = arguments.cases
    several = len(arguments.pivot or arguments.mode or ()) > 1
    return path.with_name(f"{path.stem}-{variant}{path.suffix}") if several else path


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print a report, or why there is none, for people or as one JSON object."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            print()
            print_result(value, as_json=False)
        else:
            print(f"{key:20} {value}")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", required=True, type=_suite, help=_NAMES)
    parser.add_argument("--limit", type=_positive, help="a seeded sample of so many cases")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, cursors and bootstrap")
    parser.add_argument("--data", type=Path, help=f"default: ${data.ENVIRONMENT_VARIABLE}")
    parser.add_argument("--as-shown", action="store_true", help="with a user's default policies")
    variants = parser.add_mutually_exclusive_group()
    variants.add_argument(
        "--pivot",
        nargs="+",
        type=Pivot,
        choices=list(Pivot),
        help="also write blocks behind a comment; several are compared with the first",
    )
    variants.add_argument(
        "--mode",
        nargs="+",
        type=Mode,
        choices=list(Mode),
        help="prompt layout instead of the suite's; several are compared with the first",
    )
    parser.add_argument("--model", help="a packaged model's name or a folder with weights")
    parser.add_argument("--threads", type=_positive, default=2, help="of the model (default 2)")
    parser.add_argument(
        "--processes", type=_positive, default=1, help="that share the cases (default 1)"
    )
    parser.add_argument("--cases", type=Path, metavar="FILE", help="write every case as JSON lines")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(given)


def _suite(text: str) -> str:
    kind, colon, _ = text.partition(":")
    if text not in SUITES and not (colon and kind in DRAWN):
        raise argparse.ArgumentTypeError(f"not one of {_NAMES}")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main(given: Sequence[str] | None = None, backend: Backend | None = None) -> int:
    """Run the command line; returns the exit status.

    Missing data is no failure (the suites are not part of the repository): the reason is
    printed under the key `skipped`.

    Args:
        given: arguments, those of the process by default.
        backend: a loaded model instead of `--model`.
    """
    arguments = _arguments(given)
    start = time.perf_counter()
    try:
        cases = load_suite(arguments.suite, arguments.data, arguments.limit, arguments.seed)
    except data.BenchmarkDataError as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        print_result({"suite": arguments.suite, "skipped": str(error)}, arguments.json)
        return 0
    try:
        model = backend or LocalBackend.load(find(arguments.model), threads=arguments.threads)
    except ModelError as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    result: dict[str, Any] = {}
    base: list[Scored] = []
    for variant in dict.fromkeys(arguments.pivot or arguments.mode or [Pivot.OFF]):
        pivot = variant if isinstance(variant, Pivot) else Pivot.OFF
        mode = variant if isinstance(variant, Mode) else None
        if arguments.processes > 1 and backend is None:
            scored = run_in_processes(cases, arguments, pivot, mode)
        else:
            scored = run_cases(
                model,
                cases,
                arguments.suite,
                as_shown=arguments.as_shown,
                progress=sys.stderr.isatty(),
                pivot=pivot,
                mode=mode,
            )
        if arguments.cases is not None:
            write_cases(_cases_file(arguments, variant.value), scored)
        of_variant = report(
            scored,
            suite=arguments.suite,
            model=model.model_id,
            seconds=time.perf_counter() - start,
            as_shown=arguments.as_shown,
            seed=arguments.seed,
        )
        if arguments.pivot is not None:
            of_variant |= {"pivot": variant.value, **pivot_report(scored)}
        if arguments.mode is not None:
            of_variant["mode"] = variant.value
        if not base:
            result, base = of_variant, scored
        else:
            of_variant |= compare(base, scored, seed=arguments.seed)
            result[variant.value] = of_variant
        start = time.perf_counter()
    print_result(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
