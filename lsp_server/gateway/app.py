"""Puts the front doors together: one FastAPI application around one engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from lsp_server.gateway import infill, openai_api
from lsp_server.gateway.config import GatewayConfig
from lsp_server.gateway.errors import ApiError
from lsp_server.gateway.guard import Guard
from lsp_server.gateway.metrics import CONTENT_TYPE, Metrics
from lsp_server.gateway.runner import Done, Engines, Runner

_PATHS = "POST /v1/completions, GET /v1/models, POST /infill, GET /health and GET /metrics"


def create_app(engines: Engines, config: GatewayConfig) -> ASGIApp:
    """The application; closing it ends the engine's thread.

    Raises:
        GatewayError: the configuration is not safe.
    """
    config.check()
    runner = Runner(engines, config)
    metrics = Metrics(lambda: runner.waiting, engines.kv_bytes)
    runner.cancelled = lambda why: metrics.cancelled.labels(why).inc()
    runner.finished = lambda done: _count(metrics, done)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        runner.close()

    # The pages for people would load their scripts from elsewhere.
    app = FastAPI(title="SnowCoder gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(openai_api.create_router(runner, config.max_tokens, int(time.time())))
    app.include_router(infill.create_router(runner, config.max_tokens))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the gateway serves."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def read_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        if error.status_code == 404:
            return ApiError(404, "not_found", f"not served here; there are {_PATHS}").response()
        headers = dict(error.headers or {})
        return ApiError(error.status_code, "invalid_request", error.detail, headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        message = first["msg"].removeprefix("Value error, ")
        if place == "body" and "json" not in request.headers.get("content-type", ""):
            message = "a JSON object is wanted, sent with 'Content-Type: application/json'"
        elif first["type"] == "json_invalid":
            place, message = "body", f"not valid JSON at character {first['loc'][-1]}"
        return ApiError(400, "invalid_request", f"{place}: {message}").response()

    return Guard(app, config, metrics)


def _count(metrics: Metrics, done: Done[Any]) -> None:
    metrics.engine_seconds.observe(done.engine_ms / 1e3)
    value = done.value
    if isinstance(value, list):
        # What is repeated was decoded once.
        results = {id(one.result): one.result for one in value}.values()
        counts = [(one.prompt_tokens, one.reused_tokens, len(one.token_ids)) for one in results]
    else:
        record = value.record
        counts = [(record.prompt_tokens, record.reused_tokens, record.generated_tokens)]
    for prompt, reused, generated in counts:
        metrics.prompt_tokens.labels("cache").inc(reused)
        metrics.prompt_tokens.labels("read").inc(prompt - reused)
        metrics.generated_tokens.inc(generated)
