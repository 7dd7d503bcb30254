from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from typing import Any

import httpx
import pytest

from completion.types import DecodePolicy
from lsp_server.gateway.infill import InfillBody
from lsp_server.gateway.runner import Engines
from tests.lsp_server.gateway.conftest import KV_LIMIT, PATIENCE

PREFIX = "for name in names:\n    print(name)\n\n" * 3 + "for name in names:\n    print("
"""Code whose next word any model for Python knows: `name`."""
LONG = {"prompt": "def fibonacci(n):\n", "max_tokens": 512}


def complete(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"prompt": PREFIX, "stop": "\n"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sent_events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[str]:
    with http.stream("POST", path, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def metric(http: httpx.Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_the_model_is_listed(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["snowcoder-88m"]
    assert http.get("/health").json() == {"status": "ok"}


def test_a_completion_ends_before_its_stop_string(http: httpx.Client) -> None:
    answer = complete(http)
    (choice,) = answer["choices"]
    assert "\n" not in choice["text"]
    assert choice["text"].startswith("name")
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_tokens_end_a_completion(http: httpx.Client) -> None:
    answer = complete(http, prompt="def fibonacci(n):\n", max_tokens=3, stop=None)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


def test_the_suffix_is_read(http: httpx.Client) -> None:
    prompt = "import os\n\nvalue = "
    suffix = "\nprint(os.environ['HOME'])\n"
    short, long = complete(http, prompt=prompt), complete(http, prompt=prompt, suffix=suffix)
    assert long["usage"]["prompt_tokens"] > short["usage"]["prompt_tokens"]


def test_log_probabilities_belong_to_tokens_that_make_the_text(http: httpx.Client) -> None:
    (choice,) = complete(http, logprobs=1)["choices"]
    listed = choice["logprobs"]
    assert "".join(listed["tokens"]) == choice["text"]
    assert len(listed["token_logprobs"]) == len(listed["tokens"])
    assert all(value <= 0 for value in listed["token_logprobs"])
    starts = [offset - len(PREFIX) for offset in listed["text_offset"]]
    assert starts == [len("".join(listed["tokens"][:n])) for n in range(len(listed["tokens"]))]


def test_as_many_choices_as_asked_for(http: httpx.Client) -> None:
    choices = complete(http, n=3, prompt="x = ")["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["text"] for choice in choices}) > 1


@pytest.mark.parametrize("stop", ["\n", ["return", "\n\n\n"], None])
def test_streamed_text_is_the_same(http: httpx.Client, stop: object) -> None:
    body = {"prompt": "def area(width, height):\n", "max_tokens": 24, "stop": stop}
    whole = http.post("/v1/completions", json=body).json()["choices"][0]
    options = {"stream": True, "logprobs": 0, "stream_options": {"include_usage": True}}
    *chunks, usage, done = sent_events(http, "/v1/completions", body | options)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    assert all(choice["logprobs"] is None for choice in choices[:-1])
    assert "".join(choices[-1]["logprobs"]["tokens"]) == whole["text"]
    assert json.loads(usage)["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": ["a", "b"]}, "one prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"n": 99}, "n:"),
        ({"n": 2, "stream": True}, "streamed"),
        ({"echo": True}, "echo"),
        ({"logprobs": 50}, "logprobs"),
        ({"stop": 7}, "stop"),
    ],
)
def test_what_cannot_be_done_is_said(http: httpx.Client, body: dict[str, Any], says: str) -> None:
    answer = http.post("/v1/completions", json={"prompt": "x"} | body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 50_000, b'{"prompt": "\\ud800"}']
)
@pytest.mark.parametrize("path", ["/v1/completions", "/infill"])
def test_unreadable_bodies_are_refused(http: httpx.Client, path: str, content: bytes) -> None:
    answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
    if answer.status_code != 200:
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/infill"])
def test_a_body_without_its_type_is_told_which(http: httpx.Client, path: str) -> None:
    # What `curl -d` sends.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.post(path, content=b'{"prompt": "x = "}', headers=form)
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_what_is_no_json_is_told_where(http: httpx.Client) -> None:
    head = {"Content-Type": "application/json"}
    answer = http.post("/infill", content=b'{"prompt": ', headers=head)
    assert "not valid JSON at character 11" in answer.json()["error"]["message"]


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    error = http.post("/v1/chat/completions", json={}).json()["error"]
    assert error["code"] == "not_found"
    assert "/v1/completions" in error["message"]
    assert http.get("/infill").status_code == 405


def infill(http: httpx.Client, **body: Any) -> dict[str, Any]:
    given = {"input_prefix": "", "prompt": PREFIX, "input_suffix": "\n", "t_max_predict_ms": 20_000}
    answer = http.post("/infill", json=given | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def policy_of(**body: Any) -> DecodePolicy:
    return InfillBody.model_validate(body).policies("python", 512).decode


def test_infill_limits_are_the_engine_s() -> None:
    most = DecodePolicy().max_tokens
    assert policy_of().deadline_ms is None
    assert policy_of(t_max_predict_ms=0).deadline_ms is None
    assert policy_of(t_max_predict_ms=200).deadline_ms == 200
    assert policy_of(t_max_predict_ms=200, t_max_prompt_ms=500).deadline_ms == 700
    assert [policy_of(n_predict=n).max_tokens for n in (-1, 5, 10_000)] == [most, 5, most]


def test_infill_gives_text_and_times(http: httpx.Client) -> None:
    answer = infill(http)
    assert answer["content"].startswith("name")
    assert answer["stop"] is True
    assert answer["timings"]["predicted_n"] > 0
    assert answer["timings"]["predicted_ms"] > 0


def test_infill_stops_where_it_is_told(http: httpx.Client) -> None:
    whole = infill(http)["content"]
    assert infill(http, stop=["", whole[2:4]])["content"] == whole[:2]
    other = infill(http, input_prefix="# another document\n" * 20, n_predict=1)
    assert other["stop_type"] == "limit"


def test_infill_leaves_what_the_editor_closed(http: httpx.Client) -> None:
    open_, closed = infill(http), infill(http, input_suffix=")\n")
    assert open_["content"] == closed["content"] + ")"


def test_infill_names_nested_fields_by_their_path(http: httpx.Client) -> None:
    fields = ["content", "timings/prompt_n", "tokens_cached", "no/such", "content/x"]
    assert set(infill(http, response_fields=fields)) == {
        "content",
        "timings/prompt_n",
        "tokens_cached",
    }


def test_llama_vim_finds_the_content(http: httpx.Client) -> None:
    # The plugin looks for this before it decodes anything.
    assert re.search(r'"content"\s*:"', http.post("/infill", json={"prompt": "x = 1"}).text)


def test_infill_warm_up_of_other_files(http: httpx.Client) -> None:
    extra = [{"filename": ".env", "text": "TOKEN=1", "time": 3}]
    assert infill(http, n_predict=0, input_extra=extra, response_fields=[""]) == {}


def test_infill_streams(http: httpx.Client) -> None:
    body = {"prompt": PREFIX, "input_suffix": "\n", "stream": True, "t_max_predict_ms": 20_000}
    first, last = (json.loads(event) for event in sent_events(http, "/infill", body))
    assert first["content"].startswith("name")
    assert not first["stop"]
    assert last["stop"]


def test_typing_on_reads_little_anew(http: httpx.Client) -> None:
    text = "".join(f"def function_{n}(a, b):\n    return a + {n} * b\n\n" for n in range(40))
    name = {"X-Client-Id": "typist"}
    body = {"prompt": text + "value = func", "max_tokens": 1}
    http.post("/v1/completions", json=body, headers=name)
    body["prompt"] += "tion_3"
    usage = http.post("/v1/completions", json=body, headers=name).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0.9 * usage["prompt_tokens"]


def test_a_newer_request_of_the_same_client_supersedes(http: httpx.Client, address: str) -> None:
    name = {"X-Client-Id": "superseding"}
    answers: list[httpx.Response] = []

    def ask() -> None:
        url = f"{address}/v1/completions"
        answers.append(httpx.post(url, json=LONG, headers=name, timeout=PATIENCE))

    first = threading.Thread(target=ask)
    first.start()
    time.sleep(0.3)
    second = http.post("/v1/completions", json={"prompt": PREFIX, "max_tokens": 2}, headers=name)
    first.join(PATIENCE)
    assert second.status_code == 200
    assert answers[0].status_code == 499
    assert answers[0].json()["error"]["code"] == "superseded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(
    http: httpx.Client, address: str, stream: bool
) -> None:
    name = 'snowcoder_gateway_cancelled_total{why="disconnected"}'
    before = metric(http, name)

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=None) as client, asyncio.timeout(0.4):
            body = LONG | {"stream": stream}
            async with client.stream("POST", f"{address}/v1/completions", json=body) as answer:
                async for _ in answer.aiter_lines():
                    pass

    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    give_up = time.monotonic() + PATIENCE
    while metric(http, name) == before:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert complete(http, max_tokens=1)["choices"]


def test_many_clients_at_once_each_get_their_own_text(http: httpx.Client, address: str) -> None:
    words = ("alpha", "beta", "gamma", "delta", "epsilon")
    bodies = [
        {"prompt": f"{word} = 1\nprint({word})\n" * 3 + "print(", "max_tokens": 6, "stop": "\n"}
        for word in words
    ]
    alone = [complete(http, **body)["choices"][0]["text"] for body in bodies]
    assert len(set(alone)) == len(words)

    async def ask(client: httpx.AsyncClient, number: int) -> str:
        while True:
            body = bodies[number % len(bodies)]
            answer = await client.post(f"{address}/v1/completions", json=body)
            if answer.status_code != 503:
                assert answer.status_code == 200
                return answer.json()["choices"][0]["text"]
            assert answer.json()["error"]["code"] == "overloaded"
            await asyncio.sleep(float(answer.headers["retry-after"]) / 4)

    async def ask_all() -> list[str]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    texts = asyncio.run(ask_all())
    assert texts == [alone[number % len(alone)] for number in range(200)]


def test_clients_share_one_cap(http: httpx.Client, engines: Engines) -> None:
    lines = "".join(f"value_{number} = compute({number})\n" for number in range(150))
    for name in range(8):
        head = {"X-Client-Id": f"sharing {name}"}
        body = {"prompt": f"# {name}\n{lines}x = ", "max_tokens": 1}
        assert http.post("/v1/completions", json=body, headers=head).status_code == 200
    # Two of these documents' caches fill it already.
    assert 0.3 * KV_LIMIT < engines.kv_bytes() <= KV_LIMIT


def test_metrics_tell_no_source(http: httpx.Client) -> None:
    complete(http, prompt="secret_name = ")
    text = http.get("/metrics").text
    assert 'path="/v1/completions"' in text
    assert "secret_name" not in text
    assert metric(http, "snowcoder_gateway_kv_bytes") > 0
