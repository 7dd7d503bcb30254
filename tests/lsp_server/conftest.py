from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lsp_server.client import Client, stub_command


@pytest.fixture(scope="session", autouse=True)
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Servers that tests start leave nothing in the developer's own state folder."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNOWCODER_STATE_DIR", str(folder))
        patch.setenv("SNOWCODER_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture
def client() -> Iterator[Client]:
    """An initialized client of a server whose engine is `stub_server.StubEngine`."""
    with Client(stub_command()) as started:
        started.initialize()
        yield started


@pytest.fixture(scope="module")
def running() -> Iterator[Client]:
    """Like `client`, but one for all tests of a module: what one of them sends must not hurt
    the next."""
    with Client(stub_command()) as started:
        started.initialize()
        yield started
        assert started.leave() == 0
