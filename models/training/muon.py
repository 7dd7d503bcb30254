"""Muon: momentum whose update is orthogonalised by Newton-Schulz iterations.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. For the weight matrices
of the hidden layers; embeddings and norms go to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalise(gradient: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix, approximately; `[..., rows, columns]`, in bfloat16."""
    a, b, c = _COEFFICIENTS
    x: Tensor = gradient.bfloat16()
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay.

    Matrices of one shape are stacked, so that a step is a few batched products.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the parameters' `.grad`."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, matrices in shapes.items():
                gradients = torch.stack([p.grad.float() for p in matrices if p.grad is not None])
                buffers = []
                for p in matrices:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p, dtype=torch.float32)
                    buffers.append(state["momentum"])
                torch._foreach_lerp_(buffers, list(gradients), 1 - group["momentum"])
                update = orthogonalise(
                    gradients.lerp(torch.stack(buffers), group["momentum"])
                ).float()
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(update), alpha=-group["lr"] * scale)
