"""The `openai` package for Python against `snowcoder gateway`."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from benchmarks.servers import gateway
from lsp_server.gateway.config import TOKEN_VARIABLE
from tests.e2e.waiting import wait_for

KNOWN = "for name in names:\n    print(name)\n\n" * 3 + "for name in names:\n    print("
"""Code whose next word any model for Python knows: `name`."""
MODEL = "snowcoder-88m"
LIMIT_S = 60.0
LONG = {"model": MODEL, "prompt": "def fibonacci(n):\n", "max_tokens": 512}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with gateway(os.environ.get("SNOWCODER_E2E_MODEL"), threads=2) as (started, _):
        yield started


def client_of(address: str, token: str = "none") -> OpenAI:
    # Repeated requests would hide errors.
    return OpenAI(base_url=f"{address}/v1", api_key=token, max_retries=0, timeout=LIMIT_S)


@pytest.fixture
def client(address: str) -> Iterator[OpenAI]:
    with client_of(address) as made:
        yield made


def complete(client: OpenAI, **more: Any) -> Any:
    given = {"model": MODEL, "prompt": KNOWN, "max_tokens": 16, "stop": ["\n"]}
    return client.completions.create(**(given | more))


def given_up(address: str, why: str) -> float:
    """How many requests the gateway says were given up for this reason."""
    metrics = httpx.get(f"{address}/metrics").text
    found = re.search(rf'^snowcoder_gateway_cancelled_total{{why="{why}"}} (\S+)$', metrics, re.M)
    return float(found[1]) if found else 0.0


def test_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == complete(client).model
    assert model.object == "model"


def test_a_completion(client: OpenAI) -> None:
    completion = complete(client)
    (choice,) = completion.choices
    assert choice.text.startswith("name")
    assert "\n" not in choice.text
    assert choice.finish_reason == "stop"
    usage = completion.usage
    assert 0 < usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_tokens_end_a_completion(client: OpenAI) -> None:
    completion = complete(client, prompt="def fibonacci(n):\n", max_tokens=3, stop=None)
    assert completion.choices[0].finish_reason == "length"


def test_a_streamed_completion_is_the_same(client: OpenAI) -> None:
    wanted = {"prompt": "def area(width, height):\n", "max_tokens": 24, "stop": ["\n\n\n"]}
    whole = complete(client, **wanted)
    options = {"include_usage": True}
    *chunks, last = complete(client, **wanted, stream=True, stream_options=options)
    assert len(chunks) > 2
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.id for chunk in chunks} == {last.id}
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_the_text_behind_the_cursor_is_read(client: OpenAI) -> None:
    suffix = "\nprint(os.environ['HOME'])\n"
    short, long = complete(client), complete(client, suffix=suffix)
    assert long.usage.prompt_tokens > short.usage.prompt_tokens


def test_choices_and_log_probabilities(client: OpenAI) -> None:
    completion = complete(client, prompt="x = ", n=3, logprobs=1)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len({choice.text for choice in completion.choices}) > 1
    for choice in completion.choices:
        assert "".join(choice.logprobs.tokens) == choice.text
        assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.tokens)
        assert all(value <= 0 for value in choice.logprobs.token_logprobs)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"prompt": ["a", "b"]}, "one prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 50}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"n": 2, "stream": True}, "streamed"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request(
    client: OpenAI, body: dict[str, Any], says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as raised:
        complete(client, **body)
    assert raised.value.code == "invalid_request"
    assert raised.value.type == "invalid_request_error"


def test_a_body_too_large_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        complete(client, prompt="x" * 2_100_000)
    assert raised.value.status_code == 413


def test_the_chat_interface_is_not_there(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])


def test_leaving_a_stream_ends_the_decoding(client: OpenAI, address: str) -> None:
    before = given_up(address, "disconnected")
    with client.completions.create(**LONG, stream=True) as stream:
        next(iter(stream))
    wait_for(lambda: given_up(address, "disconnected") > before, LIMIT_S)
    assert complete(client).choices[0].text.startswith("name")


def test_a_newer_request_ends_the_older(client: OpenAI) -> None:
    older = client.completions.create(**LONG, user="ada", stream=True)
    chunks = iter(older)
    next(chunks)
    assert complete(client, user="ada").choices[0].text.startswith("name")
    with pytest.raises(openai.APIError) as raised:
        list(chunks)
    assert raised.value.code == "superseded"


def test_a_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    token = secrets.token_hex(16)
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with gateway(os.environ.get("SNOWCODER_E2E_MODEL"), threads=2) as (address, _):
        with client_of(address, token) as client:
            assert complete(client).choices[0].text.startswith("name")
        with client_of(address, "another") as client:
            with pytest.raises(openai.AuthenticationError, match="token"):
                complete(client)
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
