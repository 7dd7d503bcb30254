"""The in-process backend: our ONNX session, one KV cache per document."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import onnxruntime as ort

from models.backend import GenerateRequest, GenerateResult, StopReason
from models.errors import ModelError, PromptError, TokenizerError
from models.generate import Decoded, Logits, common_prefix_length, decode_greedily, interrupted
from models.registry import Manifest, load_manifest, verify
from models.session import KVCache, ModelSession, RunTerminatedError
from models.speculate import Drafter, Speculation
from models.tokenizer import Tokenizer

_PREFILL_CHUNK = 128
"""Tokens per prefill run: bounds the memory of attention scores (12 MB for 88 M at 2048).

64 is 8 % slower; 256 is no faster and takes 17 MB more."""
_WATCHED_TOKENS = 32
"""Shorter prefills end sooner than the watchdog would notice a cancellation."""
_WATCH_INTERVAL = 0.003
_SPEED_RATE = 0.2
_SPEED_TOKENS = 64
"""Only prefill runs of at least this many tokens tell what a token costs."""
_LINE_RUNS = 8
"""Runs that decode a line; more than half of all lines need fewer."""
KV_LIMIT = 80_000_000
"""Bytes: two windows as they are read at rest, or four after cursor jumps. The server then stays
below 350 MB."""

_Job = tuple[GenerateRequest, ort.RunOptions, threading.Event]


class _Watchdog:
    """Terminates a running prefill when its request is cancelled or late.

    One thread for all requests, asleep whenever no prefill is watched.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        thread = threading.Thread(
            target=self._work, args=(self._jobs,), name="prefill-watchdog", daemon=True
        )
        thread.start()
        weakref.finalize(self, self._jobs.put, None)

    @staticmethod
    def _work(jobs: SimpleQueue[_Job | None]) -> None:
        while job := jobs.get():
            request, options, done = job
            while not done.wait(_WATCH_INTERVAL):
                if interrupted(request):
                    options.terminate = True
                    break

    @contextmanager
    def watch(self, request: GenerateRequest) -> Iterator[ort.RunOptions]:
        """Options for runs that must end when `request` does; not to be used afterwards."""
        options, done = ort.RunOptions(), threading.Event()
        self._jobs.put((request, options, done))
        try:
            yield options
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


