from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.backend import StopReason
from models.circuit import CircuitBreaker
from models.errors import (
    ModelError,
    RemoteProtocolError,
    RemoteStatusError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)
from models.remote import RemoteClient, RemoteConfig, RemoteRequest, line_end, same_model
from models.sse import EventReader
from models.templates import TEMPLATES, template_for
from tests.remote_server import DONE, HEAD, Part, RemoteServer, event, running, stream

REQUEST = RemoteRequest("value = ", "\nprint(value)\n")


@pytest.fixture(scope="module")
def shared() -> Iterator[RemoteServer]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: RemoteServer) -> RemoteServer:
    shared.bodies.clear()
    shared.headers.clear()
    shared.left = 0
    return shared


@pytest.fixture
def client(server: RemoteServer) -> Iterator[RemoteClient]:
    remote = RemoteClient(RemoteConfig(server.url, "m"))
    yield remote
    remote.close()


def answers(server: RemoteServer, parts: list[Part]) -> None:
    server.answer = lambda body: parts


def soon(seconds: float) -> float:
    return time.perf_counter() + seconds


@pytest.mark.parametrize(
    ("parts", "text", "stop"),
    [
        (stream("1", "2"), "12", StopReason.END_OF_MIDDLE),
        (stream("1", "2", end="length"), "12", StopReason.MAX_TOKENS),
        (stream("1", "2\nnext", "more", end=None), "12", StopReason.NEWLINE),
        (stream("\n", "a", "\nb", end=None), "\na", StopReason.NEWLINE),
        (stream(), "", StopReason.END_OF_MIDDLE),
        ([HEAD, event("1"), DONE], "1", StopReason.END_OF_MIDDLE),
        ([HEAD, b": a comment\n\nevent: x\n", event("1"), DONE], "1", StopReason.END_OF_MIDDLE),
        ([HEAD, event("1"), event("", choices=[]), DONE], "1", StopReason.END_OF_MIDDLE),
        ([HEAD, *(bytes([byte]) for byte in event("é") + DONE)], "é", StopReason.END_OF_MIDDLE),
    ],
)
def test_streamed_text(
    server: RemoteServer, client: RemoteClient, parts: list[Part], text: str, stop: StopReason
) -> None:
    answers(server, parts)
    result = client.complete(REQUEST)
    assert (result.text, result.stop) == (text, stop)
    assert 0 <= result.first_ms <= result.total_ms


def test_several_lines(server: RemoteServer, client: RemoteClient) -> None:
    answers(server, stream("a\nb", "\nc\n", end=None))
    result = client.complete(RemoteRequest("x", "", max_lines=2))
    assert (result.text, result.stop) == ("a\nb", StopReason.NEWLINE)


