"""What repository context gains, and what it costs.

Usage: python -m benchmarks.retrieval [--limit N] [--api N] [--ablate N] [--cases FILE] [--json]

N line cursors and half as many API cursors (a call to something that another file of the project
defines) in the validation projects, each completed with and without context by the serving
engine; the gate chooses between the two. Every retriever alone and left out is measured at the
first `--ablate` cursors of either kind. See `benchmarks.retrieval_cases` for what the index holds.
Rows in FILE are not run again, so that a long run may be taken up where it ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import harness, prepare
from benchmarks.cases import line_policy
from benchmarks.data import BenchmarkDataError
from benchmarks.retrieval_cases import Site, api_sites, line_sites, load_projects
from benchmarks.stats import cluster_interval, percentile
from completion.context.gate import LEAST_GAIN, expected_gain
from completion.context.provider import ContextProvider, retrieve
from completion.context.retrievers import RETRIEVERS, Query, Retriever
from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    ContextPolicy,
    Policies,
    ShapePolicy,
    Suggestion,
    TriggerPolicy,
    WindowPolicy,
)
from models.backend import Backend
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find

KINDS = ("line", "api")
ALWAYS = ContextPolicy(enabled=True, gated=False).rested()
_TYPED = 6
"""Characters typed after each jump of the latency part."""
_JUMPS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One cursor under every arm.

    Attributes:
        case: project, path, line and column.
        kind: `line` or `api`.
        cluster: the file.
        features: what the gate sees; empty where nothing was found.
        right: exact match by arm: `none`, `always`, `only:NAME`, `without:NAME`.
        query_ms: what retrieving took.
        tokens: of the context.
    """

    case: str
    kind: str
    cluster: str
    features: Mapping[str, float]
    right: Mapping[str, bool]
    query_ms: float
    tokens: int

    @property
    def gated(self) -> bool:
        """Exact match under the gate."""
        opened = bool(self.features) and expected_gain(self.features) >= LEAST_GAIN
        return self.right["always" if opened else "none"]


def complete(
    backend: Backend, site: Site, retrievers: Mapping[str, Retriever] | None
) -> tuple[bool, int]:
    """Whether the engine's line is the gold one, and the tokens of context it got."""
    before, gold, after = site.parts
    context = None
    if retrievers is not None:
        context = ContextProvider(site.find, backend.tokenizer, retrievers)
    engine = CompletionEngine(backend, context)
    policies = Policies(
        window=WindowPolicy().rested(),
        trigger=TriggerPolicy(enabled=False),
        decode=line_policy(),
        shape=ShapePolicy(enabled=False),
        confidence=ConfidencePolicy(min_logprob=None),
        context=ContextPolicy() if context is None else ALWAYS,
    )
    request = CompletionRequest(before + after, len(before), "bench:///case", policies=policies)
    outcome = engine.complete(request)
    engine.forget(request.uri)
    inserted = outcome.insert if isinstance(outcome, Suggestion) else ""
    return inserted.strip("\n").rstrip() == gold.rstrip(), outcome.record.context_tokens


def run_site(backend: Backend, site: Site, kind: str, *, ablate: bool) -> Row:
    """Complete one cursor under every arm."""
    before, _, after = site.parts
    began = time.perf_counter()
    found = retrieve(
        Query(site.path, before, after[:1500]), site.index(), backend.tokenizer, ALWAYS.tokens
    )
    query_ms = (time.perf_counter() - began) * 1000
    right, tokens = {"none": complete(backend, site, None)[0]}, 0
    right["always"] = right["none"]
    if found.picked:
        right["always"], tokens = complete(backend, site, RETRIEVERS)
    if ablate:
        for name in RETRIEVERS:
            rest = {other: RETRIEVERS[other] for other in RETRIEVERS if other != name}
            own = bool(found.proposed[name])
            right[f"only:{name}"] = (
                complete(backend, site, {name: RETRIEVERS[name]})[0] if own else right["none"]
            )
            right[f"without:{name}"] = complete(backend, site, rest)[0] if own else right["always"]
    features = dict(found.features) if found.picked else {}
    case = f"{site.cluster}:{site.line + 1}:{site.column + 1}"
    return Row(case, kind, site.cluster, features, right, query_ms, tokens)


