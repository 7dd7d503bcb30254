"""Logits of a published shape in PyTorch float32, with one matrix in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from models.export.quantize import Float32

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@torch.inference_mode()
def reference_logits(
    config: Mapping[str, Any], parameters: Mapping[str, Float32], ids: Sequence[int]
) -> NDArray[np.float32]:
    """What transformers computes: logits `[len(ids), vocab]`.

    Every module gets its weights when it is called and loses them behind it, so a model runs
    whose float32 weights no memory here would hold.

    Args:
        config: of an architecture with rotary positions, as in `config.json`.
        parameters: by their names in a checkpoint; the head may be the embedding.
        ids: one sequence.
    """
    settings = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    # Its frequencies are no parameters: they are computed where it is made.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=settings)
    for name, module in model.named_modules():
        if own := dict(module.named_parameters(prefix=name, recurse=False)):
            _lend(module, list(own), parameters)
    logits: NDArray[np.float32] = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return np.asarray(logits)


def _lend(module: torch.nn.Module, names: Sequence[str], parameters: Mapping[str, Float32]) -> None:
    """Give `module` its parameters for the time of each call."""

    def fill(called: torch.nn.Module, _: object) -> None:
        for name in names:
            source = name if name in parameters or name != _HEAD else _EMBEDDING
            weight = torch.from_numpy(np.array(parameters[source]))
            own = name.rpartition(".")[2]
            called.register_parameter(own, torch.nn.Parameter(weight, requires_grad=False))

    def empty(called: torch.nn.Module, *_: object) -> None:
        called.to("meta")

    module.register_forward_pre_hook(fill)
    module.register_forward_hook(empty)