class LocalBackend:
    """Implements `models.backend.Backend` on an rq8 weights directory."""

    def __init__(
        self,
        manifest: Manifest,
        session: ModelSession,
        tokenizer: Tokenizer,
        kv_limit: int = KV_LIMIT,
    ) -> None:
        """Use `load`; this takes parts that are already verified."""
        self._manifest = manifest
        self._session = session
        self._tokenizer = tokenizer
        self._caches = _Caches(session, kv_limit)
        self._watchdog = _Watchdog()
        self._speculation = Speculation()
        self._prefill_token_seconds: float | None = None

    @classmethod
    def load(cls, weights_dir: Path, threads: int = 2, kv_limit: int = KV_LIMIT) -> LocalBackend:
        """Load and verify a model.

        Args:
            weights_dir: directory with `manifest.json` (see `models.registry.find`).
            threads: cores that take part in every step.
            kv_limit: bytes of all KV caches together (88 M: 25 kB a token).

        Raises:
            WeightsError: a file is missing, altered or cannot be run.
            TokenizerError: the tokenizer cannot be read or does not fit the weights.
        """
        manifest = load_manifest(weights_dir)
        with ThreadPoolExecutor(1) as pool:  # hashing and loading each take about 100 ms
            verified = pool.submit(verify, weights_dir)
            try:
                session = ModelSession(weights_dir, manifest, threads)
                file = weights_dir / manifest.tokenizer
                tokenizer = Tokenizer.from_file(file, manifest.template)
            except ModelError:
                verified.result()  # an altered file is the better explanation
                raise
            verified.result()
        if (
            tokenizer.special_texts != manifest.special_ids
            or tokenizer.vocab_size > session.vocab_size
        ):
            raise TokenizerError(f"the tokenizer in {weights_dir} does not fit the weights")
        return cls(manifest, session, tokenizer, kv_limit)

    @property
    def model_id(self) -> str:
        """Name of the model from its manifest."""
        return self._manifest.name

    @property
    def context_length(self) -> int:
        """Prompt plus generated tokens may not exceed this."""
        return self._session.context_length

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
        return self._session

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV caches in use."""
        return self._caches.nbytes

    def warm_up(self) -> None:
        """A few runs: first-time allocations are done, and the machine's speed is known."""
        cache = self._session.new_cache()
        ids = [self._tokenizer.special.eot] * _SPEED_TOKENS
        self._session.forward(cache, ids)
        self._session.forward(cache, ids[:1])
        self._timed_prefill(cache, ids, 1, None)
        for _ in range(3):
            self._timed_run(cache, ids[:1], 1)

    def affordable_tokens(self, seconds: float) -> int | None:
        """See `Backend`; from the speed of the latest runs."""
        token, run = self._prefill_token_seconds, self._speculation.step_seconds
        if token is None or run is None:
            return None
        return max(0, int((seconds - _LINE_RUNS * run) / token))

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
        """
        prompt = request.prompt_ids
        if not prompt:
            raise PromptError("the prompt is empty")
        if len(prompt) > self.context_length:
            raise PromptError(
                f"the prompt has {len(prompt)} tokens, the model takes {self.context_length}"
            )
        started = time.perf_counter()
        most = min(len(prompt) + request.max_tokens + 1, self.context_length)
        cache = self._caches.get(request.cache_key, most)
        # The last prompt token always runs again: its logits choose the first new one.
        reused = min(common_prefix_length(cache.tokens, prompt), len(prompt) - 1)
        cache.truncate(reused)
        drafter = None
        if request.drafts and request.max_tokens:
            drafter = Drafter(self._speculation, self._tokenizer, prompt, request.max_tokens)
        first = self._prefill(cache, request, drafter)
        prefilled = time.perf_counter()
        if isinstance(first, StopReason):
            decoded = Decoded("", (), (), first)
        else:

            def step(ids: Sequence[int], back: int) -> Logits:
                cache.truncate(len(cache.tokens) - back)
                return self._timed_run(cache, ids, len(ids))

            room = self.context_length - len(prompt)
            decoded = decode_greedily(request, self._tokenizer, first, step, room, drafter)
            if drafter is not None:
                drafter.finish()
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

    def _timed_run(self, cache: KVCache, ids: Sequence[int], n_logits: int) -> Logits:
        started = time.perf_counter()
        logits = self._session.forward(cache, ids, n_logits)
        self._speculation.observe_run(len(ids), time.perf_counter() - started)
        return logits

    def _timed_prefill(
        self,
        cache: KVCache,
        ids: Sequence[int],
        n_logits: int,
        options: ort.RunOptions | None,
    ) -> Logits:
        started = time.perf_counter()
        logits = self._session.forward(cache, ids, n_logits, run_options=options)
        if len(ids) >= _SPEED_TOKENS:
            sample = (time.perf_counter() - started) / len(ids)
            before = self._prefill_token_seconds
            rate = _SPEED_RATE if before is not None else 1.0
            self._prefill_token_seconds = (1 - rate) * (before or 0.0) + rate * sample
        return logits

    def _prefill(
        self, cache: KVCache, request: GenerateRequest, drafter: Drafter | None
    ) -> Logits | StopReason:
        """Run what `cache` lacks of the prompt; chunks that ended stay in it if interrupted.

        Returns:
            Logits behind the prompt and behind each token of the first draft.
        """
        prompt = request.prompt_ids
        if len(prompt) - len(cache.tokens) <= _WATCHED_TOKENS:
            if stop := interrupted(request):
                return stop
            chunk = prompt[len(cache.tokens) :]
            draft = self._first_draft(request, drafter, len(chunk))
            return self._timed_run(cache, chunk + draft, 1 + len(draft))
        with self._watchdog.watch(request) as options:
            while True:
                if stop := interrupted(request):
                    return stop
                start = len(cache.tokens)
                chunk = prompt[start : start + _PREFILL_CHUNK]
                last = start + len(chunk) == len(prompt)
                draft = self._first_draft(request, drafter, len(chunk)) if last else []
                try:
                    logits = self._timed_prefill(cache, chunk + draft, 1 + len(draft), options)
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
