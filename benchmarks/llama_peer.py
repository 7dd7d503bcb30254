"""llama.cpp behind the interface of our engine, for side by side measurements.

Uses the C interface of `llama-cpp-python` directly: its Python class adds a tokenizer and a
sampler that would be measured as well.
"""

from __future__ import annotations

import ctypes
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from models.backend import GenerateRequest
from models.generate import Decoded, common_prefix_length, decode_greedily
from models.speculate import Drafter, Speculation
from models.tokenizer import Tokenizer

Logits = NDArray[np.float32]


_SEQUENCES = 3
"""KV caches at full context that our memory limit allows."""


class PeerError(Exception):
    """llama.cpp could not load the model or run it."""


@dataclass(frozen=True, slots=True)
class Flags:
    """How llama.cpp is run: its options that may make it faster on a CPU."""

    flash_attention: bool
    micro_batch: int
    kv_type: str
    repack: bool

    def having(self, name: str, value: bool | int | str) -> Flags:
        """These flags, one of them changed."""
        changed: dict[str, Any] = {name: value}
        return replace(self, **changed)


CHOICES: dict[str, tuple[bool | int | str, ...]] = {
    "repack": (False, True),
    "flash_attention": (True, False),
    "micro_batch": (512, 128),
    "kv_type": ("f16", "f32", "q8_0"),
}
"""What is tried, one after the other, before the fastest is measured."""
FIRST = Flags(flash_attention=True, micro_batch=512, kv_type="f16", repack=False)

_KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}


_BE_QUIET = llama.llama_log_callback(lambda level, text, data: None)


class LlamaSequence:
    """One token sequence in a llama.cpp context.

    Attributes:
        tokens: what its KV cache holds.
    """

    def __init__(
        self,
        path: Path,
        vocab_size: int,
        context: int,
        threads: int,
        flags: Flags,
        model: object = None,
    ) -> None:
        """Load the GGUF file at `path`, or share a loaded `model`.

        Raises:
            PeerError: llama.cpp refused the file or the flags.
        """
        llama.llama_log_set(_BE_QUIET, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.tokens: list[int] = []
        self._arguments = (path, vocab_size, context, threads, flags)
        self._vocab_size = vocab_size
        self._owner = model is None
        loading = llama.llama_model_default_params()
        loading.n_gpu_layers = 0
        loading.use_extra_bufts = flags.repack
        self._model = model or llama.llama_model_load_from_file(str(path).encode(), loading)
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

    def sibling(self) -> LlamaSequence:
        """Another sequence of the same model, with a KV cache of its own."""
        return LlamaSequence(*self._arguments, model=self._model)

    def close(self) -> None:
        """Return the memory; siblings must be closed before the first sequence."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        if self._owner:
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
    """Serves our requests with llama.cpp: same prompts, same decode loop, as many KV caches."""

    def __init__(self, sequence: LlamaSequence, tokenizer: Tokenizer, context: int) -> None:
        self._free = [sequence.sibling() for _ in range(_SEQUENCES)]
        self._by_key: OrderedDict[str, LlamaSequence] = OrderedDict()
        self._tokenizer = tokenizer
        self._context = context
        self._speculation = Speculation()

    def generate(self, request: GenerateRequest) -> tuple[Decoded, float]:
        """The text and the milliseconds that it took."""
        started = time.perf_counter()
        sequence, prompt = self._sequence_of(request.cache_key), request.prompt_ids
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

    def _sequence_of(self, key: str) -> LlamaSequence:
        """The sequence of a document, a free one, or that of the least recently used document."""
        sequence = self._by_key.pop(key, None)
        if sequence is None:
            sequence = self._free.pop() if self._free else self._by_key.popitem(last=False)[1]
        self._by_key[key] = sequence
        return sequence
