"""One engine, one thread, many clients: fair turns, superseding, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from completion.continuation import Continuer
from lsp_server.gateway.clients import Client, Documents
from lsp_server.gateway.config import GatewayConfig
from lsp_server.gateway.errors import CLIENT_GONE, ApiError
from lsp_server.gateway.extra import SentFiles
from lsp_server.gateway.fair_queue import FairQueue, QueueFullError
from lsp_server.session import Engine
from lsp_server.worker import Worker, WorkerDiedError
from models.cancellation import Cancellation
from models.errors import ModelError, PromptError

logger = logging.getLogger(__name__)

_IDLE_S = 0.25
"""Giving back tens of megabytes takes 2 ms, which no request need wait for: it is done when none
came for so long."""
_MOST_UNUSED = 16
"""Documents that may wait for that."""

T = TypeVar("T")
Emit = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Engines:
    """What the gateway serves from; all on one model and one set of KV caches.

    Attributes:
        suggest: the one path of suggestions, for `/infill`.
        sent: code of other files that came with requests, where `suggest` finds it.
        continuer: raw continuations, for `/v1/completions`.
        model_id: name of the model.
        language: LSP language id that requests are in; the protocols do not say.
        context_length: prompt plus generated tokens.
        kv_bytes: memory of all KV caches.
    """

    suggest: Engine
    sent: SentFiles
    continuer: Continuer
    model_id: str
    language: str
    context_length: int
    kv_bytes: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A job's value and its milliseconds in the queue and in the engine."""

    value: T
    waited_ms: float
    engine_ms: float

    @property
    def headers(self) -> dict[str, str]:
        """The times as HTTP's `Server-Timing`."""
        timing = f"queue;dur={self.waited_ms:.3f}, engine;dur={self.engine_ms:.3f}"
        return {"Server-Timing": timing}


@dataclass(eq=False, slots=True)
class _Job:
    turn: str
    work: Callable[[Cancellation, Emit], Any]
    future: asyncio.Future[Done[Any]]
    emit: Emit
    cancel: Cancellation = field(default_factory=Cancellation)
    received: float = field(default_factory=time.perf_counter)

    def fail(self, error: ApiError, *, stop: bool = True) -> None:
        if stop:
            self.cancel.set()
        if not self.future.done():
            self.future.set_exception(error)
            # Nobody may be left to ask.
            self.future.exception()


def _ignore(piece: object) -> None:
    """For jobs that nobody listens to while they run."""


