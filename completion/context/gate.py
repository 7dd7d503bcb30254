"""Whether retrieved code is worth reading: its expected gain against what it costs.

The gain is in nats of the rest of the line, by a linear model of a few features; the weights come
from `python -m benchmarks.train_gate` (the tuning projects; dev/LOG.md, 2026-11-25).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from completion.context.retrievers import Candidate, Query
from completion.context.select import Picked
from completion.context.words import identifiers

FEATURES = (
    "bias",
    "similar",
    "bm25",
    "definitions",
    "same_file",
    "agreement",
    "line_known",
    "word_found",
    "after_dot",
    "in_call",
    "line_start",
    "short_prefix",
)
WEIGHTS: Mapping[str, float] = {
    "bias": -0.8346,
    "similar": 0.5223,
    "bm25": 0.3997,
    "definitions": 0.1005,
    "same_file": 0.4464,
    "agreement": -0.2784,
    "line_known": 0.0649,
    "word_found": 0.0531,
    "after_dot": 0.1316,
    "in_call": -0.1881,
    "line_start": 0.3755,
    "short_prefix": 0.9932,
}
LEAST_GAIN = 0.1
"""Nats; expected gains below this are noise of the gate itself."""
NATS_PER_MS = 0.0005
"""Price of reading: what 100 ms of waiting must gain at least."""
_WORD = re.compile(r"[A-Za-z_]\w*$")


def features(
    query: Query, proposed: Mapping[str, Sequence[Candidate]], picked: Sequence[Picked]
) -> dict[str, float]:
    """Values of `FEATURES`, each about 0..1."""
    best = {name: found[0].score for name, found in proposed.items() if found}
    line = query.line
    known = {word for one in picked for word in identifiers(one.chunk.text)}
    words = identifiers(line)
    partial = match[0] if (match := _WORD.search(line)) else ""
    return {
        "bias": 1.0,
        "similar": best.get("similar", 0.0),
        "bm25": min(2.0, best.get("bm25", 0.0) / 50),
        "definitions": best.get("definitions", 0.0),
        "same_file": best.get("same_file", 0.0),
        "agreement": len(picked[0].sources) / 3 if picked else 0.0,
        "line_known": sum(word in known for word in words) / len(words) if words else 0.0,
        "word_found": float(bool(partial) and any(w.startswith(partial) for w in known)),
        "after_dot": float(line[: len(line) - len(partial)].endswith(".")),
        "in_call": float(line.count("(") > line.count(")")),
        "line_start": float(not line.strip()),
        "short_prefix": 1 / (1 + math.log1p(len(query.prefix) / 1000)),
    }


def expected_gain(values: Mapping[str, float], weights: Mapping[str, float] = WEIGHTS) -> float:
    """Nats that retrieved code is expected to gain."""
    return sum(weights[name] * values[name] for name in weights)


def affordable(gain: float, picked: Sequence[Picked], ms_per_token: float | None) -> list[Picked]:
    """The chunks, best first, whose share of the gain pays for reading them; none below the least.

    Args:
        gain: expected of all of them together; each is credited with its share of the scores.
        picked: best first.
        ms_per_token: what a token costs on this machine; None charges nothing.
    """
    if gain < LEAST_GAIN:
        return []
    total = sum(one.score for one in picked)
    price = NATS_PER_MS * (ms_per_token or 0.0)
    kept: list[Picked] = []
    for one in picked:
        if gain * one.score / total < price * len(one.ids):
            break
        kept.append(one)
    return kept
