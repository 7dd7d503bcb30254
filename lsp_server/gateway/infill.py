"""`POST /infill` of llama.cpp's server, as llama.vim and llama.vscode call it.

Unlike `/v1/completions` this is the path of our own editors: the engine decides whether there is
something worth showing and where it ends, so `content` may be empty. Samplers are ignored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from completion.continuation import StopStrings
from completion.types import (
    CompletionRequest,
    ContextPolicy,
    DecodePolicy,
    Hidden,
    Outcome,
    Policies,
    TriggerPolicy,
)
from lsp_server.gateway.clients import client_of
from lsp_server.gateway.extra import ExtraPiece
from lsp_server.gateway.runner import Runner
from models.cancellation import Cancellation

_BLOCK_LINES = 8


class InfillBody(BaseModel):
    """The fields that mean something here; others are ignored, as clients send many."""

    model_config = ConfigDict(extra="ignore")

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraPiece] = []
    prompt: str = ""
    n_predict: int = -1
    t_max_prompt_ms: Annotated[float, Field(ge=0)] | None = None
    t_max_predict_ms: float | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    response_fields: list[str] | None = None

    def policies(self, language: str, most: int) -> Policies:
        """The policies of a request that allows `most` tokens."""
        tokens = DecodePolicy().max_tokens if self.n_predict < 0 else self.n_predict
        predict = self.t_max_predict_ms
        deadline = (
            None if predict is None or predict <= 0 else predict + (self.t_max_prompt_ms or 0)
        )
        return Policies(
            trigger=TriggerPolicy(languages=frozenset({language})),
            decode=DecodePolicy(
                max_tokens=min(max(1, tokens), DecodePolicy().max_tokens, most),
                block_lines=_BLOCK_LINES,
                deadline_ms=deadline,
            ),
            context=ContextPolicy(enabled=bool(self.input_extra)),
        )

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that are not empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(one for one in given if one)


def create_router(runner: Runner, max_tokens: int) -> APIRouter:
    """The route of one gateway."""
    router, engines = APIRouter(), runner.engines

    @router.post("/infill", response_model=None)
    async def infill(body: InfillBody, request: Request) -> JSONResponse | StreamingResponse:
        """Text between `input_prefix` + `prompt` and `input_suffix`."""
        if body.n_predict == 0:
            # Clients warm up a cache of other files so; what is read depends on the cursor here.
            return JSONResponse(selected(_answer(None, "", body, engines.model_id), body))
        client = client_of(request)
        prefix = body.input_prefix + body.prompt
        text = prefix + body.input_suffix
        uri = runner.document(client, prefix, body.input_suffix)
        policies, received = body.policies(engines.language, max_tokens), time.perf_counter()

        def work(cancel: Cancellation) -> Outcome:
            engines.sent.put(uri, body.input_extra, text)
            return engines.suggest.complete(
                CompletionRequest(
                    text,
                    len(prefix),
                    uri=uri,
                    language=engines.language,
                    policies=policies,
                    cancel=cancel,
                    received=received,
                )
            )

        done = await runner.run(request, client, work)
        content = content_of(done.value, text, body.stops)
        answer = _answer(done.value, content, body, engines.model_id)
        if body.stream:
            events = _events(selected(answer, body), content)
            return StreamingResponse(events, media_type="text/event-stream", headers=done.headers)
        return JSONResponse(selected(answer, body), headers=done.headers)

    return router


def content_of(outcome: Outcome, text: str, stop: tuple[str, ...]) -> str:
    """What to insert at the cursor; empty where nothing fits.

    Clients of this protocol only insert, while a suggestion may replace what an editor closed
    behind the cursor: it fits if it ends with that, or if that is blank.
    """
    if isinstance(outcome, Hidden):
        return ""
    replaced, insert = text[outcome.start : outcome.end], outcome.insert
    if replaced.strip():
        if not insert.endswith(replaced):
            return ""
        insert = insert.removesuffix(replaced)
    cut = StopStrings(stop).cut(insert)
    return insert if cut is None else insert[:cut]


def selected(answer: dict[str, Any], body: InfillBody) -> dict[str, Any]:
    """The `response_fields` asked for; nested ones keep their path as their name."""
    if body.response_fields is None:
        return answer
    found = {}
    for path in body.response_fields:
        value: Any = answer
        for step in path.split("/"):
            value = value.get(step, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            found[path] = value
    return found


_MISSING = object()


def _answer(
    outcome: Outcome | None, content: str, body: InfillBody, model_id: str
) -> dict[str, Any]:
    record = None if outcome is None else outcome.record
    read = record.prompt_tokens - record.reused_tokens if record else 0
    predicted = record.generated_tokens if record else 0
    prompt_ms = record.prefill_ms if record else 0.0
    predicted_ms = record.decode_ms if record else 0.0
    return {
        "content": content,
        "index": 0,
        "stop": True,
        "stop_type": "limit" if record and record.stop == "max_tokens" else "eos",
        "stopping_word": "",
        "model": model_id,
        "tokens_predicted": predicted,
        "tokens_evaluated": record.prompt_tokens if record else 0,
        "tokens_cached": record.reused_tokens if record else 0,
        "truncated": False,
        "hidden_reason": outcome.reason.value if isinstance(outcome, Hidden) else None,
        "generation_settings": {"n_predict": body.n_predict, "stop": list(body.stops)},
        "timings": {
            "prompt_n": read,
            "prompt_ms": prompt_ms,
            **_speeds("prompt", read, prompt_ms),
            "predicted_n": predicted,
            "predicted_ms": predicted_ms,
            **_speeds("predicted", predicted, predicted_ms),
        },
    }


def _speeds(name: str, tokens: int, milliseconds: float) -> dict[str, float]:
    return {
        f"{name}_per_token_ms": milliseconds / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / milliseconds * 1e3 if milliseconds else 0.0,
    }


def _events(answer: dict[str, Any], content: str) -> Iterator[str]:
    yield f"data: {json.dumps({'content': content, 'stop': False}, ensure_ascii=False)}\n\n"
    yield f"data: {json.dumps({**answer, 'content': ''}, ensure_ascii=False)}\n\n"