def summary(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Exact match by arm, paired intervals by file, and how often context did harm."""
    result: dict[str, Any] = {f"n_{kind}": len(_of(rows, kind)) for kind in KINDS}
    for kind in KINDS:
        if not (own := _of(rows, kind)):
            continue
        clusters = [row.cluster for row in own]
        result[f"{kind}_em_none"] = _share(row.right["none"] for row in own)
        result[f"{kind}_em_always"] = _share(row.right["always"] for row in own)
        result[f"{kind}_em_gated"] = _share(row.gated for row in own)
        gains = [float(row.gated) - float(row.right["none"]) for row in own]
        low, high = cluster_interval(gains, clusters, seed=seed)
        result[f"{kind}_gain_low"], result[f"{kind}_gain_high"] = round(low, 4), round(high, 4)
    ablated = [row for row in rows if len(row.right) > 2]
    arms = sorted({arm for row in ablated for arm in row.right} | {"none", "always"})
    result["n_ablated"] = len(ablated)
    result["retrievers"] = {arm: _share(row.right[arm] for row in ablated) for arm in arms}
    result["harmed_share"] = _share(row.right["none"] and not row.gated for row in rows)
    result["harmed_share_always"] = _share(
        row.right["none"] and not row.right["always"] for row in rows
    )
    result["retrieved_share"] = _share(
        bool(row.features) and expected_gain(row.features) >= LEAST_GAIN for row in rows
    )
    query = percentile([row.query_ms for row in rows], 0.95)
    result["retrieve_p95_ms"] = None if query is None else round(query, 1)
    return result


def latency(backend: Backend, sites: Sequence[Site]) -> dict[str, float | None]:
    """Cursor jumps with context and the keystrokes behind them, with and without.

    The gate stands open: what is measured is what a user pays where context is used.
    """
    jumps: dict[bool, list[float]] = {True: [], False: []}
    keys: dict[bool, list[float]] = {True: [], False: []}
    for site in sites:
        before, gold, after = site.parts
        for with_context in (False, True):
            provider = ContextProvider(site.find, backend.tokenizer)
            engine = CompletionEngine(backend, provider)
            policies = Policies(
                trigger=TriggerPolicy(enabled=False),
                confidence=ConfidencePolicy(min_logprob=None),
                context=replace(ALWAYS, enabled=with_context, jump_tokens=160),
            )
            for typed in range(min(_TYPED, len(gold)) + 1):
                text = before + gold[:typed]
                request = CompletionRequest(
                    text + after, len(text), "bench:///t", policies=policies
                )
                times = keys if typed else jumps
                times[with_context].append(engine.complete(request).record.total_ms)
            engine.forget("bench:///t")
    if not keys[True]:
        return {"added_p50_ms": None, "jump_p50_ms": None, "jump_p50_ms_none": None}
    added = statistics.median(keys[True]) - statistics.median(keys[False])
    return {
        "added_p50_ms": round(added, 1),
        "jump_p50_ms": round(statistics.median(jumps[True]), 1),
        "jump_p50_ms_none": round(statistics.median(jumps[False]), 1),
    }


def read_rows(path: Path | None) -> dict[str, Row]:
    """Rows of an earlier run by case and kind."""
    if path is None or not path.exists():
        return {}
    rows = (Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())
    return {f"{row.kind} {row.case}": row for row in rows}


def _of(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.kind == kind]


def _share(values: Iterator[bool]) -> float | None:
    flags = list(values)
    return round(sum(flags) / len(flags), 4) if flags else None


def _run(backend: Backend, arguments: argparse.Namespace) -> list[Row]:
    projects = load_projects(arguments.folder)
    lines = line_sites(projects, arguments.limit, arguments.seed)
    calls = api_sites(projects, arguments.api or arguments.limit // 2, arguments.seed)
    known, rows = read_rows(arguments.cases), []
    work = [(site, "line", n) for n, site in enumerate(lines)]
    work += [(site, "api", n) for n, site in enumerate(calls)]
    # Both kinds from the start: a run that is cut short has some of each.
    work.sort(key=lambda item: item[2] / (len(lines) if item[1] == "line" else len(calls)))
    for done, (site, kind, number) in enumerate(work, start=1):
        key = f"{kind} {site.cluster}:{site.line + 1}:{site.column + 1}"
        row = known.get(key)
        if row is None:
            row = run_site(backend, site, kind, ablate=number < arguments.ablate)
            if arguments.cases is not None:
                with arguments.cases.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
        if done % 20 == 0:
            print(f"{done}/{len(work)}", file=sys.stderr, flush=True)
    return rows


def main(given: Sequence[str] | None = None, backend: Backend | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        given: arguments, those of the process by default.
        backend: a loaded model instead of `--model`.
    """
    parser = harness.parser(__doc__)
    parser.add_argument("--limit", type=int, default=2000, help="line cursors (default 2000)")
    parser.add_argument("--api", type=int, help="API cursors; half the limit by default")
    parser.add_argument("--ablate", type=int, default=100, help="cursors of each kind (100)")
    parser.add_argument("--folder", type=Path, default=prepare.CACHE / "validation")
    parser.add_argument("--cases", type=Path, metavar="FILE", help="rows, read and written")
    arguments = parser.parse_args(given)
    try:
        model = backend or LocalBackend.load(find(arguments.model), threads=arguments.threads)
        rows = _run(model, arguments)
        sites = line_sites(load_projects(arguments.folder), _JUMPS, arguments.seed + 1)
    except (BenchmarkDataError, ModelError) as error:
        print(f"benchmarks.retrieval: {error}", file=sys.stderr)
        return 1
    result = summary(rows, arguments.seed) | latency(model, sites[: arguments.limit])
    harness.report(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