@pytest.mark.parametrize(
    ("parts", "error", "says"),
    [
        ([b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\nsecret"], RemoteStatusError, "500"),
        (
            [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n"],
            RemoteStatusError,
            "302",
        ),
        (
            [HEAD.replace(b"text/event-stream", b"text/html"), b"<html>Log in</html>"],
            RemoteProtocolError,
            "text/html",
        ),
        ([HEAD, b"<html>"], RemoteProtocolError, "before its end"),
        ([HEAD, event("1")[:30]], RemoteProtocolError, "before its end"),
        ([HEAD, event("1")], RemoteProtocolError, "before its end"),
        ([HEAD, event("1"), None], RemoteProtocolError, "broke off|before its end"),
        ([None], RemoteProtocolError, "broke off"),
        ([b"nonsense\r\n\r\n"], RemoteProtocolError, "broke off"),
        ([HEAD, b"data: {half\n\n"], RemoteProtocolError, "no completion"),
        ([HEAD, b"data: [1]\n\n"], RemoteProtocolError, "no completion"),
        ([HEAD, b"data: " + b"[" * 99_999 + b"\n\n"], RemoteProtocolError, "no completion"),
        ([HEAD, event("x", choices=[{"text": 7}])], RemoteProtocolError, "no completion"),
        ([HEAD, event("x", choices=7)], RemoteProtocolError, "no completion"),
        ([HEAD, b"data: \xff\xfe\n\n"], RemoteProtocolError, "UTF-8"),
        ([HEAD, b"x" * 1_000_001], RemoteProtocolError, "exceeds"),
        ([HEAD, event("x", error={"message": "secret"})], RemoteProtocolError, "failed"),
        ([HEAD, event("x", model="other")], RemoteProtocolError, "another model"),
        ([HEAD, event("x"), event("y", id="cmpl-2")], RemoteProtocolError, "another model"),
    ],
)
def test_bad_answers_have_names(
    server: RemoteServer,
    client: RemoteClient,
    parts: list[Part],
    error: type[ModelError],
    says: str,
) -> None:
    answers(server, parts)
    with pytest.raises(error, match=says) as caught:
        client.complete(REQUEST)
    assert "secret" not in str(caught.value)
    assert len(server.bodies) == 1, "what was sent is not sent again"


@pytest.mark.parametrize("parts", [[30.0], [HEAD, 30.0], [HEAD, b"data: {", 30.0]])
def test_a_remote_that_hangs_is_left_at_the_deadline(
    server: RemoteServer, client: RemoteClient, parts: list[Part]
) -> None:
    answers(server, parts)
    with pytest.raises(RemoteTimeoutError, match="in time"):
        client.complete(RemoteRequest("x", "", deadline=soon(0.2)))
    give_up = soon(10)
    while not server.left:
        assert time.perf_counter() < give_up, "the connection stays open"
        time.sleep(0.01)


def test_what_came_before_the_deadline_is_kept(server: RemoteServer, client: RemoteClient) -> None:
    answers(server, [HEAD, event("begun"), 30.0])
    result = client.complete(RemoteRequest("x", "", deadline=soon(0.5)))
    assert (result.text, result.stop) == ("begun", StopReason.DEADLINE)


def test_a_cancelled_call_returns_and_closes(server: RemoteServer, client: RemoteClient) -> None:
    answers(server, [HEAD, event("begun"), 30.0])
    request = RemoteRequest("x", "")
    threading.Timer(0.2, request.cancel.set).start()
    assert client.complete(request).stop is StopReason.CANCELLED
    give_up = soon(10)
    while not server.left:
        assert time.perf_counter() < give_up
        time.sleep(0.01)
    assert not client.breaker.open
    assert client.complete(request).stop is StopReason.CANCELLED
    assert len(server.bodies) == 1, "nothing is sent for a request that is over"


def test_only_connecting_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, send = 0, httpx.AsyncHTTPTransport.handle_async_request

    async def counted(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        nonlocal tried
        tried += 1
        return await send(self, request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", counted)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    client = RemoteClient(RemoteConfig(f"http://127.0.0.1:{port}", "m"))
    with pytest.raises(RemoteUnreachableError, match="no connection"):
        client.complete(REQUEST)
    client.close()
    assert tried == 2


def test_nothing_is_opened_before_the_first_call() -> None:
    threads = threading.active_count()
    RemoteClient(RemoteConfig("http://127.0.0.1:9", "m")).close()
    assert threading.active_count() == threads


def test_what_is_sent(server: RemoteServer) -> None:
    answers(server, stream("1"))
    config = RemoteConfig(f"{server.url}/v1/", "m", "openai", token="0123")
    client = RemoteClient(config)
    client.complete(RemoteRequest("a\ud800", "b", max_tokens=5))
    client.close()
    (body,) = server.bodies
    assert body == {
        "model": "m",
        "prompt": "a?",
        "suffix": "b",
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "stop": ["\n"],
    }
    assert server.headers[0].startswith("POST /v1/completions ")
    assert "authorization: bearer 0123" in server.headers[0].lower()


def test_special_tokens_never_reach_the_user(server: RemoteServer) -> None:
    answers(server, stream("x", "<|fim", "_pad|>y", end=None))
    client = RemoteClient(RemoteConfig(server.url, "m", "qwen"))
    result = client.complete(REQUEST)
    client.close()
    assert (result.text, result.stop) == ("x", StopReason.END_OF_MIDDLE)
    assert "suffix" not in server.bodies[0]
    expected = f"<|fim_prefix|>{REQUEST.prefix}<|fim_suffix|>{REQUEST.suffix}<|fim_middle|>"
    assert server.bodies[0]["prompt"] == expected


def test_after_failures_in_a_row_nothing_is_sent(server: RemoteServer) -> None:
    now = [0.0]
    breaker = CircuitBreaker(failures=2, clock=lambda: now[0])
    client = RemoteClient(RemoteConfig(server.url, "m"), breaker)
    answers(server, [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
    for _ in range(2):
        with pytest.raises(RemoteStatusError):
            client.complete(REQUEST)
    with pytest.raises(RemoteUnreachableError, match="left alone"):
        client.complete(REQUEST)
    assert len(server.bodies) == 2
    now[0] = 5.0
    answers(server, stream("1"))
    assert client.complete(REQUEST).text == "1"
    assert not breaker.open
    client.close()


@given(st.lists(st.sampled_from(["fail", "succeed", "abandon", "wait"]), max_size=40))
def test_a_breaker_never_locks_up(steps: list[str]) -> None:
    now, failures = 0.0, 0
    breaker = CircuitBreaker(clock=lambda: now)
    for step in steps:
        if step == "wait":
            now += 61
        elif breaker.allow():
            if step == "fail":
                breaker.failed()
                failures += 1
            elif step == "succeed":
                breaker.succeeded()
                failures = 0
            else:
                breaker.abandoned()
        assert breaker.open == (failures >= 3)
    now += 61
    assert breaker.allow(), "an attempt is due at the latest after a minute"


def test_one_attempt_at_a_time_while_it_is_half_open() -> None:
    now = 0.0
    breaker = CircuitBreaker(failures=1, clock=lambda: now)
    breaker.failed()
    now = 5.0
    assert breaker.allow()
    assert not breaker.allow()
    breaker.failed()
    now = 10.0
    assert not breaker.allow(), "the pause doubled"
    now = 15.0
    assert breaker.allow()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"))), st.data())
def test_events_survive_any_cut(payloads: list[str], data: st.DataObject) -> None:
    whole = b"".join(b"data: " + payload.encode() + b"\r\n\r\n" for payload in payloads)
    reader, events = EventReader(), []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        events += reader.feed(whole[:size])
        whole = whole[size:]
    assert events == [payload.strip() for payload in payloads]


@given(st.text("a\n", max_size=10), st.integers(0, 3))
def test_the_line_ends_where_local_decoding_ends_it(text: str, max_lines: int) -> None:
    from models.generate import Text

    local = Text(b"", max_lines)
    ended = not local.append(text.encode())
    end = line_end(text, max_lines)
    assert ended == (end is not None)
    assert local.data.decode() == text[:end]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_hold_any_text(name: str) -> None:
    prefix, suffix = "{suffix} {prefix", "}{prefix} {0}"
    prompt = TEMPLATES[name].prompt(prefix, suffix)
    assert prompt.count(prefix) >= 1
    assert name == "openai" or suffix in prompt


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("Qwen/Qwen2.5-Coder-1.5B", "qwen"),
        ("bigcode/starcoder2-3b", "starcoder"),
        ("snowcoder-88m", "snowcoder"),
        ("Snowflake/Arctic-SnowCoder-1.3B", "openai"),
        ("deepseek-coder:6.7b-base", "deepseek"),
        ("something", "openai"),
    ],
)
def test_the_template_is_found_by_name(model: str, template: str) -> None:
    assert template_for(model) == template


@pytest.mark.parametrize(
    ("asked", "told", "same"),
    [
        ("m", "m", True),
        ("m", None, True),
        ("", "m", True),
        ("qwen2.5-coder", "qwen2.5-coder:latest", True),
        ("org/m", "/models/m", True),
        ("m", "n", False),
        ("m", "m2", False),
        ("m", 7, False),
    ],
)
def test_whose_text_it_is(asked: str, told: object, same: bool) -> None:
    assert same_model(asked, told) is same
