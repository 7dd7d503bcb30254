"""`POST /v1/completions` and `GET /v1/models` of the OpenAI protocol (the legacy completions API).

Decoding is greedy: `temperature`, `top_p`, `seed` and the like are taken and change nothing.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from completion.continuation import Continuation, ContinuationRequest
from lsp_server.gateway.clients import client_of
from lsp_server.gateway.errors import CLIENT_GONE, ApiError
from lsp_server.gateway.runner import Done, Emit, Runner
from models.backend import StopReason
from models.cancellation import Cancellation

_MOST_CHOICES = 8
_MOST_LOGPROBS = 5
_DEFAULT_TOKENS = 16
_FINISHED = frozenset({StopReason.STOPPED, StopReason.END_OF_MIDDLE, StopReason.NEWLINE})


class StreamOptions(BaseModel):
    """See the OpenAI API reference."""

    include_usage: bool = False


class CompletionBody(BaseModel):
    """The fields that mean something here; others are ignored, as clients send many."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | list[str]
    suffix: str | None = None
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = _DEFAULT_TOKENS
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = 1
    best_of: int | None = None
    echo: bool | None = False
    user: str | None = None

    @model_validator(mode="after")
    def _supported(self) -> CompletionBody:
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ValueError("one prompt a request")
        if self.echo:
            raise ValueError("echo is not supported")
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise ValueError("best_of above n is not supported")
        if self.stream and (self.n or 1) > 1:
            raise ValueError("n above 1 cannot be streamed")
        return self

    @property
    def text(self) -> str:
        """The prompt with line feeds only, as the model learnt them."""
        return _line_feeds(self.prompt if isinstance(self.prompt, str) else self.prompt[0])

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that are not empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(one for one in given if one)


def create_router(runner: Runner, max_tokens: int, created: int) -> APIRouter:
    """Routes of one gateway; `created` is when the model was loaded, seconds since 1970."""
    router = APIRouter()
    model_id = runner.engines.model_id

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model there is."""
        model = {"id": model_id, "object": "model", "created": created, "owned_by": "snowcoder"}
        return {"object": "list", "data": [model]}

    @router.post("/v1/completions", response_model=None)
    async def completions(
        body: CompletionBody, request: Request
    ) -> JSONResponse | StreamingResponse:
        """Continue `prompt` so that `suffix` may follow."""
        client = client_of(request, body.user)
        prefix, suffix = body.text, _line_feeds(body.suffix or "")
        wanted = ContinuationRequest(
            prefix,
            suffix,
            runner.document(client, prefix, suffix),
            min(body.max_tokens or _DEFAULT_TOKENS, max_tokens),
            body.stops,
            count=body.n or 1,
        )
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model_id,
        }
        continuer = runner.engines.continuer
        if body.stream:

            def streamed(cancel: Cancellation, emit: Emit) -> list[Continuation]:
                return continuer.run(replace(wanted, cancel=cancel, on_text=emit))

            events = runner.stream(request, client, streamed)
            # The first event decides the status: an error must not look like an empty text.
            first = await anext(events)
            return StreamingResponse(
                _chunks(first, events, head, body),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        done = await runner.run(
            request, client, lambda cancel: continuer.run(replace(wanted, cancel=cancel))
        )
        choices = [
            _choice(index, one, body.logprobs, len(prefix)) for index, one in enumerate(done.value)
        ]
        answer = {**head, "choices": choices, "usage": _usage(done.value)}
        return JSONResponse(answer, headers=done.headers)

    return router


async def _chunks(
    first: str | Done[list[Continuation]],
    events: AsyncIterator[str | Done[list[Continuation]]],
    head: dict[str, Any],
    body: CompletionBody,
) -> AsyncIterator[str]:
    """Server-sent events: text as it is written, the reason of the end, then `[DONE]`.

    Log-probabilities of all tokens come with the end.
    """
    event: str | Done[list[Continuation]] = first
    try:
        while isinstance(event, str):
            choice = {"index": 0, "text": event, "logprobs": None, "finish_reason": None}
            yield _event({**head, "choices": [choice]})
            event = await anext(events)
    except ApiError as error:
        if error.status_code != CLIENT_GONE or error.code == "superseded":
            yield _event(error.body)
        return
    finished = _choice(0, event.value[0], body.logprobs, len(body.text))
    yield _event({**head, "choices": [finished | {"text": ""}]})
    if body.stream_options is not None and body.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(event.value)})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _choice(
    index: int, continuation: Continuation, logprobs: int | None, offset: int
) -> dict[str, Any]:
    reason = "stop" if continuation.stop in _FINISHED else "length"
    listed = None if logprobs is None else _logprobs(continuation, logprobs, offset)
    return {
        "index": index,
        "text": continuation.text,
        "logprobs": listed,
        "finish_reason": reason,
    }


def _logprobs(continuation: Continuation, count: int, offset: int) -> dict[str, Any]:
    """Tokens that add text, with the only log-probability that is known: their own."""
    tokens, values, offsets = list[str](), list[float](), list[int]()
    for piece, logprob in zip(continuation.pieces, continuation.logprobs, strict=False):
        if piece:
            tokens.append(piece)
            # JSON has no infinity.
            values.append(max(logprob, -9999.0))
            offsets.append(offset)
            offset += len(piece)
    tops = [{token: value} for token, value in zip(tokens, values, strict=True)]
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if count else None,
        "text_offset": offsets,
    }


def _usage(continuations: list[Continuation]) -> dict[str, Any]:
    # A repeated continuation was decoded once.
    results = {id(one.result): one.result for one in continuations}.values()
    first = continuations[0].result
    generated = sum(len(result.token_ids) for result in results)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": first.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": first.reused_tokens},
    }


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n")
