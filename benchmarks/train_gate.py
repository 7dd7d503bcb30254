"""Learn the weights of `completion.context.gate` on the tuning projects.

Usage: python -m benchmarks.train_gate [--limit N] [--seed K] [--samples FILE] [--json]

At N cursors (half of them random columns, half API calls) the gold rest of the line is scored
with and without retrieved code in front of the prompt, teacher-forced: one prefill each. A ridge
regression of the clipped gain on the gate's features gives the weights; five folds by file tell
what they are worth. Copy the printed weights into `completion/context/gate.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare
from benchmarks.data import BenchmarkDataError
from benchmarks.retrieval_cases import Project, Site, api_sites, line_sites, load_projects
from completion.context.gate import FEATURES
from completion.context.provider import retrieve
from completion.context.retrievers import Query
from completion.context.select import context_ids
from completion.prompt import Prompt, PromptBuilder
from completion.types import ContextPolicy, Mode, WindowPolicy
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find

CLIP = 3.0
"""Nats: one line that the context gives away must not outweigh a hundred others."""
RIDGE = 5.0
FOLDS = 5
_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Sample:
    """One cursor: the gate's features, and the gold line's log-probability both ways."""

    cluster: str
    kind: str
    features: dict[str, float]
    without: float
    with_context: float
    right_without: bool
    right_with: bool
    tokens: int

    @property
    def gain(self) -> float:
        """Clipped nats."""
        return max(-CLIP, min(CLIP, self.with_context - self.without))


class Scorer:
    """Scores gold lines behind prompts, with the window of a user at rest."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._window = WindowPolicy().rested()
        tokenizer = backend.tokenizer
        # A line ends with any token that begins with a line break, or where the suffix is met.
        ends = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i)[:1] == b"\n"]
        self._ends = np.array([*ends, tokenizer.special.eom, tokenizer.special.eot])

    def sample(self, site: Site, kind: str) -> Sample | None:
        """Both scores at a cursor; None where nothing is retrieved."""
        before, gold, after = site.parts
        tokenizer = self._backend.tokenizer
        plain = self._prompt(before, after)
        start = plain.ids.index(tokenizer.special.prefix) + 1
        window = tokenizer.decode(plain.ids[start:]) + plain.heal.decode("utf-8", "replace")
        suffix = tokenizer.decode(plain.ids[2 : start - 1])
        query = Query(site.path, before, suffix, len(window))
        found = retrieve(query, site.index(), tokenizer, ContextPolicy().tokens)
        if not found.picked:
            return None
        context = tuple(context_ids(found.picked))
        text = tokenizer.encode(window + gold.rstrip())
        known = tokenizer.encode(window)[:-1]
        same = 0
        while same < len(known) and known[same] == text[same]:
            same += 1
        head = plain.ids[:start]
        without, right = self._score(head, text, same)
        with_context, also = self._score([head[0], *context, *head[1:]], text, same)
        return Sample(
            site.cluster,
            kind,
            dict(found.features),
            without,
            with_context,
            right,
            also,
            len(context),
        )

    def _prompt(self, before: str, after: str) -> Prompt:
        builder = PromptBuilder(self._backend.tokenizer, self._backend.context_length)
        return builder.build(
            before,
            after,
            uri="",
            window=self._window,
            mode=Mode.JOINT,
            max_tokens=64,
        )

    def _score(self, head: list[int], text: list[int], same: int) -> tuple[float, bool]:
        """Log-probability of `text[same:]` and a line's end; whether each step is the likeliest."""
        session = self._backend.session
        cache, ids = session.new_cache(), [*head, *text]
        first = len(head) + same - 1
        for begin in range(0, first, _CHUNK):
            session.forward(cache, ids[begin : min(first, begin + _CHUNK)])
        logits = session.forward(cache, ids[first:], len(ids) - first).astype(np.float64)
        highest = logits.max(axis=1, keepdims=True)
        norm = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
        gold = np.array(text[same:])
        chosen = logits[np.arange(len(gold)), gold] - norm[:-1]
        end = logits[-1, self._ends] - highest[-1, 0]
        total = chosen.sum() + np.log(np.exp(end).sum()) + highest[-1, 0] - norm[-1]
        best = logits.argmax(axis=1)
        return float(total), bool((best[:-1] == gold).all() and best[-1] in self._ends)


