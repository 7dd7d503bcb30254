"""Trained checkpoints of every architecture, made once when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """A function from an architecture's name to its checkpoint directory."""
    from benchmarks.trained import QWEN, foreign_tokenizer, train

    made: dict[str, Path] = {}
    tokenizer = foreign_tokenizer(QWEN)

    def checkpoint(kind: str) -> Path:
        if kind not in made:
            made[kind] = train(kind, tokenizer, tmp_path_factory.mktemp(kind))
        return made[kind]

    return checkpoint
