"""The mean of several checkpoints of one shape, as a checkpoint.

python -m models.training.average CHECKPOINT CHECKPOINT... [--cursors FILE] --out DIRECTORY

Each is a Hugging Face checkpoint or a folder of shipped weights. A run and the weights that it
began from lie in one basin of the loss; between them it is lower than at either (Izmailov et al.,
2018, Wortsman et al., 2022; measured in dev/LOG.md, 2026-11-28). With `--cursors` of the tuning
projects (`models.training.cursors`) the shares are chosen, in quarters: each mix is probed and
printed, and the one with the fewest bits a character is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path

import torch
from tokenizers import Tokenizer

from models.errors import WeightsError
from models.training.cursors import Cursor, read_cursors
from models.training.model import Model, ModelConfig, save_checkpoint
from models.training.probe import Probe
from models.training.train import start_model

_TOKENIZER = "tokenizer.json"
_PARTS = 4


def average(models: Sequence[Model], shares: Sequence[float] | None = None) -> Model:
    """The mean of all parameters, a new model; equal `shares` by default, which sum to 1.

    Raises:
        WeightsError: there is no model, or their shapes differ.
    """
    if not models:
        raise WeightsError("nothing to average")
    first, *others = models
    for other in others:
        if other.config != first.config:
            raise WeightsError(f"cannot average {first.config} and {other.config}")
    weights = torch.tensor(shares or [1 / len(models)] * len(models))
    states = [model.state_dict() for model in models]
    mean = deepcopy(first)
    mean.load_state_dict(
        {n: torch.tensordot(weights, torch.stack([s[n] for s in states]), 1) for n in states[0]}
    )
    return mean


def divisions(count: int, parts: int = _PARTS) -> Iterator[tuple[float, ...]]:
    """All ways to share `parts` equal parts of one whole among `count`."""
    for division in product(range(parts + 1), repeat=count):
        if sum(division) == parts:
            yield tuple(own / parts for own in division)


def choose(
    models: Sequence[Model], tokenizer: Tokenizer, cursors: list[Cursor], device: str
) -> tuple[float, ...]:
    """The shares whose mix has the fewest bits a character at the cursors; prints every probe."""
    probe = Probe(tokenizer, cursors)
    bits: dict[tuple[float, ...], float] = {}
    for shares in divisions(len(models)):
        result = probe.run(average(models, shares).to(device).eval(), device)
        print(json.dumps({"shares": shares, **result}), flush=True)
        bits[shares] = result["bits_per_char"]
    return min(bits, key=lambda shares: bits[shares])


def _tokenizer(checkpoints: Sequence[Path]) -> Path | None:
    found = (directory / _TOKENIZER for directory in checkpoints)
    return next((path for path in found if path.exists()), None)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.training.average")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--cursors", type=Path, help="choose the shares at these cursors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the mean")
    options = parser.parse_args(arguments)
    tokenizer, shares = _tokenizer(options.checkpoints), None
    try:
        if options.out.resolve() in [directory.resolve() for directory in options.checkpoints]:
            raise WeightsError(f"cannot write the mean over {options.out}")
        models = [start_model(directory, ModelConfig()) for directory in options.checkpoints]
        if options.cursors:
            if tokenizer is None:
                raise WeightsError(f"no {_TOKENIZER} in any of the checkpoints")
            shares = choose(
                models,
                Tokenizer.from_file(str(tokenizer)),
                read_cursors(options.cursors),
                "cuda" if torch.cuda.is_available() else "cpu",
            )
        mean = average(models, shares)
    except WeightsError as error:
        print(f"models.training.average: {error}", file=sys.stderr)
        return 1
    save_checkpoint(mean, options.out)
    if tokenizer is not None:
        shutil.copy(tokenizer, options.out / _TOKENIZER)
    if shares is not None:
        print(json.dumps({"chosen": shares}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
