"""How nearly imported models of each architecture do what PyTorch does.

Usage: python -m benchmarks.agreement [KIND ...] [--json]

Trains a tiny checkpoint of each architecture on real code (two minutes for all), imports it as
`snowcoder models import` does, and compares with PyTorch in float32 on code that it has not seen:

- `greedy_tokens`: of 256 tokens, how many come before the first that float32 weights choose
  otherwise;
- `top1_float`, `top1_8`, `top1_4`: share of 12,800 tokens behind which the first choice is the
  same, by bits; `nats_8`, `nats_4`: what rounding costs a token, in nats.

Needs the `export` extra. The exit status is 1 where greedy tokens differ.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.trained import CONFIGS, LENGTH, QWEN, foreign_tokenizer, held_out, train
from models.export.importer import import_checkpoint
from models.export.packing import Precision
from models.export.verify import (
    QuantizedSequencer,
    ReferenceSequencer,
    Sequencer,
    compare_logits,
)
from models.tokenizer import Tokenizer

GREEDY = 256
_PROMPT = 64
_SEQUENCES = 100


def greedy(sequencer: Sequencer, prompt: Sequence[int], count: int) -> list[int]:
    """`count` tokens that the model continues `prompt` with, each the likeliest."""
    sequencer.restart()
    logits = sequencer.append(prompt, 1)
    ids: list[int] = []
    for _ in range(count):
        ids.append(int(logits[-1].argmax()))
        logits = sequencer.append([ids[-1]], 1)
    return ids


def measure(checkpoint: Path, library: Path) -> dict[str, Any]:
    """Import a checkpoint with 32, 8 and 4 bits and compare each; see the module for the keys.

    Args:
        checkpoint: of `benchmarks.trained`.
        library: folder for the imports.
    """
    reference = ReferenceSequencer(checkpoint)
    exact = import_checkpoint(checkpoint, library, "float", Precision.FLOAT)
    tokenizer = Tokenizer.from_file(library / "float" / exact.tokenizer, exact.template)
    ids = tokenizer.encode(held_out())
    ours = greedy(QuantizedSequencer(library / "float"), ids[:_PROMPT], GREEDY)
    theirs = greedy(reference, ids[:_PROMPT], GREEDY)
    pairs = zip(ours, theirs, strict=True)
    differs = (at for at, (one, other) in enumerate(pairs) if one != other)
    result: dict[str, Any] = {"greedy_tokens": next(differs, GREEDY)}
    starts = range(0, _SEQUENCES * LENGTH, LENGTH)
    sequences = [ids[start : start + LENGTH] for start in starts]
    result["tokens"] = sum(map(len, sequences))
    for name, precision in (("float", None), ("8", Precision.RQ8), ("4", Precision.Q4)):
        if precision is not None:
            import_checkpoint(checkpoint, library, name, precision)
        found = compare_logits(QuantizedSequencer(library / name), reference, sequences)
        result[f"top1_{name}"] = round(found["top1_agreement"], 4)
        if precision is not None:
            result[f"nats_{name}"] = round(found["nll_delta"], 5)
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(sorted(CONFIGS)))
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(given)
    if unknown := set(options.kinds) - set(CONFIGS):
        parser.error(f"no architecture is called {', '.join(sorted(unknown))}")
    results: dict[str, dict[str, Any]] = {}
    tokenizer = foreign_tokenizer(QWEN)
    for kind in options.kinds or sorted(CONFIGS):
        with tempfile.TemporaryDirectory(prefix="snowcoder-agreement-") as folder:
            checkpoint = train(kind, tokenizer, Path(folder))
            results[kind] = measure(checkpoint, Path(folder) / "library")
        if not options.json:
            print(kind, *(f"{key}={value}" for key, value in results[kind].items()), flush=True)
    if options.json:
        print(json.dumps(results))
    return int(any(one["greedy_tokens"] < GREEDY for one in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
