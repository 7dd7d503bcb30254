"""One ONNX Runtime session and the KV caches that it decodes into.

The graph writes keys and values in place: past and present are bound to the same buffers,
so a step copies nothing and rolling back is resetting a length.
"""

from __future__ import annotations

import contextlib
import mmap
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.errors import CacheError, PromptError, RunError, WeightsError
from models.registry import Manifest

Logits = NDArray[np.float32]

GRAPH = "model.onnx"
"""Name of the graph in a weights directory; its tensors lie beside it."""

MIN_ROWS = 2
"""A run of one token computes this many rows, the others for nothing.

The runtime multiplies a single row by a kernel of its own, which sums in another order; int8
rounding makes up to 0.3 of that in the logits. With two rows or more, logits do not depend on
how a text was cut into runs, to the bit: drafts and KV reuse cannot change a suggestion. It
costs 5 to 12 % of a run, and a guess in the second row earns more."""


class RunTerminatedError(Exception):
    """Another thread set `terminate` on the run's options; the cache is unchanged."""


def _int8_products_saturate() -> bool:
    """Whether this may be an x86 processor without VNNI, whose fast int8 kernel overflows.

    The exact kernel takes twice as long in prefill, so it is only asked for where needed.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return True


def session_options(threads: int) -> ort.SessionOptions:
    """How graphs are run here, with `threads` cores in every step."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; stderr belongs to the server's log
    # Spinning between the operators of a step is worth 40 % at two threads; it must end
    # with the step, or an idle editor would keep a core busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if _int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _lazy_zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros that take memory page by page as they are written, and give it back when dropped.

    NumPy's come from the C library, which fills memory with zeros once it has some to recycle.

    Raises:
        CacheError: the system has no memory left.
    """
    size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    try:
        if sys.platform == "win32":
            memory = mmap.mmap(-1, size)
        else:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise CacheError(f"no memory for a KV cache of {size} bytes: {error.strerror}") from error
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


class KVCache:
    """Keys and values of one token sequence, in buffers of the full context length.

    The buffers are virtual memory until a position is first used, so a short document costs
    little; nothing is ever filled ahead.

    Attributes:
        tokens: the tokens whose keys and values are held, in order.
        touched: how many positions were ever used; their memory stays.
        token_bytes: size of one position.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int]) -> None:
        """`shape` is `[1, kv_heads, capacity, head_dim]` of each buffer.

        Raises:
            CacheError: the system has no memory left.
        """
        self.tokens: list[int] = []
        self.touched = 0
        _, heads, _, width = shape
        self.token_bytes = 2 * layers * heads * width * np.dtype(np.float32).itemsize
        array = _lazy_zeros((2 * layers, *shape))
        names = [f"{layer}.{kind}" for layer in range(layers) for kind in "kv"]
        self._buffers = {
            name: ort.OrtValue.ortvalue_from_numpy(buffer)
            for name, buffer in zip(names, array, strict=True)
        }
        self._bindings: dict[ort.InferenceSession, ort.IOBinding] = {}

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self.touched * self.token_bytes

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` tokens; no data moves."""
        del self.tokens[length:]

    def binding(
        self, session: ort.InferenceSession, inputs: Mapping[str, ort.OrtValue]
    ) -> ort.IOBinding:
        """Every buffer as both past and present of `session`, and its scalar `inputs`.

        Sessions of the same model with other threads may go on with the same buffers.
        """
        binding = self._bindings.get(session)
        if binding is None:
            binding = self._bindings[session] = session.io_binding()
            for name, buffer in self._buffers.items():
                binding.bind_ortvalue_input(f"past.{name}", buffer)
                binding.bind_ortvalue_output(f"present.{name}", buffer)
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
        return binding


class _Tensor:
    """A numpy array and the OrtValue that views it: writing the array updates the input."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.array: NDArray[Any] = np.zeros(shape, dtype)
        self.value = ort.OrtValue.ortvalue_from_numpy(self.array)


class ModelSession:
    """Runs the decoding graph. One call at a time.

    Attributes:
        context_length: capacity of a KV cache in tokens.
        vocab_size: width of the logits.
        threads: cores that take part in every step.
    """

    def __init__(
        self,
        weights_dir: Path,
        manifest: Manifest,
        threads: int = 2,
        packed: Path | None = None,
    ) -> None:
        """Load the graph from `weights_dir`; `threads` cores take part in every step.

        Args:
            weights_dir: folder with the published graph.
            manifest: what is in it.
            threads: at least one.
            packed: folder with the same graph as `models.prepack` wrote it, to be used instead.

        Raises:
            WeightsError: the runtime cannot load the graph.
        """
        shape = manifest.architecture
        self.threads = threads
        self.context_length = manifest.context_length
        self.vocab_size = int(shape["vocab_size"])
        self._layers = int(shape["num_hidden_layers"])
        heads, head_dim = int(shape["num_key_value_heads"]), int(shape["head_dim"])
        self._kv_shape = (1, heads, self.context_length, head_dim)
        options = session_options(threads)
        path = (weights_dir if packed is None else packed) / GRAPH
        if packed is not None:
            # What was written is optimised already.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors derive from Exception directly
            raise WeightsError(f"cannot load {path}: {error}") from error
        self._past_length = _Tensor((1,), np.int32)
        self._total_length = _Tensor((1,), np.int32)
        self._logits_from = _Tensor((1,), np.int64)
        self._scalars = {
            "seqlens_k": self._past_length.value,
            "total_len": self._total_length.value,
            "logits_from": self._logits_from.value,
        }
        # The runtime remembers the shape of a bound output, so each count has its own.
        self._ids: dict[int, _Tensor] = {}
        self._logits: dict[int, _Tensor] = {}

    def new_cache(self) -> KVCache:
        """An empty cache that fits this model."""
        return KVCache(self._layers, self._kv_shape)

    def forward(
        self,
        cache: KVCache,
        ids: Sequence[int],
        n_logits: int = 1,
        run_options: ort.RunOptions | None = None,
    ) -> Logits:
        """Append `ids` to `cache` and return the logits of the last `n_logits` of them.

        Args:
            cache: made by `new_cache` of this session or another one of the model; unchanged when
                the run fails or is terminated.
            ids: at least one token.
            n_logits: 1..len(ids).
            run_options: setting its `terminate` from another thread stops the run.

        Returns:
            `[n_logits, vocab] float32`, a view that the next call overwrites.

        Raises:
            PromptError: the tokens do not fit the context or are not in the vocabulary.
            RunError: the runtime failed, for want of memory for instance.
            RunTerminatedError: `run_options.terminate` was set.
        """
        new, total = len(ids), len(cache.tokens) + len(ids)
        if not 0 < n_logits <= new:
            raise PromptError(f"logits of {n_logits} positions were asked for, {new} are new")
        if total > self.context_length:
            raise PromptError(f"{total} tokens do not fit a context of {self.context_length}")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise PromptError(f"token ids must be below {self.vocab_size}")
        # Padding lies behind the cache's end, where the next run overwrites it.
        padding = min(max(0, MIN_ROWS - new), self.context_length - total)
        rows, computed = new + padding, n_logits + padding
        if rows not in self._ids:
            self._ids[rows] = _Tensor((1, rows), np.int64)
        if computed not in self._logits:
            self._logits[computed] = _Tensor((1, computed, self.vocab_size), np.float32)
        tokens, logits = self._ids[rows], self._logits[computed]
        tokens.array[0] = [*ids, *[ids[-1]] * padding]
        self._past_length.array[0] = total + padding - 1
        self._total_length.array[0] = total + padding
        self._logits_from.array[0] = new - n_logits
        binding = cache.binding(self._session, self._scalars)
        binding.bind_ortvalue_input("input_ids", tokens.value)
        binding.bind_ortvalue_output("logits", logits.value)
        try:
            self._session.run_with_iobinding(binding, run_options)
        except Exception as error:  # the runtime's errors derive from Exception directly
            if run_options is not None and run_options.terminate:
                raise RunTerminatedError from None
            raise RunError(f"the model could not be run: {error}") from error
        cache.tokens.extend(ids)
        cache.touched = max(cache.touched, total + padding)
        view: Logits = logits.array[0, :n_logits]
        return view
