"""One engine, one thread: loads it, feeds it one request at a time, answers the newest.

Knows nothing of LSP. The engine blocks, so it lives in a thread of its own; everything
else here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from completion.types import CompletionRequest, Hidden, Outcome

logger = logging.getLogger(__name__)

RECENT = 2000
"""How many requests `stats` remembers."""


class Engine(Protocol):
    """What the session needs of `completion.engine.CompletionEngine`."""

    def complete(self, request: CompletionRequest) -> Outcome:
        """Blocks; looks at `request.cancel`."""
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
            requests are answered with None.
    """

    def __init__(self, load: Callable[[], Loaded], on_failure: Callable[[Exception], None]) -> None:
        self._load = load
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._loaded: Loaded | None = None
        self._current: _Pending | None = None
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
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def complete(self, request: CompletionRequest) -> Outcome | None:
        """The engine's outcome; None if superseded, failed or not to be had.

        A newer call ends the older one at once, whatever the thread is still doing.
        """
        if self._current is not None:
            self._current.supersede()
        loop = asyncio.get_running_loop()
        pending = _Pending(request.cancel, loop.create_future())
        self._current = pending
        job = loop.run_in_executor(self._thread, self._complete_in_thread, request)
        self._requests += 1
        try:
            await asyncio.wait({job, pending.superseded}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            request.cancel.set()
            job.cancel()
            raise
        finally:
            if self._current is pending:
                self._current = None
        if job.done():
            return job.result()
        job.cancel()
        return None

    async def accepted(self, suggestion_id: str) -> None:
        """Tell the engine that a suggestion was taken."""
        await self._call(lambda engine: engine.accepted(suggestion_id))

    async def forget(self, uri: str) -> None:
        """Tell the engine that a document was closed."""
        await self._call(lambda engine: engine.forget(uri))

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
        except Exception as error:
            logger.exception("the model could not be loaded")
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._on_failure, error)

    def _complete_in_thread(self, request: CompletionRequest) -> Outcome | None:
        if self._loaded is None or request.cancel.is_set():
            return None
        try:
            outcome = self._loaded.engine.complete(request)
        except Exception:
            logger.exception("completing in %s failed", request.uri)
            return None
        if isinstance(outcome, Hidden):
            logger.debug("hidden: %s (%s)", outcome.reason, outcome.detail)
        self._model_calls += outcome.record.prompt_tokens > 0
        self._recent.append(_summary(request, outcome))
        return outcome

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
    superseded: asyncio.Future[Outcome | None]

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
