"""Learning from a teacher's distribution as well as from the text.

Hinton, Vinyals and Dean, 2015: the loss is a mean of the cross-entropy of the text and that of the
teacher's distribution over the next token, at temperature 1. In a small run (dev/LOG.md,
2026-11-28) it is worth .026 bits a character at equal tokens, with a teacher 2.7 times as large.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # the field's usual name
from torch import Tensor, nn

from models.errors import WeightsError
from models.training.model import IGNORE, Model

TEACHER_SHARE = 0.5
"""Of the loss; the rest is the text's."""


class Distilled(nn.Module):
    """A student's loss beside a frozen teacher.

    Args:
        student: learns.
        teacher: of the same vocabulary; moved to the student's device.

    Raises:
        WeightsError: the vocabularies differ in size.
    """

    def __init__(self, student: Model, teacher: Model) -> None:
        super().__init__()
        sizes = teacher.config.vocab_size, student.config.vocab_size
        if sizes[0] != sizes[1]:
            raise WeightsError(f"the teacher has {sizes[0]} tokens, the model {sizes[1]}")
        device = student.embed_tokens.weight.device
        self.student, self.teacher = student, teacher.to(device).requires_grad_(False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of `targets` `[batch, length]`; `IGNORE` is left out."""
        with torch.no_grad():
            known = self.teacher.logits(ids).float().softmax(-1)
        logits = self.student.logits(ids).float()
        counted = targets != IGNORE
        taught = (
            F.cross_entropy(logits.flatten(0, 1), known.flatten(0, 1), reduction="none")
            * counted.flatten()
        )
        text = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        return TEACHER_SHARE * taught.sum() / counted.sum() + (1 - TEACHER_SHARE) * text
