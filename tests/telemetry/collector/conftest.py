from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra collector is not installed")
pytest.importorskip("uvicorn", reason="the extra collector is not installed")

import uvicorn
from fastapi import FastAPI

from telemetry.collector.access import Role, Tokens, make_tokens, read_tokens
from telemetry.collector.app import Limits, create_app
from telemetry.collector.sinks import Sink, SqliteSink
from telemetry.events import Event, Shown, columns_of
from tests.telemetry.conftest import TIMEOUT

HOSTILE = "'; drop table opportunities; --<script>alert(1)</script>"


def as_upload(event: Event, user: str = "u1", **fields: Any) -> dict[str, Any]:
    values = {name: getattr(event, name) for name in columns_of(type(event))}
    envelope = {"table": event.table, "user_id": user, "session_id": "s1", "version": 1}
    return envelope | values | fields


def shown(number: int) -> dict[str, Any]:
    return as_upload(Shown(at_us=number, event_id=f"e{number}", suggestion_id=f"s{number}"))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """A collector that really listens."""

    url: str
    path: Path
    upload: str
    read: str
    sink: Sink

    def ask(
        self, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        known = {"authorization": f"Bearer {self.upload}"} if headers is None else headers
        request = urllib.request.Request(self.url + path, data, known)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def post(self, *events: object) -> Answer:
        return self.ask("/v1/events", {"events": list(events)})


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        waited = time.monotonic()
        while not server.started and thread.is_alive() and time.monotonic() - waited < TIMEOUT:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(TIMEOUT)


def no_page(location: str, name: str | None) -> str:
    raise LookupError(f"nobody was exposed to {name!r}")


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[Tokens, dict[str, str]]:
    file = tmp_path / "tokens"
    make_tokens(file)
    plain = dict(line.split() for line in file.read_text().splitlines())
    assert set(plain) == {role.value for role in Role}
    return read_tokens(file), plain


Serve = Callable[..., Service]


@pytest.fixture
def serve(tmp_path: Path, tokens: tuple[Tokens, dict[str, str]]) -> Iterator[Serve]:
    """Start a collector; `render`, `limits` and `sink` as `create_app` takes them."""
    running: list[Any] = []

    def start(
        sink: Sink | None = None,
        render: Callable[[str, str | None], str] = no_page,
        limits: Limits | None = None,
    ) -> Service:
        path = tmp_path / "collector.db"
        kept = sink or SqliteSink(path, timeout_s=0.05)
        server = listening(create_app(kept, tokens[0], render, limits))
        running.append(server)
        return Service(server.__enter__(), path, tokens[1]["upload"], tokens[1]["read"], kept)

    yield start
    for server in running:
        with suppress(StopIteration):
            server.__exit__(None, None, None)


@pytest.fixture
def service(serve: Serve) -> Service:
    return serve()
