"""One engine, one thread: loads it, feeds it one request at a time, answers the newest.

Knows nothing of LSP. The engine blocks, so it lives in a thread of its own; everything
else here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from completion.types import CompletionRequest, Hidden, HiddenReason, Outcome, Record, Source

logger = logging.getLogger(__name__)

RECENT = 2000
"""How many requests `stats` remembers."""
REST_S = 0.15
"""After an answer and so long without another request, the engine works ahead."""


class Engine(Protocol):
    """What the session needs of `completion.engine.CompletionEngine`."""

    def complete(self, request: CompletionRequest) -> Outcome:
        """Blocks; looks at `request.cancel`."""
        ...

    def prepare(self, request: CompletionRequest) -> None:
        """Work ahead at the place of an answered request. Blocks; looks at `request.cancel`."""
        ...

    def accepted(self, suggestion_id: str) -> None:
        """The user took a suggestion."""
        ...

    def forget(self, uri: str) -> None:
        """A document was closed."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine ready to serve, and how to ask for the memory of its KV caches in bytes."""

    engine: Engine
    kv_bytes: Callable[[], int]


class Session:
    """Serves one client.

    Args:
        load: makes the engine; called once, in the session's thread.
        on_failure: told the error, on the event loop, if loading fails. From then on
            requests are hidden.
    """

    def __init__(self, load: Callable[[], Loaded], on_failure: Callable[[Exception], None]) -> None:
        self._load = load
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._loaded: Loaded | None = None
        self._loaded_at = 0.0
        self._current: _Pending | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._preparing = threading.Event()
        self._requests = 0
        self._model_calls = 0
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def start(self) -> None:
        """Begin to load. Requests made meanwhile wait in the thread's queue."""
        loop = asyncio.get_running_loop()
        self._thread.submit(self._load_in_thread, loop)

    def close(self) -> None:
        """Stop what runs and wait for it."""
        if self._current is not None:
            self._current.cancel.set()
        self._end_rest()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def complete(self, request: CompletionRequest) -> Outcome | None:
        """The engine's outcome; None if a newer call superseded this one.

        A newer call ends the older one at once, whatever the thread is still doing.
        """
        if self._current is not None:
            self._current.supersede()
        self._end_rest()
        loop = asyncio.get_running_loop()
        pending = _Pending(request.cancel, loop.create_future())
        self._current = pending
        job = loop.run_in_executor(self._thread, self._complete_in_thread, request)
        self._requests += 1
        try:
            either: set[asyncio.Future[Any]] = {job, pending.superseded}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            request.cancel.set()
            job.cancel()
            raise
        finally:
            if self._current is pending:
                self._current = None
        if pending.superseded.done():
            job.cancel()
            return None
        self._rest = loop.call_later(REST_S, self._prepare, request)
        return job.result()

    async def accepted(self, suggestion_id: str) -> None:
        """Tell the engine that a suggestion was taken."""
        await self._call(lambda engine: engine.accepted(suggestion_id))

    async def forget(self, uri: str) -> None:
        """Tell the engine that a document was closed."""
        self._end_rest()
        await self._call(lambda engine: engine.forget(uri))

    def _prepare(self, request: CompletionRequest) -> None:
        self._preparing = threading.Event()
        ahead = replace(request, cancel=self._preparing)
        self._thread.submit(self._prepare_in_thread, ahead)

    def _end_rest(self) -> None:
        """The user goes on: the engine is free within milliseconds."""
        if self._rest is not None:
            self._rest.cancel()
        self._preparing.set()

    def stats(self) -> dict[str, Any]:
        """Counts and the last requests' stage times (milliseconds), for benchmarks."""
        kv_bytes = self._loaded.kv_bytes() if self._loaded else 0
        return {
            "requests": self._requests,
            "model_calls": self._model_calls,
            "kv_mb": round(kv_bytes / 1e6, 3),
            "last": list(self._recent),
        }

    # In the thread ---------------------------------------------------------------------

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._loaded = self._load()
            self._loaded_at = time.perf_counter()
        except Exception as error:
            logger.exception("the model could not be loaded")
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._on_failure, error)

    def _complete_in_thread(self, request: CompletionRequest) -> Outcome:
        outcome = self._outcome(request)
        if isinstance(outcome, Hidden):
            logger.debug("hidden: %s (%s)", outcome.reason, outcome.detail)
        self._model_calls += outcome.record.source is Source.MODEL
        self._recent.append(_summary(request, outcome))
        return outcome

    def _prepare_in_thread(self, request: CompletionRequest) -> None:
        if self._loaded is None or request.cancel.is_set():
            return
        try:
            self._loaded.engine.prepare(request)
        except Exception:
            logger.exception("working ahead in %s failed", request.uri)

    def _outcome(self, request: CompletionRequest) -> Outcome:
        if request.cancel.is_set():
            return Hidden(HiddenReason.CANCELLED, "superseded while it waited", Record())
        if self._loaded is None:
            return Hidden(HiddenReason.ERROR, "there is no model", Record())
        if request.received is not None and request.received < self._loaded_at:
            # Its deadline starts when there is a model to meet it.
            request = replace(request, received=self._loaded_at)
        try:
            return self._loaded.engine.complete(request)
        except Exception as error:
            logger.exception("completing in %s failed", request.uri)
            return Hidden(HiddenReason.ERROR, f"internal error: {error}", Record())

    async def _call(self, action: Callable[[Engine], None]) -> None:
        def run() -> None:
            if self._loaded is None:
                return
            try:
                action(self._loaded.engine)
            except Exception:
                logger.exception("the engine failed")

        await asyncio.get_running_loop().run_in_executor(self._thread, run)


@dataclass(frozen=True, slots=True)
class _Pending:
    cancel: threading.Event
    superseded: asyncio.Future[None]

    def supersede(self) -> None:
        self.cancel.set()
        if not self.superseded.done():
            self.superseded.set_result(None)


def _summary(request: CompletionRequest, outcome: Outcome) -> dict[str, Any]:
    """One request as JSON values; no source text."""
    hidden = isinstance(outcome, Hidden)
    return {
        **asdict(outcome.record),
        "received_ms": (request.received or 0.0) * 1000,
        "outcome": "hidden" if hidden else "suggestion",
        "reason": outcome.reason if isinstance(outcome, Hidden) else None,
    }