class Runner:
    """Feeds the engine's thread. Everything but the work itself runs on the event loop."""

    def __init__(self, engines: Engines, config: GatewayConfig) -> None:
        self.engines = engines
        self.cancelled: Callable[[str], None] = _ignore
        """Told why a request was given up."""
        self.finished: Callable[[Done[Any]], None] = _ignore
        """Told what the engine did."""
        self._answer_s = config.answer_s
        self._queue: FairQueue[_Job] = FairQueue(config.max_waiting, config.max_waiting_per_client)
        self._unused: deque[str] = deque()
        self._documents = Documents(self._unused.append)
        self._newest: dict[str, _Job] = {}
        self._running: _Job | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._worker = Worker("gateway-engine")

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue)

    def close(self) -> None:
        """End what runs and answer what waits."""
        while (job := self._queue.take()) is not None:
            job.fail(ApiError(503, "shutting_down", "the gateway is shutting down"))
        if self._running is not None:
            self._running.cancel.set()
        self._worker.close(2.0)

    def document(self, client: Client, prefix: str, suffix: str) -> str:
        """URI of the client's document with this text."""
        return self._documents.find(client.owner, prefix, suffix)

    async def run(
        self, request: Request, client: Client, work: Callable[[Cancellation], T]
    ) -> Done[T]:
        """The value of `work`, which is called in the engine's thread when it is its turn.

        Raises:
            ApiError: superseded, too many wait, not done in time, or the work failed.
        """
        job = self._submit(client, lambda cancel, emit: work(cancel), _ignore)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            either: set[asyncio.Future[Any]] = {job.future, gone}
            await asyncio.wait(either, timeout=self._answer_s, return_when=asyncio.FIRST_COMPLETED)
            if job.future.done():
                return job.future.result()
            if gone.done():
                raise ApiError(CLIENT_GONE, "disconnected", "the client closed the connection")
            self._time_out(job)
            return job.future.result()
        finally:
            gone.cancel()
            self._give_up(job)

    async def stream(
        self,
        request: Request,
        client: Client,
        work: Callable[[Cancellation, Emit], T],
    ) -> AsyncIterator[str | Done[T]]:
        """What `work` emits, as it does, and at last its value.

        Raises:
            ApiError: as for `run`, between any two pieces.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def emit(piece: object) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, str(piece))

        job = self._submit(client, work, emit)
        job.future.add_done_callback(lambda _: pieces.put_nowait(None))
        # Not `asyncio.timeout`: it belongs to the task that began, and another one reads on.
        late = loop.call_later(self._answer_s, self._time_out, job)
        gone = asyncio.ensure_future(_disconnected(request))
        gone.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            if not job.future.done():
                raise ApiError(CLIENT_GONE, "disconnected", "the client closed the connection")
            yield job.future.result()
        finally:
            late.cancel()
            gone.cancel()
            self._give_up(job)

    def _submit(
        self, client: Client, work: Callable[[Cancellation, Emit], Any], emit: Emit
    ) -> _Job:
        job = _Job(client.turn, work, asyncio.get_running_loop().create_future(), emit)
        placed = False
        if client.name and (older := self._newest.get(client.name)) is not None:
            # Whoever types fast would never be served if every key meant the end of the queue.
            placed = self._queue.replace(job.turn, older, job)
            self.cancelled("superseded")
            error = ApiError(CLIENT_GONE, "superseded", "a newer request took its place")
            # While others wait, what was read and decoded is kept for the client's next turn.
            older.fail(error, stop=older is not self._running or len(self._queue) == 0)
        try:
            if not placed:
                self._queue.put(job.turn, job)
        except QueueFullError as error:
            raise ApiError(
                503, "overloaded", f"the engine is busy: {error}", {"Retry-After": "1"}
            ) from None
        if client.name:
            self._newest[client.name] = job
            job.future.add_done_callback(lambda _: self._outdated(client.name, job))
        self._next()
        return job

    def _outdated(self, name: str, job: _Job) -> None:
        if self._newest.get(name) is job:
            del self._newest[name]

    def _time_out(self, job: _Job) -> None:
        job.fail(ApiError(503, "engine_timeout", f"no answer within {self._answer_s:.0f} s"))

    def _give_up(self, job: _Job) -> None:
        """End a job that nobody waits for any more; nothing happens to one that is done."""
        if not job.future.done():
            self.cancelled("disconnected")
            job.cancel.set()
        self._queue.remove(job.turn, job)
        job.future.cancel()

    def _next(self) -> None:
        if self._running is not None:
            return
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if (job := self._queue.take()) is None:
            if self._unused:
                self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._clean, 0)
            return
        self._clean(_MOST_UNUSED)
        self._running = job
        began = asyncio.wrap_future(self._worker.submit(lambda: _work(job)))
        began.add_done_callback(lambda done: self._ended(job, done))

    def _ended(self, job: _Job, done: asyncio.Future[Done[Any]]) -> None:
        self._running = None
        error = done.exception()
        if error is None:
            self.finished(done.result())
            if not job.future.done():
                job.future.set_result(done.result())
        elif isinstance(error, PromptError):
            job.fail(ApiError(400, "context_length_exceeded", str(error)))
        elif isinstance(error, ModelError):
            job.fail(ApiError(503, "model_error", str(error)))
        else:
            logger.error("a request failed", exc_info=error)
            if isinstance(error, WorkerDiedError):
                self._worker = Worker("gateway-engine")
            job.fail(ApiError(500, "internal_error", "the engine failed; see the log"))
        self._next()

    def _clean(self, most: int) -> None:
        """Give back the memory of unused documents, the oldest first, until `most` are left."""
        while len(self._unused) > most:
            uri = self._unused.popleft()
            self._worker.submit(partial(self._forget, uri))

    def _forget(self, uri: str) -> None:
        """In the engine's thread."""
        self.engines.suggest.forget(uri)
        self.engines.sent.forget(uri)
        self.engines.continuer.forget(uri)


def _work(job: _Job) -> Done[Any]:
    """In the engine's thread."""
    began = time.perf_counter()
    value = job.work(job.cancel, job.emit)
    ended = time.perf_counter()
    return Done(value, (began - job.received) * 1e3, (ended - began) * 1e3)


async def _disconnected(request: Request) -> None:
    """Returns once the client closed the connection; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
