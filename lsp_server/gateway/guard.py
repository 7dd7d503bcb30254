"""What happens before a request is read: token, browser, rate and size. A plain ASGI middleware.

Starlette's `BaseHTTPMiddleware` is not used: it hides that a client disconnected.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lsp_server.gateway.clients import CLIENT_HEADER
from lsp_server.gateway.config import GatewayConfig
from lsp_server.gateway.errors import ApiError
from lsp_server.gateway.metrics import Metrics

_OPEN_PATHS = frozenset({"/health"})
"""Load balancers ask without a token; nothing is told but that the gateway lives."""
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_WRONG_HEADERS = ("x-api-key", "api-key", "x-auth-token", "proxy-authorization")
_BUCKETS = 1024
_BURST_S = 2.0
_DISCARDED = 16_000_000
"""Bytes of a refused body that are read after all."""
_DISCARD_S = 2.0


class RateLimit:
    """A token bucket per client: bursts of two seconds' worth are fine."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate`: requests a second."""
        self._rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def delay(self, client: str) -> float:
        """Seconds after which the client's request would be welcome; 0 takes it now."""
        now, most = self._clock(), max(1.0, self._rate * _BURST_S)
        left, since = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self._rate)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._rate
        self._buckets[client] = (left if wait else left - 1.0, now)
        if len(self._buckets) > _BUCKETS:
            self._buckets.popitem(last=False)
        return wait


class Guard:
    """Refuses what must not reach the engine, and counts every answer."""

    def __init__(self, app: ASGIApp, config: GatewayConfig, metrics: Metrics) -> None:
        self._app = app
        self._config = config
        self._metrics = metrics
        self._limit = RateLimit(config.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, headers, status = time.perf_counter(), Headers(scope=scope), 500

        body = _Limited(receive, self._config.max_body)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await body.discard()
            await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, body.receive, answer)
        except ApiError as error:
            # Starlette's handler covers the routes; here are what was refused before them.
            await error.response()(scope, receive, answer)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)

    def _check(self, scope: Scope, headers: Headers) -> None:
        config = self._config
        if scope["path"] in _OPEN_PATHS:
            return
        if config.token is None:
            _refuse_browsers(headers)
        elif (problem := token_problem(headers, config.token)) is not None:
            raise ApiError(401, "invalid_token", problem, {"WWW-Authenticate": "Bearer"})
        client = scope["client"][0] if scope.get("client") else "?"
        if delay := self._limit.delay(headers.get(CLIENT_HEADER) or client):
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"more than {config.rate:g} requests a second",
                {"Retry-After": str(max(1, round(delay)))},
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > config.max_body:
            raise _too_large(config.max_body)


def token_problem(headers: Headers, token: str) -> str | None:
    """Why the request's credentials are not `token`; None where they are."""
    given = headers.get("authorization")
    if given is None:
        wrong = next((name for name in _WRONG_HEADERS if name in headers), None)
        found = f", not as {wrong}" if wrong else ""
        return f"send the token as 'Authorization: Bearer TOKEN'{found}"
    scheme, _, value = given.partition(" ")
    if scheme.lower() != "bearer":
        # What stands there instead may be a secret: it is not repeated.
        return "the Authorization header must begin with 'Bearer'"
    # Compared as bytes in constant time; a token with other characters is just wrong.
    if hmac.compare_digest(value.strip().encode("utf-8", "replace"), token.encode()):
        return None
    return "the token is not the gateway's"


def _refuse_browsers(headers: Headers) -> None:
    """Without a token, a page in the user's browser must not reach the engine.

    Pages send `Origin`; a name of theirs that resolves to 127.0.0.1 shows in `Host`.
    """
    host = headers.get("host", "localhost")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if "origin" in headers or name not in _LOCAL_NAMES:
        raise ApiError(
            403, "forbidden_origin", "without a token only programs on this machine are served"
        )


class _Limited:
    """Reads no more of a body than is allowed, whatever its header announces."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._read, self._ended = receive, most, 0, False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ApiError: the body is too large.
        """
        message = await self._next()
        if self._read > self._most:
            raise _too_large(self._most)
        return message

    async def discard(self) -> None:
        """Read what is left of a body that is answered early, up to a size and for a moment.

        Closing a connection over bytes that nobody read resets it, and the client, which sends
        before it reads, may see that instead of the answer.
        """
        most = self._read + _DISCARDED
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._ended and self._read < most:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        else:
            self._ended = True
        return message


def _too_large(most: int) -> ApiError:
    message = f"the body exceeds {most} bytes"
    return ApiError(413, "body_too_large", message, {"Connection": "close"})
