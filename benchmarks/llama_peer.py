"""llama.cpp behind the interface of our engine, for side by side measurements.

Uses the C interface of `llama-cpp-python` directly: its Python class adds a tokenizer and a
sampler that would be measured as well.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from models.backend import GenerateRequest
from models.generate import Decoded, common_prefix_length, decode_greedily
from models.speculate import Drafter, Speculation
from models.tokenizer import Tokenizer

Logits = NDArray[np.float32]


class PeerError(Exception):
    """llama.cpp could not load the model or run it."""


@dataclass(frozen=True, slots=True)
class Flags:
    """How llama.cpp is run: its options that may make it faster on a CPU."""

    flash_attention: bool
    micro_batch: int
    kv_type: str
    repack: bool


def candidate_flags() -> Iterator[Flags]:
    """Every combination that is tried before the fastest one is measured."""
    for flash, micro_batch, kv_type, repack in itertools.product(
        (True, False), (128, 512), ("f16", "f32", "q8_0"), (True, False)
    ):
        if flash or kv_type != "q8_0":  # a quantised V cache needs flash attention
            yield Flags(flash, micro_batch, kv_type, repack)


_KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}


_BE_QUIET = llama.llama_log_callback(lambda level, text, data: None)


class LlamaSequence:
    """One token sequence in a llama.cpp context.

    Attributes:
        tokens: what its KV cache holds.
    """

    def __init__(
        self, path: Path, vocab_size: int, context: int, threads: int, flags: Flags
    ) -> None:
        """Load the GGUF file at `path`.

        Raises:
            PeerError: llama.cpp refused the file or the flags.
        """
        llama.llama_log_set(_BE_QUIET, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.tokens: list[int] = []
        self._vocab_size = vocab_size
        loading = llama.llama_model_default_params()
        loading.n_gpu_layers = 0
        loading.use_extra_bufts = flags.repack
        self._model = llama.llama_model_load_from_file(str(path).encode(), loading)
        if not self._model:
            raise PeerError(f"llama.cpp cannot load {path}")
        options = llama.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, context, flags.micro_batch
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = int(flags.flash_attention)
        options.type_k = options.type_v = _KV_TYPES[flags.kv_type]
        self._context = llama.llama_init_from_model(self._model, options)
        if not self._context:
            raise PeerError(f"llama.cpp cannot run with {flags}")
        self._batch = llama.llama_batch_init(context, 0, 1)

    def close(self) -> None:
        """Return the memory."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` tokens."""
        if length < len(self.tokens):
            memory = llama.llama_get_memory(self._context)
            llama.llama_memory_seq_rm(memory, 0, length, -1)
            del self.tokens[length:]

    def append(self, ids: Sequence[int], n_logits: int) -> Logits:
        """Append tokens; logits `[n_logits, vocab]` of the last ones, valid until the next call.

        Raises:
            PeerError: llama.cpp failed.
        """
        batch, past, first = self._batch, len(self.tokens), len(ids) - n_logits
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = past + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index >= first
        if status := llama.llama_decode(self._context, batch):
            raise PeerError(f"llama_decode returned {status}")
        self.tokens += ids
        rows = llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(rows, (n_logits, self._vocab_size))


def system_info() -> str:
    """What llama.cpp says about how it was built."""
    info: bytes = llama.llama_print_system_info()
    return info.decode().strip(" |")


class LlamaPeer:
    """Serves our requests with llama.cpp: same prompts, same decode loop, its KV cache reused."""

    def __init__(self, sequence: LlamaSequence, tokenizer: Tokenizer, context: int) -> None:
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._context = context
        self._speculation = Speculation()

    def generate(self, request: GenerateRequest) -> tuple[Decoded, float]:
        """The text and the milliseconds that it took."""
        started = time.perf_counter()
        sequence, prompt = self._sequence, request.prompt_ids
        sequence.truncate(min(common_prefix_length(sequence.tokens, prompt), len(prompt) - 1))
        drafter = None
        if request.drafts:
            drafter = Drafter(self._speculation, self._tokenizer, prompt, request.max_tokens)
        logits = sequence.append(prompt[len(sequence.tokens) :], 1)

        def step(ids: Sequence[int], back: int) -> Logits:
            sequence.truncate(len(sequence.tokens) - back)
            began = time.perf_counter()
            rows = sequence.append(ids, len(ids))
            self._speculation.observe_run(len(ids), time.perf_counter() - began)
            return rows

        room = self._context - len(prompt)
        decoded = decode_greedily(request, self._tokenizer, logits, step, room, drafter)
        return decoded, (time.perf_counter() - started) * 1e3
