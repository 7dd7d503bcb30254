"""Text from a remote engine over the OpenAI completions protocol.

Text goes in and text comes out: a remote engine has a tokenizer of its own, so this is not a
`models.backend.Backend`. One call is one HTTP request, streamed, and it ends at the line, the
deadline or the cancellation, whichever is first; leaving closes the connection, which ends the
decoding at the other end too. No socket is opened before the first call.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Coroutine
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx

from models.backend import StopReason
from models.circuit import CircuitBreaker
from models.errors import (
    RemoteError,
    RemoteProtocolError,
    RemoteStatusError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)
from models.sse import EventReader
from models.templates import TEMPLATES, Template, template_for

CONNECT_S = 2.0
READ_S = 10.0
LONGEST_S = 30.0
"""For callers without a deadline."""
_ATTEMPTS = 2
"""Only connecting is tried again: a request that was sent may have been worked on."""
_POLL_S = 0.005
_MOST_STOPS = 4
"""That the protocol allows."""
_DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """Where a remote engine is and how to ask it.

    Attributes:
        url: base address, with or without `/v1`.
        model: name that the server knows the model by.
        template: one of `models.templates.TEMPLATES`; None finds it by the model's name.
        token: sent as `Authorization: Bearer`, to this address only.
    """

    url: str
    model: str
    template: str | None = None
    token: str | None = None

    @property
    def endpoint(self) -> str:
        """Address of the completions."""
        base = self.url.rstrip("/")
        return f"{base}/completions" if base.endswith("/v1") else f"{base}/v1/completions"


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """One call; `max_lines`, `deadline` and `cancel` as in `models.backend.GenerateRequest`."""

    prefix: str
    suffix: str
    max_tokens: int = 48
    max_lines: int = 1
    deadline: float | None = None
    cancel: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class RemoteText:
    """What came back.

    Attributes:
        text: up to the line's end, special tokens cut off.
        stop: why it ended; `CANCELLED` and `DEADLINE` may leave it unfinished.
        chunks: pieces that were streamed, about as many as tokens.
        first_ms, total_ms: milliseconds to the first text and to the end.
    """

    text: str
    stop: StopReason
    chunks: int
    first_ms: float
    total_ms: float


@dataclass(slots=True)
class _Answer:
    """Grows in the thread of the connections, is read in the caller's."""

    template: Template
    max_lines: int
    text: str = ""
    chunks: int = 0
    first: float | None = None
    stop: StopReason | None = None
    answer_id: object = None

    def add(self, piece: str) -> None:
        """Take more text; sets `stop` where it ends."""
        if piece and self.first is None:
            self.first = time.perf_counter()
        self.chunks += bool(piece)
        text = self.text + piece
        ends = [at for stop in self.template.stop if (at := text.find(stop)) >= 0]
        line = line_end(text, self.max_lines)
        if line is not None and line <= min(ends, default=line):
            self.text, self.stop = text[:line], StopReason.NEWLINE
        elif ends:
            self.text, self.stop = text[: min(ends)], StopReason.END_OF_MIDDLE
        else:
            self.text = text


def line_end(text: str, max_lines: int) -> int | None:
    """Where the line break stands that ends `text`, None where it goes on.

    As in local decoding, a line break that comes first of all does not count.
    """
    at, breaks = 0, 0
    while max_lines and (at := text.find("\n", at + 1)) >= 0:
        breaks += 1
        if breaks == max_lines:
            return at
    return None


