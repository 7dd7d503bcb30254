"""A backend that answers from a script, and a small real tokenizer."""

from __future__ import annotations

import json
from collections import deque
from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from models.backend import GenerateRequest, GenerateResult, StopReason
from models.errors import ModelError
from models.tokenizer import Tokenizer

_SPECIAL = ["eot", "suffix", "prefix", "middle", "eom", "file", "repo", "pad"]


@cache
def small_tokenizer() -> Tokenizer:
    """Byte-level BPE over this repository's own completion sources; lines stay separate."""
    library = tokenizers.Tokenizer(models.BPE())
    pattern = tokenizers.Regex(r"\n[ \t]*| ?\d| ?[A-Za-z_]+| ?[^\sA-Za-z_\d]+|[ \t]+|\s+")
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[f"<|{name}|>" for name in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    source = Path(__file__).parents[2] / "completion" / "types.py"
    library.train_from_iterator([source.read_text(encoding="utf-8")], trainer)
    return Tokenizer(json.loads(library.to_str()))


class ScriptedBackend:
    """Answers requests in turn with the given texts (or raises the given errors)."""

    model_id = "scripted"
    languages = frozenset({"python"})

    def __init__(
        self,
        *answers: str | ModelError,
        stop: StopReason = StopReason.NEWLINE,
        logprobs: tuple[float, ...] = (-0.1, -0.1),
        context_length: int = 512,
    ) -> None:
        self.answers = deque(answers)
        self.stop = stop
        self.logprobs = logprobs
        self.context_length = context_length
        self.tokenizer = small_tokenizer()
        self.affordable: int | None = None
        self.requests: list[GenerateRequest] = []
        self.forgotten: list[str] = []
        self.renamed: list[tuple[str, str]] = []

    def generate(self, request: GenerateRequest) -> GenerateResult:
        self.requests.append(request)
        if request.max_tokens == 0:
            stop = StopReason.CANCELLED if request.cancel.is_set() else StopReason.MAX_TOKENS
            return GenerateResult("", (), (), stop, len(request.prompt_ids), 0, 1.0, 0.0)
        answer = self.answers.popleft()
        if isinstance(answer, ModelError):
            raise answer
        cancelled = request.cancel.is_set()
        return GenerateResult(
            text="" if cancelled else answer,
            token_ids=tuple(self.tokenizer.encode(request.heal.decode() + answer)),
            logprobs=self.logprobs,
            stop=StopReason.CANCELLED if cancelled else self.stop,
            prompt_tokens=len(request.prompt_ids),
            reused_tokens=0,
            prefill_ms=1.0,
            decode_ms=2.0,
            drafted_tokens=4,
            accepted_tokens=3,
        )

    def forget(self, cache_key: str) -> None:
        self.forgotten.append(cache_key)

    def holds(self, cache_key: str) -> bool:
        return cache_key not in self.forgotten

    def rename(self, cache_key: str, new_key: str) -> None:
        self.renamed.append((cache_key, new_key))

    def affordable_tokens(self, seconds: float) -> int | None:
        return self.affordable
