"""An engine that hangs, fails or ends its thread: a named error, and the gateway serves on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from completion.continuation import Continuation, ContinuationRequest
from lsp_server.gateway.config import GatewayConfig
from lsp_server.gateway.runner import Engines
from models.backend import GenerateResult, StopReason
from models.errors import ModelError
from tests.lsp_server.gateway.conftest import PATIENCE, Serve

PROMPT = {"prompt": "x = ", "max_tokens": 4}


RESULT = GenerateResult("1", (7,), (-0.1,), StopReason.NEWLINE, 3, 0, 1.0, 1.0)


class Failing:
    """Answers at once, unless the prompt asks for a failure."""

    def run(self, request: ContinuationRequest) -> list[Continuation]:
        failures: dict[str, Callable[[ContinuationRequest], None]] = {
            "hang": self._hang,
            "model": self._model,
            "defect": self._defect,
            "exit": self._exit,
        }
        if (failure := failures.get(request.prefix)) is not None:
            failure(request)
        return [Continuation("1", ("1",), (-0.1,), StopReason.NEWLINE, RESULT)]

    def forget(self, uri: str) -> None:
        """Nothing is kept."""

    def _hang(self, request: ContinuationRequest) -> None:
        if request.on_text is not None:
            request.on_text("begun")
        assert request.cancel.wait(PATIENCE), "nobody gave it up"

    def _model(self, request: ContinuationRequest) -> None:
        raise ModelError("the weights vanished")

    def _defect(self, request: ContinuationRequest) -> None:
        raise ValueError("secret_source = 1")

    def _exit(self, request: ContinuationRequest) -> None:
        raise SystemExit


@pytest.fixture(scope="module")
def failing(serve: Serve, engines: Engines) -> str:
    continuer: Any = Failing()
    return serve(GatewayConfig(rate=1000, answer_s=1.0), replace(engines, continuer=continuer))


def ask(address: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/completions", json=PROMPT | body, timeout=PATIENCE)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("model", 503, "model_error"),
        ("defect", 500, "internal_error"),
        ("exit", 500, "internal_error"),
    ],
)
def test_a_failure_is_named_and_tells_no_source(
    failing: str, prompt: str, status: int, code: str, stream: bool
) -> None:
    answer = ask(failing, prompt=prompt, stream=stream)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "secret_source" not in answer.text
    assert ask(failing).json()["choices"], "the next request is served"


def test_an_engine_that_hangs_is_given_up(failing: str) -> None:
    answer = ask(failing, prompt="hang")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_timeout"
    assert ask(failing).json()["choices"]


def test_a_stream_that_hangs_ends_with_the_reason(failing: str) -> None:
    answer = ask(failing, prompt="hang", stream=True)
    assert answer.status_code == 200
    *_, begun, last = [line for line in answer.text.splitlines() if line]
    assert json.loads(begun.removeprefix("data: "))["choices"][0]["text"] == "begun"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_timeout"
    assert ask(failing).json()["choices"]
