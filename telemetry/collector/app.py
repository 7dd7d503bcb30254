"""The collector's HTTP interface: uploads of events, and the dashboard."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from telemetry.collector.access import RateLimiter, Role, Tokens
from telemetry.collector.intake import BATCH_LIMIT, Batch, UploadError, model_of, parse
from telemetry.collector.sinks import Sink, SinkError
from telemetry.events import EVENTS, SCHEMA_VERSION

logger = logging.getLogger(__name__)

_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_BEARER = HTTPBearer(auto_error=False, description="an upload token")
RETRY_S = 5
"""What `Retry-After` says when the database does not take a batch."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one sender may send, and for how many seconds the dashboard is kept."""

    body_bytes: int = 2_000_000
    events_per_s: float = 20_000
    burst: float = 100_000
    page_s: float = 30


class Receipt(BaseModel):
    """What became of an upload; each of its events is kept now and need not be sent again."""

    stored: int = Field(description="Events that were not there yet.")
    duplicates: int = Field(description="Events that were there already; they count once.")
    aside: list[dict[str, str]] = Field(
        description="Events kept aside: event_id, reason (newer_version, malformed) and detail."
    )


class Problem(BaseModel):
    """Why a request was refused: one word for programs, a sentence for people."""

    reason: str
    message: str


class RefusedError(Exception):
    """The request gets this status and a `Problem`."""

    def __init__(
        self, status: int, reason: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers


Render = Callable[[str, str | None], str]
"""The page of a location and an experiment, or the overview. Raises LookupError if unknown."""


def create_app(sink: Sink, tokens: Tokens, render: Render, limits: Limits | None = None) -> FastAPI:
    """The application.

    Args:
        sink: opened when the application starts, and used from a thread of its own.
        render: makes the dashboard's pages.
    """
    limits = limits or Limits()
    rate = RateLimiter(limits.events_per_s, limits.burst)
    writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collector")
    pages = _Pages(render, sink.location, limits.page_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(writer, sink.open)
        yield
        await loop.run_in_executor(writer, sink.close)
        writer.shutdown()

    # FastAPI's interactive pages load scripts from elsewhere.
    app = FastAPI(
        title="SnowCoder collector",
        version=str(SCHEMA_VERSION),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        problem = Problem(reason=error.reason, message=str(error))
        return JSONResponse(problem.model_dump(), error.status, headers=error.headers)

    @app.get("/v1/health")
    async def health() -> dict[str, int]:
        """Say that the collector runs, and the newest version of events that it knows."""
        return {"version": SCHEMA_VERSION}

    @app.post("/v1/events", responses=_RESPONSES, openapi_extra=_upload_schema())
    async def upload(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> Receipt:
        """Keep events; sending the same ones again changes nothing."""
        sender = _bearer(tokens, credentials)
        body = await _read(request, limits.body_bytes)
        try:
            batch = await run_in_threadpool(parse, body)
        except UploadError as error:
            raise RefusedError(400, error.reason, str(error)) from error
        if wait_s := rate.wait_s(sender, batch.events):
            raise RefusedError(
                429, "too_fast", "too many events", {"retry-after": str(math.ceil(wait_s))}
            )
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(writer, sink.write, batch)
        except SinkError as error:
            logger.warning("a batch was not kept (%s): %s", error.reason, error)
            message = f"nothing was kept: {error.reason}"
            headers = {"retry-after": str(RETRY_S)}
            raise RefusedError(503, error.reason, message, headers) from error
        return _receipt(batch, stored)

    @app.get("/", response_class=HTMLResponse)
    def dashboard(authorization: Annotated[str | None, Header()] = None) -> Response:
        """What was suggested and what became of it."""
        _basic(tokens, authorization)
        return pages.response(None)

    @app.get("/experiments/{name:path}", response_class=HTMLResponse)
    def experiment(name: str, authorization: Annotated[str | None, Header()] = None) -> Response:
        """What came of an experiment."""
        _basic(tokens, authorization)
        return pages.response(name)

    return app


def _receipt(batch: Batch, stored: int) -> Receipt:
    aside = [
        {"event_id": item.event_id, "reason": item.reason.value, "detail": item.detail}
        for item in batch.aside
    ]
    return Receipt(stored=stored, duplicates=batch.events - stored, aside=aside)


class _Pages:
    """Pages of the dashboard, one made at a time and kept for a while: each reads everything."""

    MOST = 100

    def __init__(self, render: Render, location: str, keep_s: float) -> None:
        self._render, self._location, self._keep_s = render, location, keep_s
        self._lock = threading.Lock()
        self._made: dict[str | None, tuple[float, str]] = {}

    def response(self, name: str | None) -> Response:
        with self._lock:
            made = self._made.get(name)
            if made is None or time.monotonic() - made[0] > self._keep_s:
                try:
                    page = self._render(self._location, name)
                except LookupError as error:
                    raise RefusedError(404, "unknown_experiment", str(error)) from error
                except Exception as error:
                    logger.exception("the dashboard cannot be made")
                    message = "the events cannot be read; the log says more"
                    raise RefusedError(503, "unreadable", message) from error
                if len(self._made) >= self.MOST:
                    self._made.clear()
                made = self._made[name] = time.monotonic(), page
        return HTMLResponse(made[1], headers=_PAGE_HEADERS)


def _bearer(tokens: Tokens, credentials: HTTPAuthorizationCredentials | None) -> str:
    sender = tokens.find(credentials.credentials, Role.UPLOAD) if credentials else None
    if sender is None:
        raise RefusedError(
            401,
            "wrong_token",
            "needs `Authorization: Bearer TOKEN` with an upload token",
            {"www-authenticate": "Bearer"},
        )
    return sender


def _basic(tokens: Tokens, authorization: str | None) -> None:
    """Browsers ask for a name and a password; the password is the token."""
    kind, _, encoded = (authorization or "").partition(" ")
    password = ""
    if kind.lower() == "basic":
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
            password = decoded.partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            password = ""
    if tokens.find(password, Role.READ) is None:
        raise RefusedError(
            401,
            "wrong_token",
            "needs a read token as password",
            {"www-authenticate": 'Basic realm="SnowCoder", charset="UTF-8"'},
        )


async def _read(request: Request, limit: int) -> bytes:
    """The body, unless it is longer than `limit`; what is too long is not read to its end."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "encoded", "bodies are not compressed")
    too_large = RefusedError(
        413, "too_large", f"a body has at most {limit} bytes", {"connection": "close"}
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


_REFUSALS = {
    400: "not JSON of that form, or too many events: send something else",
    401: "wrong token",
    413: "the body is too large: send less at once",
    415: "the body is compressed",
    429: "too fast: wait as Retry-After says",
    503: "nothing was kept: send it again, as Retry-After says",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()
}


def _upload_schema() -> dict[str, Any]:
    """The request body for OpenAPI; the body itself is read and checked by hand."""
    variants = []
    for event in EVENTS:
        schema = model_of(event).model_json_schema()
        schema["properties"]["table"] = {"const": event.table}
        schema["required"].append("table")
        # Local definitions would not be found from inside the document.
        definitions = schema.pop("$defs", {})
        for field in schema["properties"].values():
            if (name := field.pop("$ref", "").rpartition("/")[2]) in definitions:
                field.update(definitions[name])
        variants.append(schema)
    events = {"type": "array", "maxItems": BATCH_LIMIT, "items": {"oneOf": variants}}
    body = {"type": "object", "required": ["events"], "properties": {"events": events}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}
