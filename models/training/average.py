"""The mean of several checkpoints of one shape, as a checkpoint.

python -m models.training.average CHECKPOINT CHECKPOINT... --out DIRECTORY

Each is a Hugging Face checkpoint or a folder of shipped weights. A run and the weights that it
began from lie in one basin of the loss; between them it is lower than at either (Izmailov et al.,
2018, Wortsman et al., 2022; measured in dev/LOG.md, 2026-11-28).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from models.errors import WeightsError
from models.training.model import Model, ModelConfig, save_checkpoint
from models.training.train import start_model

_TOKENIZER = "tokenizer.json"


def average(models: Sequence[Model]) -> Model:
    """The mean of all parameters, in the first model's place.

    Raises:
        WeightsError: there is no model, or their shapes differ.
    """
    if not models:
        raise WeightsError("nothing to average")
    first, *others = models
    for other in others:
        if other.config != first.config:
            raise WeightsError(f"cannot average {first.config} and {other.config}")
    states = [model.state_dict() for model in models]
    mean = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
    first.load_state_dict(mean)
    return first


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.training.average")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder of the mean")
    options = parser.parse_args(arguments)
    try:
        if options.out.resolve() in [directory.resolve() for directory in options.checkpoints]:
            raise WeightsError(f"cannot write the mean over {options.out}")
        mean = average([start_model(directory, ModelConfig()) for directory in options.checkpoints])
    except WeightsError as error:
        print(f"models.training.average: {error}", file=sys.stderr)
        return 1
    save_checkpoint(mean, options.out)
    for directory in options.checkpoints:
        if (directory / _TOKENIZER).exists():
            shutil.copy(directory / _TOKENIZER, options.out / _TOKENIZER)
            break
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
