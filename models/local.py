"""The in-process backend: our ONNX session, one KV cache per document."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import onnxruntime as ort

from models.backend import GenerateRequest, GenerateResult, StopReason
from models.contention import Contention, usable_cores
from models.errors import ModelError, PromptError, TokenizerError, WeightsError
from models.generate import Decoded, Logits, common_prefix_length, decode_greedily, interrupted
from models.prepack import PackedWeights
from models.registry import Manifest, load_manifest, verify, verify_file
from models.session import KVCache, ModelSession, RunTerminatedError
from models.speculate import Drafter, Speculation
from models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_PREFILL_CHUNK = 128
"""Tokens per prefill run: bounds the memory of attention scores (12 MB for 88 M at 2048).

64 is 8 % slower; 256 is no faster and takes 17 MB more."""
_AHEAD_CHUNK = 32
"""The same for work ahead. A run can be ended between two of its operators, and a request waits for
that: the largest operator over 128 tokens takes one thread 10 ms without AVX-512."""
_STEP_TOKENS = 32
"""Up to so many, a prefill takes as long as a decode step does, and is counted as one."""
_SPEED_RATE = 0.2
_SPEED_TOKENS = 64
"""Only prefill runs of at least this many tokens tell what a token costs."""
_LINE_RUNS = 8
"""Runs that decode a line; more than half of all lines need fewer."""
KV_LIMIT = 80_000_000
"""Bytes: two windows as they are read at rest, or four after cursor jumps."""

_Job = tuple[float, ort.RunOptions, threading.Event]


class _DeadlineTimer:
    """Terminates the run of a model in the middle when its request is late.

    One thread for all requests, asleep while nothing is timed.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        thread = threading.Thread(
            target=self._work, args=(self._jobs,), name="model-deadline", daemon=True
        )
        thread.start()
        weakref.finalize(self, self._jobs.put, None)

    @staticmethod
    def _work(jobs: SimpleQueue[_Job | None]) -> None:
        while job := jobs.get():
            deadline, options, done = job
            if not done.wait(max(0.0, deadline - time.perf_counter())):
                options.terminate = True

    @contextmanager
    def watch(self, deadline: float | None, options: ort.RunOptions) -> Iterator[None]:
        """Terminate runs with `options`, not to be used afterwards, at `deadline`."""
        if deadline is None:
            yield
            return
        done = threading.Event()
        self._jobs.put((deadline, options, done))
        try:
            yield
        finally:
            done.set()


class _Caches:
    """KV caches by key under one memory limit; the least recently used give way."""

    def __init__(self, session: ModelSession, limit: int) -> None:
        self._session = session
        self._limit = limit
        self._by_key: OrderedDict[str, KVCache] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, tokens: int) -> KVCache:
        """The cache of `key`, which will hold `tokens`; others make room for them.

        The limit is exceeded only by what a single cache needs.
        """
        with self._lock:
            cache = self._by_key.pop(key, None) or self._session.new_cache()
            needed = max(cache.touched, tokens) * cache.token_bytes
            held = sum(other.nbytes for other in self._by_key.values())
            while self._by_key and held + needed > self._limit:
                held -= self._by_key.popitem(last=False)[1].nbytes
            self._by_key[key] = cache
            return cache

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._by_key

    def drop(self, key: str) -> None:
        with self._lock:
            self._by_key.pop(key, None)

    def rename(self, key: str, new_key: str) -> None:
        with self._lock:
            if cache := self._by_key.pop(key, None):
                self._by_key[new_key] = cache
                self._by_key.move_to_end(new_key)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(cache.nbytes for cache in self._by_key.values())


_Parts = tuple[ModelSession, Tokenizer]


def _verified(check: Callable[[], object], load: Callable[[], _Parts]) -> _Parts:
    """Check and load side by side: hashing and loading take about 100 ms each."""
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(check)
        try:
            parts = load()
        except ModelError:
            verified.result()  # an altered file is the better explanation
            raise
        verified.result()
    return parts


class _Lane:
    """A session with one number of threads, and what its runs were seen to cost.

    Attributes:
        prefill_token_seconds: moving average, None before the first long run.
    """

    def __init__(self, session: ModelSession) -> None:
        self.session = session
        self.speculation = Speculation()
        self.prefill_token_seconds: float | None = None

    def run(
        self,
        cache: KVCache,
        ids: Sequence[int],
        n_logits: int,
        options: ort.RunOptions | None = None,
    ) -> Logits:
        """A decode step or a short prefill."""
        started = time.perf_counter()
        logits = self.session.forward(cache, ids, n_logits, run_options=options)
        self.speculation.observe_run(len(ids), time.perf_counter() - started)
        return logits

    def prefill(
        self,
        cache: KVCache,
        ids: Sequence[int],
        n_logits: int,
        options: ort.RunOptions | None = None,
    ) -> Logits:
        """A chunk of a long prompt."""
        started = time.perf_counter()
        logits = self.session.forward(cache, ids, n_logits, run_options=options)
        if len(ids) >= _SPEED_TOKENS:
            sample = (time.perf_counter() - started) / len(ids)
            before = self.prefill_token_seconds
            rate = _SPEED_RATE if before is not None else 1.0
            self.prefill_token_seconds = (1 - rate) * (before or 0.0) + rate * sample
        return logits

    def affordable_tokens(self, seconds: float) -> int | None:
        """Prompt tokens that can be read in time to decode a line as well."""
        token, run = self.prefill_token_seconds, self.speculation.step_seconds
        if token is None or run is None:
            return None
        return max(0, int((seconds - _LINE_RUNS * run) / token))