def fit(samples: Sequence[Sample]) -> dict[str, float]:
    """Ridge regression of the gain; the bias is not shrunk."""
    values = np.array([[one.features[name] for name in FEATURES] for one in samples])
    gains = np.array([one.gain for one in samples])
    penalty = RIDGE * np.eye(len(FEATURES))
    penalty[0, 0] = 0.0
    weights = np.linalg.solve(values.T @ values + penalty, values.T @ gains)
    return dict(zip(FEATURES, map(float, weights), strict=True))


def held_out(samples: Sequence[Sample]) -> list[float]:
    """Gain that weights learned on the other files expect at each cursor."""
    names = sorted({one.cluster for one in samples})
    fold = {name: number % FOLDS for number, name in enumerate(names)}
    weights = [fit([one for one in samples if fold[one.cluster] != k]) for k in range(FOLDS)]
    return [
        sum(weights[fold[one.cluster]][name] * one.features[name] for name in FEATURES)
        for one in samples
    ]


def report(samples: Sequence[Sample]) -> dict[str, Any]:
    """Weights, and what gates of several strictness would have done on held-out folds."""
    expected = held_out(samples)
    table = []
    for least in (-9.0, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        kept = [one for one, gain in zip(samples, expected, strict=True) if gain >= least]
        table.append(
            {
                "least_gain": least,
                "retrieved_share": round(len(kept) / len(samples), 3),
                "gain_nats": round(sum(one.gain for one in kept) / len(samples), 4),
                "helped": sum(one.right_with and not one.right_without for one in kept),
                "harmed": sum(one.right_without and not one.right_with for one in kept),
            }
        )
    return {
        "n": len(samples),
        "em_none": round(sum(one.right_without for one in samples) / len(samples), 4),
        "em_always": round(sum(one.right_with for one in samples) / len(samples), 4),
        "weights": {name: round(value, 4) for name, value in fit(samples).items()},
        "gates": table,
    }


def collect(backend: LocalBackend, projects: list[Project], limit: int, seed: int) -> list[Sample]:
    """Score the cursors; a counter goes to standard error."""
    sites = [(site, "line") for site in line_sites(projects, limit - limit // 2, seed)]
    sites += [(site, "api") for site in api_sites(projects, limit // 2, seed)]
    scorer = Scorer(backend)
    samples = []
    for number, (site, kind) in enumerate(sites, start=1):
        if (sample := scorer.sample(site, kind)) is not None:
            samples.append(sample)
        if number % 20 == 0:
            print(f"{number}/{len(sites)}", file=sys.stderr, flush=True)
    return samples


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--limit", type=int, default=400, help="cursors (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the cursors")
    parser.add_argument("--folder", type=Path, default=prepare.CACHE / "tuning")
    parser.add_argument("--threads", type=int, default=2, help="of the model (default 2)")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="write them as JSON lines")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args(given)
    try:
        projects = load_projects(arguments.folder)
        backend = LocalBackend.load(find(None), threads=arguments.threads)
    except (BenchmarkDataError, ModelError) as error:
        print(f"benchmarks.train_gate: {error}", file=sys.stderr)
        return 1
    samples = collect(backend, projects, arguments.limit, arguments.seed)
    if arguments.samples is not None:
        rows = [{name: getattr(one, name) for name in Sample.__slots__} for one in samples]
        arguments.samples.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = report(samples)
    print(json.dumps(result, indent=None if arguments.json else 2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