class RemoteClient:
    """Calls one remote engine. `complete` may be called from any thread, one call at a time."""

    def __init__(self, config: RemoteConfig, breaker: CircuitBreaker | None = None) -> None:
        """`breaker`: decides when nothing is tried; one of its own for None."""
        self.config = config
        self.breaker = breaker or CircuitBreaker()
        self._template = TEMPLATES[config.template or template_for(config.model)]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None

    def complete(self, request: RemoteRequest) -> RemoteText:
        """Text between prefix and suffix. Blocks, never beyond the deadline by more than a moment.

        Raises:
            RemoteUnreachableError: no connection, or none is tried after failures in a row.
            RemoteTimeoutError: no text by the deadline.
            RemoteStatusError: an HTTP status other than 200.
            RemoteProtocolError: an answer that is not one, ends early, or is of another model.
        """
        if not self.breaker.allow():
            raise RemoteUnreachableError(f"{self.config.url} is left alone after failures")
        try:
            text = self._complete(request)
        except RemoteError:
            self.breaker.failed()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        if text.stop is StopReason.CANCELLED:
            self.breaker.abandoned()
        else:
            self.breaker.succeeded()
        return text

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        loop, client, self._loop, self._client = self._loop, self._client, None, None
        if loop is None or client is None:
            return

        async def end() -> None:
            await client.aclose()
            loop.stop()

        loop.call_soon_threadsafe(lambda: asyncio.ensure_future(end()))

    def _complete(self, request: RemoteRequest) -> RemoteText:
        began = time.perf_counter()
        deadline = began + LONGEST_S if request.deadline is None else request.deadline
        answer = _Answer(self._template, request.max_lines)
        stop = None
        if request.cancel.is_set():
            stop = StopReason.CANCELLED
        else:
            job = self._start(self._ask(request, answer))
            stop = _wait(job, deadline, request.cancel)
        if stop is None:
            stop = answer.stop or StopReason.END_OF_MIDDLE
        elif stop is StopReason.DEADLINE and not answer.text:
            raise RemoteTimeoutError(f"{self.config.url} did not answer in time")
        ended = time.perf_counter()
        return RemoteText(
            answer.text,
            stop,
            answer.chunks,
            ((answer.first or ended) - began) * 1e3,
            (ended - began) * 1e3,
        )

    def _start(self, call: Coroutine[None, None, None]) -> Future[None]:
        """Run a coroutine in the thread of the connections."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(self._loop,), name="remote", daemon=True)
            thread.start()
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    async def _ask(self, request: RemoteRequest, answer: _Answer) -> None:
        if self._client is None:
            # No redirects: source text and token go where the user said and nowhere else.
            # What the system trusts, certificates of the user's own company among it; reading
            # them takes 50 ms.
            secure = self.config.url.startswith("https:")
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                trust_env=False,
                verify=ssl.create_default_context() if secure else False,
            )
        body = self._body(request)
        token = self.config.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._client.stream(
                    "POST", self.config.endpoint, json=body, headers=headers
                ) as response:
                    await self._read(response, answer)
                    return
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if attempt == _ATTEMPTS:
                    raise RemoteUnreachableError(f"no connection to {self.config.url}") from error
            except httpx.TimeoutException as error:
                raise RemoteTimeoutError(f"{self.config.url} stopped answering") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                kind = type(error).__name__
                raise RemoteProtocolError(f"{self.config.url} broke off ({kind})") from error

    def _body(self, request: RemoteRequest) -> dict[str, Any]:
        prefix, suffix = _sendable(request.prefix), _sendable(request.suffix)
        stop = list(self._template.stop)
        if request.max_lines == 1:
            stop.insert(0, "\n")
        body: dict[str, Any] = {
            "model": self.config.model,
            "prompt": self._template.prompt(prefix, suffix),
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": True,
            "stop": stop[:_MOST_STOPS],
        }
        if self._template.text is None and suffix:
            body["suffix"] = suffix
        return body

    async def _read(self, response: httpx.Response, answer: _Answer) -> None:
        url = self.config.url
        if response.status_code != 200:
            # Its body is not told: it may repeat the source text.
            raise RemoteStatusError(f"{url} answered {response.status_code}")
        kind = response.headers.get("content-type", "nothing").partition(";")[0]
        if kind != "text/event-stream":
            raise RemoteProtocolError(f"{url} answered with {kind}, not with a stream of text")
        reader = EventReader()
        async for data in response.aiter_bytes():
            for event in reader.feed(data):
                if event == _DONE:
                    if answer.stop is None:
                        answer.stop = StopReason.END_OF_MIDDLE
                    return
                self._take(event, answer)
                if answer.stop is not None:
                    return
        raise RemoteProtocolError(f"the answer of {url} ended before its end")

    def _take(self, event: str, answer: _Answer) -> None:
        """Take one event's text."""
        try:
            chunk = json.loads(event)
            if "error" in chunk:
                raise RemoteProtocolError(f"{self.config.url} failed while it answered")
            choices = chunk["choices"]
            if not choices:
                return
            piece, reason = choices[0]["text"], choices[0].get("finish_reason")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise RemoteProtocolError(f"{self.config.url} sent what is no completion") from None
        if not isinstance(piece, str):
            raise RemoteProtocolError(f"{self.config.url} sent what is no completion")
        if answer.answer_id is None:
            answer.answer_id = chunk.get("id")
        told = chunk.get("model")
        if chunk.get("id") != answer.answer_id or not same_model(self.config.model, told):
            raise RemoteProtocolError(f"{self.config.url} answered with another model's text")
        answer.add(piece)
        if reason is not None and answer.stop is None:
            limit = reason == "length"
            answer.stop = StopReason.MAX_TOKENS if limit else StopReason.END_OF_MIDDLE


def same_model(asked: str, told: object) -> bool:
    """Whether an answer's model is the one asked for; servers that name none are believed.

    Paths count by their last part, and tags that a server adds (`name:latest`) do not count.
    """
    if told is None or not asked:
        return True
    if not isinstance(told, str):
        return False
    return told == asked or _short(told) == _short(asked)


def _short(model: str) -> str:
    return model.rpartition("/")[2].partition(":")[0].lower()


def _wait(job: Future[None], deadline: float, cancel: threading.Event) -> StopReason | None:
    """Wait for a call; why it was ended, None where it ended itself.

    Raises:
        RemoteError: what the call raised.
    """
    while True:
        left = deadline - time.perf_counter()
        if cancel.is_set() or left <= 0:
            job.cancel()
            return StopReason.CANCELLED if cancel.is_set() else StopReason.DEADLINE
        futures.wait([job], min(left, _POLL_S))
        if job.done():
            job.result()
            return None


def _sendable(text: str) -> str:
    """Editors may send half of a surrogate pair; UTF-8 cannot hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    # Streams that were left early are still to be closed.
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
