"""A real gateway on loopback, with the shipped weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Protocol

import httpx
import pytest
import uvicorn

from lsp_server.gateway.app import create_app
from lsp_server.gateway.config import GatewayConfig
from lsp_server.gateway.loading import load_engines
from lsp_server.gateway.runner import Engines

PATIENCE = 30.0
KV_LIMIT = 60_000_000


class Serve(Protocol):
    """Starts a gateway on a free port, by default with the shipped weights; gives its address."""

    def __call__(self, config: GatewayConfig, other: Engines | None = None) -> str: ...


@pytest.fixture(scope="session")
def engines() -> Engines:
    return load_engines(None, threads=1, kv_limit=KV_LIMIT)


@pytest.fixture(scope="module")
def serve(engines: Engines) -> Iterator[Serve]:
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(config: GatewayConfig, other: Engines | None = None) -> str:
        app = create_app(other or engines, config)
        settings = uvicorn.Config(app, port=0, log_level="error", ws="none", proxy_headers=False)
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        give_up = time.monotonic() + PATIENCE
        while not server.started:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        running.append((server, thread))
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(GatewayConfig(rate=1000))


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        yield client
