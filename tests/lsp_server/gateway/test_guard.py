from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner

from lsp_server.cli import app
from lsp_server.gateway.config import TOKEN_VARIABLE, GatewayConfig, GatewayError
from lsp_server.gateway.guard import RateLimit
from tests.lsp_server.gateway.conftest import Serve

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> str:
    return serve(GatewayConfig(token=TOKEN, max_body=1000))


@pytest.fixture(scope="module")
def limited(serve: Serve) -> str:
    # So seldom that no pause of the machine makes a second request welcome.
    return serve(GatewayConfig(rate=0.001))


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "Authorization: Bearer"),
        ({"X-Api-Key": TOKEN}, "not as x-api-key"),
        ({"Api-Key": TOKEN}, "not as api-key"),
        ({"Authorization": TOKEN}, "begin with 'Bearer'"),
        ({"Authorization": f"Basic {TOKEN}"}, "begin with 'Bearer'"),
        ({"Authorization": f"Bearer {TOKEN}x"}, "is not the gateway's"),
        ({"Authorization": "Bearer"}, "is not the gateway's"),
        ({"Authorization": "Bearer \xe9".encode("latin-1")}, "is not the gateway's"),
    ],
)
@pytest.mark.parametrize("path", ["/infill", "/v1/completions", "/v1/models", "/metrics"])
def test_without_the_token_nothing_is_told(
    guarded: str, path: str, headers: dict[str, str], says: str
) -> None:
    answer = httpx.get(guarded + path, headers=headers)
    assert answer.status_code == 401
    assert says in answer.json()["error"]["message"]
    assert TOKEN not in answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_all_is_served(guarded: str) -> None:
    headers = {"Authorization": f"bearer {TOKEN}", "Origin": "https://intranet"}
    assert httpx.get(f"{guarded}/v1/models", headers=headers).status_code == 200
    assert httpx.get(f"{guarded}/health").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Host": "evil:80"}]
)
def test_web_pages_do_not_reach_an_open_gateway(address: str, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{address}/infill", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("announced", [True, False])
def test_endless_bodies_are_refused_unread(guarded: str, announced: bool) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1_000_000
            yield b"x" * 1_000_000

    headers = {"Authorization": f"Bearer {TOKEN}"}
    if announced:
        headers["Content-Length"] = "100000000"
    try:
        answer = httpx.post(f"{guarded}/infill", content=chunks(), headers=headers, timeout=20)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        # The connection was closed while the client was still sending.
        assert sent < 100_000_000
    else:
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
    assert httpx.get(f"{guarded}/health").status_code == 200


@pytest.mark.parametrize(
    ("announced", "status"), [(True, 413), (False, 413), (True, 401), (False, 401), (False, 404)]
)
def test_who_sends_before_reading_gets_the_answer(
    guarded: str, announced: bool, status: int
) -> None:
    """And no reset connection, which is what closing over unread bytes makes of it."""
    size = 3_000_000
    token = "" if status == 401 else f"\r\nAuthorization: Bearer {TOKEN}"
    length = f"Content-Length: {size}" if announced else "Transfer-Encoding: chunked"
    path = "/nowhere" if status == 404 else "/infill"
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close"
    head = f"{request}{token}\r\n{length}\r\n\r\n".encode()
    body = b"x" * size if announced else b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)
    host, _, port = guarded.removeprefix("http://").partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head + body)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b'"error"' in answer


def test_a_client_that_asks_too_often_waits(limited: str) -> None:
    name = {"X-Client-Id": "eager"}
    answers = [httpx.get(f"{limited}/v1/models", headers=name) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert int(answers[-1].headers["retry-after"]) > 1
    other = {"X-Client-Id": "patient"}
    assert httpx.get(f"{limited}/v1/models", headers=other).status_code == 200


def test_a_bucket_fills_with_time() -> None:
    now = [0.0]
    limit = RateLimit(2, lambda: now[0])
    assert [limit.delay("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert limit.delay("b") == 0
    now[0] = 0.5
    assert [limit.delay("a"), limit.delay("a")] == [0, 0.5]
    now[0] = 100
    assert [limit.delay("a") for _ in range(5)] == [0, 0, 0, 0, 0.5], "no more than a burst"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_other_addresses_demand_a_token(host: str) -> None:
    with pytest.raises(GatewayError, match=TOKEN_VARIABLE):
        GatewayConfig(host=host).check()
    assert GatewayConfig(host=host, token=TOKEN).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_does_not(host: str) -> None:
    assert GatewayConfig(host=host).check().loopback


@pytest.mark.parametrize("token", ["short", "ünïcödé-but-long-enough"])
def test_weak_tokens_are_refused(token: str) -> None:
    with pytest.raises(GatewayError, match="16 ASCII"):
        GatewayConfig(token=token).check()


def test_the_command_refuses_before_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    done = CliRunner().invoke(app, ["gateway", "--host", "0.0.0.0", "--model", "missing"])
    assert done.exit_code == 2
    assert "set a token" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(app, ["gateway", "--port", port, "--model", "missing"])
        assert done.exit_code == 2
        assert f"cannot listen on 127.0.0.1, port {port}" in done.stderr
    done = CliRunner().invoke(app, ["gateway", "--port", port, "--model", "missing"])
    assert done.exit_code == 1
    assert "no model at" in done.stderr
