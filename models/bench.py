"""What a model costs on this machine: time to load, to read, to write, and memory."""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from models.local import LocalBackend

_CHUNK = 128
_STEPS = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians.

    Attributes:
        load_s: seconds to load and verify.
        prefill_ms: milliseconds per token read, in chunks of 128.
        token_ms: milliseconds per token written, behind `prompt_tokens`.
        resident_mb: megabytes of memory of the whole process, None where that is not known.
    """

    load_s: float
    prompt_tokens: int
    prefill_ms: float
    token_ms: float
    resident_mb: float | None


def _resident_mb() -> float | None:
    if sys.platform != "linux":
        return None
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def bench(weights_dir: Path, threads: int, prompt_tokens: int = 512) -> Cost:
    """Load a model and time it; the machine should have nothing else to do.

    Raises:
        ModelError: it cannot be loaded.
    """
    started = time.perf_counter()
    backend = LocalBackend.load(weights_dir, threads=threads)
    load = time.perf_counter() - started
    backend.warm_up()
    length = min(prompt_tokens, backend.context_length - _STEPS) // _CHUNK * _CHUNK
    text = "def add(first, second):\n    return first + second\n\n\n"
    ids = backend.tokenizer.encode(text)
    ids = (ids * (length // len(ids) + 1))[:length]
    session, cache = backend.session, backend.session.new_cache()
    reads, writes = [], []
    for start in range(0, length, _CHUNK):
        began = time.perf_counter()
        session.forward(cache, ids[start : start + _CHUNK])
        reads.append((time.perf_counter() - began) / _CHUNK)
    for token in ids[:_STEPS]:
        began = time.perf_counter()
        session.forward(cache, [token])
        writes.append(time.perf_counter() - began)
    return Cost(
        load,
        length,
        statistics.median(reads) * 1e3,
        statistics.median(writes) * 1e3,
        _resident_mb(),
    )
