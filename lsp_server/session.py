"""One engine, one thread: loads it, feeds it one request at a time, answers the newest.

Knows nothing of LSP. The engine blocks, so it lives in a thread of its own; everything
else here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from completion.types import CompletionRequest, Hidden, HiddenReason, Outcome, Record, Source
from lsp_server.worker import Worker, WorkerDiedError
from models.cancellation import Cancellation

logger = logging.getLogger(__name__)

RECENT = 2000
"""How many requests `stats` remembers."""
REST_S = 0.15
"""After an answer and so long without another request, the engine works ahead."""
_CLOSE_S = 2.0
_CALL_S = 1.0


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

    def dismissed(self, suggestion_id: str) -> None:
        """The user turned a suggestion down."""
        ...

    def forget(self, uri: str) -> None:
        """A document was closed."""
        ...


def _nothing() -> None:
    """For callers that do not want to know."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine ready to serve.

    Attributes:
        engine: the engine.
        kv_bytes: memory of its KV caches in bytes.
        trouble: a sentence where it serves with less than it was set up for; else empty.
    """

    engine: Engine
    kv_bytes: Callable[[], int]
    trouble: Callable[[], str] = str


class EngineError(Exception):
    """The engine's thread ended or hangs; a new one is started."""


class Session:
    """Serves one client.

    Args:
        load: makes the engine; called in the session's thread, again after a failure and by
            `start`. While it fails an engine loaded earlier goes on serving.
        on_failure: told the error, on the event loop, whenever loading fails or the engine is
            lost. Without an engine requests are hidden.
        on_ready: called on the event loop when an engine was loaded.
        may_work_ahead: asked in every rest; False where it would cost more than it is worth.
        answer_s: seconds after which a request is answered whatever the thread does; an
            engine that takes longer is given up. Tests shorten it.
        retry_s: seconds between attempts to load again what failed.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        on_failure: Callable[[Exception], None],
        on_ready: Callable[[], None] = _nothing,
        *,
        may_work_ahead: Callable[[], bool] = _always,
        answer_s: float = 30.0,
        retry_s: float = 10.0,
    ) -> None:
        self._load = load
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._may_work_ahead = may_work_ahead
        self._answer_s = answer_s
        self._retry_s = retry_s
        self._worker = Worker("engine")
        self._loaded: Loaded | None = None
        self._loaded_at = 0.0
        self._loading = 0
        self._attempted = -math.inf
        self._current: _Pending | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._preparing = Cancellation()
        self._requests = 0
        self._model_calls = 0
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    @property
    def loading(self) -> bool:
        """Whether an engine is being made."""
        return self._loading > 0

    @property
    def ready(self) -> bool:
        """Whether there is an engine, perhaps an older one while another is being made."""
        return self._loaded is not None

    @property
    def trouble(self) -> str:
        """Where the engine serves with less than it was set up for, a sentence; else empty."""
        return self._loaded.trouble() if self._loaded else ""

    def start(self) -> None:
        """Begin to load. Requests made meanwhile wait in the thread's queue."""
        worker = self._worker
        self._loading += 1
        self._attempted = time.monotonic()
        job = asyncio.wrap_future(worker.submit(lambda: self._load_in_thread(worker)))
        job.add_done_callback(self._load_ended)

    def close(self) -> None:
        """Stop what runs; wait two seconds for it."""
        if self._current is not None:
            self._current.cancel.set()
        self.end_rest()
        self._worker.close(_CLOSE_S)

    async def complete(self, request: CompletionRequest) -> Outcome | None:
        """The engine's outcome; None if a newer call superseded this one.

        A newer call ends the older one at once, whatever the thread is still doing.
        """
        if self._current is not None:
            self._current.supersede()
        self.end_rest()
        if not self.ready and not self.loading and self._may_retry():
            self.start()
        pending = _Pending(request.cancel, asyncio.get_running_loop().create_future())
        self._current = pending
        worker = self._worker
        job = asyncio.wrap_future(worker.submit(lambda: self._complete_in_thread(request)))
        # A job that fails after nobody waits for it any more has nobody to tell.
        job.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._requests += 1
        try:
            either: set[asyncio.Future[Any]] = {job, pending.superseded}
            await asyncio.wait(either, timeout=self._answer_s, return_when=asyncio.FIRST_COMPLETED)
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
        loop = asyncio.get_running_loop()
        self._rest = loop.call_later(REST_S, self.prepare, request)
        return self._answer(request, job, worker)

    def prepare(self, request: CompletionRequest) -> None:
        """Use a pause of the user to work ahead; the next request ends it within milliseconds."""
        if self._current is not None:
            return
        self.end_rest()
        if self._may_work_ahead():
            self._preparing = Cancellation()
            ahead = replace(request, cancel=self._preparing)
            self._submit(lambda engine: engine.prepare(ahead))

    def end_rest(self) -> None:
        """The user goes on, or does not want anything done: work ahead ends."""
        if self._rest is not None:
            self._rest.cancel()
        self._preparing.set()

    def _answer(
        self, request: CompletionRequest, job: asyncio.Future[Outcome], worker: Worker
    ) -> Outcome:
        """What came out of a job, or why nothing did."""
        if not job.done():
            request.cancel.set()
            job.cancel()
            if self.loading:
                return _error("the model is still being loaded")
            self._lose(worker, f"the engine did not answer within {self._answer_s:.0f} s")
            return _error("the engine did not answer")
        try:
            return job.result()
        except WorkerDiedError as error:
            self._lose(worker, f"the engine's thread ended: {error}")
            return _error("the engine ended and is started again")

    def _lose(self, worker: Worker, reason: str) -> None:
        """Give up a thread that ended or hangs, and load in a new one."""
        if worker is not self._worker:
            return
        logger.error("%s", reason)
        worker.close()
        self._worker, self._loaded = Worker("engine"), None
        self._on_failure(EngineError(reason))
        if self._may_retry():
            self.start()

    def _may_retry(self) -> bool:
        return time.monotonic() - self._attempted >= self._retry_s

    async def accepted(self, suggestion_id: str) -> None:
        """Tell the engine that a suggestion was taken."""
        await self._call(lambda engine: engine.accepted(suggestion_id))

    async def dismissed(self, suggestion_id: str) -> None:
        """Tell the engine that a suggestion was turned down."""
        await self._call(lambda engine: engine.dismissed(suggestion_id))

    async def forget(self, uri: str) -> None:
        """Tell the engine that a document was closed."""
        self.end_rest()
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

    def _load_ended(self, job: asyncio.Future[None]) -> None:
        self._loading -= 1
        if job.cancelled():
            return
        if (error := job.exception()) is None:
            self._on_ready()
        elif isinstance(error, Exception):
            logger.error("the model could not be loaded", exc_info=error)
            if isinstance(error, WorkerDiedError) and not self.ready:
                self._worker = Worker("engine")
            self._on_failure(error)

    # In the thread ---------------------------------------------------------------------

    def _load_in_thread(self, worker: Worker) -> None:
        loaded = self._load()
        if worker is self._worker:
            self._loaded = loaded
            self._loaded_at = time.perf_counter()

    def _complete_in_thread(self, request: CompletionRequest) -> Outcome:
        outcome = self._outcome(request)
        if isinstance(outcome, Hidden):
            logger.debug("hidden: %s (%s)", outcome.reason, outcome.detail)
        self._model_calls += outcome.record.source is Source.MODEL
        self._recent.append(_summary(request, outcome))
        return outcome

    def _outcome(self, request: CompletionRequest) -> Outcome:
        if request.cancel.is_set():
            return Hidden(HiddenReason.CANCELLED, "superseded while it waited", Record())
        if self._loaded is None:
            return _error("there is no model")
        if request.received is not None and request.received < self._loaded_at:
            # Its deadline starts when there is a model to meet it.
            request = replace(request, received=self._loaded_at)
        try:
            return self._loaded.engine.complete(request)
        except Exception as error:
            logger.exception("completing in %s failed", request.uri)
            return _error(f"internal error: {error}")

    async def _call(self, action: Callable[[Engine], None]) -> None:
        # It is done in its turn; nobody has to wait until a long decode is over.
        await asyncio.wait({self._submit(action)}, timeout=_CALL_S)

    def _submit(self, action: Callable[[Engine], None]) -> asyncio.Future[None]:
        def run() -> None:
            if self._loaded is None:
                return
            try:
                action(self._loaded.engine)
            except Exception:
                logger.exception("the engine failed")

        job = asyncio.wrap_future(self._worker.submit(run))
        job.add_done_callback(lambda done: done.cancelled() or done.exception())
        return job


@dataclass(frozen=True, slots=True)
class _Pending:
    cancel: Cancellation
    superseded: asyncio.Future[None]

    def supersede(self) -> None:
        self.cancel.set()
        if not self.superseded.done():
            self.superseded.set_result(None)


def _error(detail: str) -> Hidden:
    return Hidden(HiddenReason.ERROR, detail, Record())


def _summary(request: CompletionRequest, outcome: Outcome) -> dict[str, Any]:
    """One request as JSON values; no source text."""
    hidden = isinstance(outcome, Hidden)
    return {
        **asdict(outcome.record),
        "received_ms": (request.received or 0.0) * 1000,
        "outcome": "hidden" if hidden else "suggestion",
        "reason": outcome.reason if isinstance(outcome, Hidden) else None,
    }