class LocalBackend:
    """Implements `models.backend.Backend` on an rq8 weights directory."""

    def __init__(
        self,
        manifest: Manifest,
        session: ModelSession,
        tokenizer: Tokenizer,
        kv_limit: int = KV_LIMIT,
        open_packed: Callable[[int], ModelSession] | None = None,
    ) -> None:
        """Use `load`; this takes parts that are already verified.

        `open_packed` opens the same prepacked model with another number of threads, for times
        when other processes need the cores; None where that would take the weights' memory again.
        """
        self._manifest = manifest
        self._full = self._lane = _Lane(session)
        self._single: _Lane | None = None
        self._open_packed = open_packed
        self._contention = Contention()
        self._tokenizer = tokenizer
        self._caches = _Caches(session, kv_limit)
        self._timer = _DeadlineTimer()

    @classmethod
    def load(
        cls,
        weights_dir: Path,
        threads: int = 2,
        kv_limit: int = KV_LIMIT,
        packed_cache: Path | None = None,
    ) -> LocalBackend:
        """Load and verify a model.

        Args:
            weights_dir: directory with `manifest.json` (see `models.registry.find`).
            threads: cores that take part in every step, unless other processes need them.
            kv_limit: bytes of all KV caches together (88 M: 25 kB a token).
            packed_cache: folder of prepacked weights (see `models.prepack`); used where there
                are any for this model and machine.

        Raises:
            WeightsError: a file is missing, altered or cannot be run.
            TokenizerError: the tokenizer cannot be read or does not fit the weights.
        """
        manifest = load_manifest(weights_dir)
        threads = min(threads, usable_cores())  # more would wait for each other
        packed = None if packed_cache is None else PackedWeights(manifest, packed_cache)
        open_packed: Callable[[int], ModelSession] | None = None
        parts: _Parts | None = None

        def load_from(folder: Path | None) -> _Parts:
            session = ModelSession(weights_dir, manifest, threads, folder)
            file = weights_dir / manifest.tokenizer
            return session, Tokenizer.from_file(file, manifest.template)

        if packed is not None and packed.exists:
            folder = packed.folder
            try:
                parts = _verified(packed.verify, lambda: load_from(folder))
            except WeightsError as error:
                logger.warning("%s; the original is used", error)
                packed.drop()
            except TokenizerError:
                verify_file(weights_dir, manifest, manifest.tokenizer)  # a better explanation
                raise
            else:
                verify_file(weights_dir, manifest, manifest.tokenizer)
                open_packed = partial(ModelSession, weights_dir, manifest, packed=folder)
        if parts is None:
            parts = _verified(lambda: verify(weights_dir), lambda: load_from(None))
        session, tokenizer = parts
        if (
            tokenizer.special_texts != manifest.special_ids
            or tokenizer.vocab_size > session.vocab_size
        ):
            raise TokenizerError(f"the tokenizer in {weights_dir} does not fit the weights")
        return cls(manifest, session, tokenizer, kv_limit, open_packed)

    @property
    def model_id(self) -> str:
        """Name of the model from its manifest."""
        return self._manifest.name

    @property
    def context_length(self) -> int:
        """Prompt plus generated tokens may not exceed this."""
        return self._full.session.context_length

    @property
    def languages(self) -> frozenset[str]:
        """LSP language ids that the model card lists."""
        return frozenset(self._manifest.languages)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that fits the weights."""
        return self._tokenizer

    @property
    def session(self) -> ModelSession:
        """The loaded graph, for measurements below the level of requests."""
        return self._full.session

    @property
    def packed(self) -> bool:
        """Whether the weights are mapped from the prepacked file that processes share."""
        return self._open_packed is not None

    @property
    def threads(self) -> int:
        """Of the latest request that somebody waited for."""
        return self._lane.session.threads

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV caches in use."""
        return self._caches.nbytes

    def warm_up(self) -> None:
        """A few runs: first-time allocations are done, and the machine's speed is known."""
        lane = self._lane
        cache = lane.session.new_cache()
        ids = [self._tokenizer.special.eot] * _SPEED_TOKENS
        lane.session.forward(cache, ids)
        lane.session.forward(cache, ids[:1])
        lane.prefill(cache, ids, 1)
        for _ in range(3):
            lane.run(cache, ids[:1], 1)

    def affordable_tokens(self, seconds: float) -> int | None:
        """See `Backend`; from the speed of the latest runs."""
        return self._lane.affordable_tokens(seconds)

    def _choose_lane(self, ahead: bool) -> _Lane:
        """Fewer threads where others need the cores: waiting for them costs more.

        Others are processes and, for work ahead, the threads that take in what is typed.
        """
        most, spared = self._full.session.threads, int(ahead)
        if self._open_packed is None or self._contention.threads(most, spared=spared) == most:
            return self._full
        if self._single is None:
            try:
                self._single = _Lane(self._open_packed(1))
            except WeightsError as error:
                logger.warning("cannot run with one thread: %s", error)
                self._open_packed = None
                return self._full
        return self._single

    def holds(self, cache_key: str) -> bool:
        """See `Backend`; caches give way to others under the memory limit."""
        return cache_key in self._caches

    def forget(self, cache_key: str) -> None:
        """Drop the KV cache of a closed document; its memory is returned."""
        self._caches.drop(cache_key)

    def rename(self, cache_key: str, new_key: str) -> None:
        """The KV cache of `cache_key`, if any, takes the place of that of `new_key`."""
        self._caches.rename(cache_key, new_key)

    def generate(self, request: GenerateRequest) -> GenerateResult:
        """Decode greedily; blocks. One call at a time per backend.

        `max_tokens=0` only prefills, ahead of a request with the same prompt.

        Raises:
            PromptError: empty prompt, one longer than the context, or an unknown id.
            CacheError, RunError: no memory; the next request is served.
        """
        prompt = request.prompt_ids
        if not prompt:
            raise PromptError("the prompt is empty")
        if len(prompt) > self.context_length:
            raise PromptError(
                f"the prompt has {len(prompt)} tokens, the model takes {self.context_length}"
            )
        started = time.perf_counter()
        lane = self._choose_lane(request.ahead)
        if not request.ahead:
            self._lane = lane
        most = min(len(prompt) + request.max_tokens + 1, self.context_length)
        cache = self._caches.get(request.cache_key, most)
        # The last prompt token always runs again: its logits choose the first new one.
        reused = min(common_prefix_length(cache.tokens, prompt), len(prompt) - 1)
        cache.truncate(reused)
        drafter = None
        if request.drafts and request.max_tokens:
            drafter = Drafter(lane.speculation, self._tokenizer, prompt, request.max_tokens)
        options = ort.RunOptions()

        def terminate() -> None:
            options.terminate = True

        def step(ids: Sequence[int], back: int) -> Logits | None:
            cache.truncate(len(cache.tokens) - back)
            try:
                return lane.run(cache, ids, len(ids), options)
            except RunTerminatedError:
                return None

        with request.cancel.acting(terminate), self._timer.watch(request.deadline, options):
            first = self._prefill(lane, cache, request, drafter, options)
            prefilled = time.perf_counter()
            if isinstance(first, StopReason):
                decoded = Decoded("", (), (), first)
            else:
                room = self.context_length - len(prompt)
                decoded = decode_greedily(request, self._tokenizer, first, step, room, drafter)
                if drafter is not None and decoded.stop is not StopReason.CANCELLED:
                    drafter.finish()
                if decoded.stop is StopReason.CANCELLED and not request.cancel.is_set():
                    # The loop knows only that its run was ended; it was for the deadline.
                    decoded = replace(decoded, stop=StopReason.DEADLINE)
        return GenerateResult(
            text=decoded.text,
            token_ids=decoded.token_ids,
            logprobs=decoded.logprobs,
            stop=decoded.stop,
            prompt_tokens=len(prompt),
            reused_tokens=reused,
            prefill_ms=(prefilled - started) * 1e3,
            decode_ms=(time.perf_counter() - prefilled) * 1e3,
            drafted_tokens=0 if drafter is None else drafter.proposed,
            accepted_tokens=0 if drafter is None else drafter.accepted,
        )

    def _prefill(
        self,
        lane: _Lane,
        cache: KVCache,
        request: GenerateRequest,
        drafter: Drafter | None,
        options: ort.RunOptions,
    ) -> Logits | StopReason:
        """Run what `cache` lacks of the prompt; chunks that ended stay in it if interrupted.

        Returns:
            Logits behind the prompt and behind each token of the first draft.
        """
        prompt = request.prompt_ids
        long = len(prompt) - len(cache.tokens) > _STEP_TOKENS
        run = lane.prefill if long else lane.run
        size = _AHEAD_CHUNK if request.ahead else _PREFILL_CHUNK
        while True:
            if stop := interrupted(request):
                return stop
            start = len(cache.tokens)
            chunk = prompt[start : start + size]
            last = start + len(chunk) == len(prompt)
            draft = self._first_draft(request, drafter, len(chunk)) if last else []
            try:
                logits = run(cache, chunk + draft, 1 + len(draft), options)
            except RunTerminatedError:
                continue  # the reason is found above
            if last:
                return logits

    def _first_draft(
        self, request: GenerateRequest, drafter: Drafter | None, fed: int
    ) -> list[int]:
        """A draft read along with the prompt's last tokens: the first token costs no run."""
        if drafter is None:
            return []
        limit = min(request.max_tokens - 1, self.context_length - len(request.prompt_ids))
        lines = request.max_lines or None
        return drafter.propose(limit, unhealed=request.heal, lines=lines, fed=fed)
