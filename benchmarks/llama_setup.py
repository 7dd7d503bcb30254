"""Finds the flags with which llama.cpp is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.llama_peer import (
    CHOICES,
    FIRST,
    Flags,
    LlamaPeer,
    LlamaSequence,
    PeerError,
    system_info,
)
from benchmarks.model_calls import Call
from models.export.gguf import write_gguf
from models.registry import load_manifest
from models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Peer:
    """llama.cpp, loaded with its best flags; `failed` are those that do not work here."""

    sequence: LlamaSequence
    flags: Flags
    failed: tuple[Flags, ...]
    context: int

    @property
    def system_info(self) -> str:
        """What llama.cpp says about how it was built."""
        return system_info()

    def generate(
        self, tokenizer: Tokenizer, *, drafts: bool
    ) -> Callable[[Call], tuple[tuple[int, ...], float]]:
        """Serves recorded calls."""
        peer = LlamaPeer(self.sequence, tokenizer, self.context)

        def generate(call: Call) -> tuple[tuple[int, ...], float]:
            decoded, milliseconds = peer.generate(replace(call.request, drafts=drafts))
            return decoded.token_ids, milliseconds

        return generate


@dataclass(frozen=True, slots=True)
class _Trial:
    path: Path
    vocab_size: int
    context: int
    threads: int
    ids: tuple[int, ...]

    def load(self, flags: Flags) -> LlamaSequence:
        return LlamaSequence(self.path, self.vocab_size, self.context, self.threads, flags)

    def score(self, flags: Flags) -> float:
        """Seconds of a prefill of 512 times those of 16 decode steps behind it, best of two."""
        sequence = self.load(flags)
        prefill, decode = [], []
        for _ in range(2):
            sequence.truncate(0)
            started = time.perf_counter()
            sequence.append(self.ids[:512], 1)
            prefill.append(time.perf_counter() - started)
            started = time.perf_counter()
            for token in self.ids[512:528]:
                sequence.append([token], 1)
            decode.append(time.perf_counter() - started)
        return min(prefill) * min(decode)


def _score_apart(trial: _Trial, flags: Flags) -> float | None:
    """In a process of its own: some builds crash with some flags on some processors."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(trial.score, flags).result()
        except (BrokenProcessPool, PeerError):
            return None


def fastest(weights: Path, folder: Path, threads: int, ids: Sequence[int]) -> Peer:
    """llama.cpp on the weights of `weights`, with the best of `CHOICES`.

    Args:
        weights: an rq8 weights directory.
        folder: where the GGUF file is written.
        threads: for every step.
        ids: at least 528 token ids.

    Raises:
        PeerError: llama.cpp does not run.
    """
    manifest = load_manifest(weights)
    path = folder / "model.gguf"
    write_gguf(weights, path)
    vocab_size, context = int(manifest.architecture["vocab_size"]), manifest.context_length
    trial = _Trial(path, vocab_size, context, threads, tuple(ids))
    scores: dict[Flags, float] = {}
    failed: list[Flags] = []
    best = FIRST
    for name, values in CHOICES.items():
        for value in values:
            flags = best.having(name, value)
            if flags in scores or flags in failed:
                continue
            score = _score_apart(trial, flags)
            if score is None:
                failed.append(flags)
            else:
                scores[flags] = score
        if not scores:
            raise PeerError(f"llama.cpp does not run: {failed}")
        best = min(scores, key=lambda flags: scores[flags])
    return Peer(trial.load(best), best, tuple(failed), context)
