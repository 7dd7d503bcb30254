"""The settings `engine` and `remote…`, through the real server and a real remote engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lsp_server.loading import REMOTE_TOKEN_VARIABLE
from lsp_server.settings import Settings, read_settings
from tests.lsp_server.client import TIMEOUT, Client, stub_command
from tests.remote_server import RemoteServer, running, stream

URI = "file:///project/a.py"
FAILING = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with running() as started:
        started.answer = lambda body: stream("from_remote")
        yield started


def begin(client: Client, **settings: object) -> None:
    client.initialize({"deadlineMs": 20_000} | settings)
    client.status("idle")


def shown(client: Client, text: str) -> list[str]:
    client.open(URI, text)
    return [item["insertText"] for item in client.complete(URI, 0, len(text))]


def test_suggestions_come_from_the_remote_engine(
    server: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REMOTE_TOKEN_VARIABLE, "0123456789")
    with Client(stub_command()) as client:
        begin(client, engine="remote", remoteUrl=server.url, remoteModel="m")
        assert shown(client, "x = ") == ["from_remote"]
        assert "bearer 0123456789" in server.headers[0].lower()
        assert client.leave() == 0


def test_a_failing_remote_engine_is_told_once_and_the_local_model_answers(
    server: RemoteServer,
) -> None:
    server.answer = lambda body: [FAILING]
    with Client(stub_command()) as client:
        begin(client, engine="remote", remoteUrl=server.url, remoteModel="m")
        client.open(URI, "abc")
        for _ in range(2):
            (item,) = client.complete(URI, 0, 3)
            assert item["insertText"] == "ABC", "the local engine's"
        message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
        assert "answered 500; the local model answers" in message
        assert client.notifications.empty()
        assert "answered 500" in client.status("idle")["reason"]
        server.answer = lambda body: stream("from_remote")
        client.insert(URI, 0, 3, "d")
        assert client.complete(URI, 0, 4)[0]["insertText"] == "from_remote"


def test_without_a_working_local_model_the_remote_engine_serves(server: RemoteServer) -> None:
    with Client(stub_command()) as client:
        begin(client, engine="remote", remoteUrl=server.url, model="broken")
        assert shown(client, "x = ") == ["from_remote"]


def test_an_address_is_missing() -> None:
    with Client(stub_command()) as client:
        begin(client, engine="remote")
        assert shown(client, "abc") == ["ABC"]
        message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
        assert "remoteUrl is not set" in message


def test_excluded_files_are_never_sent(server: RemoteServer, tmp_path: Path) -> None:
    with Client(stub_command()) as client:
        begin(client, engine="remote", remoteUrl=server.url, exclude=["private.py"])
        for name in (".env", "private.py"):
            client.open(f"{tmp_path.as_uri()}/{name}", "x = ")
            assert client.complete(f"{tmp_path.as_uri()}/{name}", 0, 4) == []
    assert not server.headers


def test_the_default_is_local() -> None:
    assert Settings().engine == "local"
    assert Settings().remote_url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "cloud"),
        ("remoteUrl", "gpu.example.com"),
        ("remoteUrl", "ftp://gpu"),
        ("remoteUrl", "https://user:password@gpu"),
        ("remoteUrl", "https://gpu?key=1"),
        ("remoteUrl", "https://"),
        ("remoteTemplate", "mystery"),
    ],
)
def test_invalid_values_open_nothing(name: str, value: str) -> None:
    settings, problems = read_settings({name: value})
    assert settings == Settings()
    assert problems[0].startswith(f"{name}: ")
