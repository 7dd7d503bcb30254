"""The server's side of the index: builders that come and go, and what is read when."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lsp_server import indexing as module
from lsp_server.indexing import Indexing
from tests.lsp_server.client import TIMEOUT, Client, stub_command


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "my work"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg" / "shop.py").write_text("def sell_apple(): ...\n")
    (root / "pkg" / "hidden.py").write_text("def sell_pear(): ...\n")
    return root


@pytest.fixture
def indexing(tmp_path: Path) -> Iterator[Indexing]:
    made = Indexing(tmp_path / "cache")
    yield made
    made.close()


def paths(indexing: Indexing, root: Path, *terms: str) -> list[str]:
    found = indexing.find(f"{root.as_uri()}/main.py")
    assert found is not None
    return [chunk.path for chunk, _ in found[0].search(terms, 10)]


def test_folders_are_indexed_and_followed(indexing: Indexing, root: Path) -> None:
    changed = threading.Event()
    indexing.on_change = changed.set
    assert not indexing.building
    indexing.follow([root.as_uri(), "untitled:else"], [])
    assert indexing.building
    until(lambda: not indexing.building)
    assert changed.is_set()
    assert indexing.status() == {"index_files": 2, "index_ready": True}
    found = indexing.find(f"{root.as_uri()}/pkg/new.py")
    assert found is not None
    assert found[1] == "pkg/new.py"
    assert paths(indexing, root, "apple") == ["pkg/shop.py"]

    shop = root / "pkg" / "shop.py"
    shop.write_text("def sell_plum(): ...\n")
    indexing.touched([shop.as_uri(), "file:///else/a.py"])
    until(lambda: paths(indexing, root, "plum") == ["pkg/shop.py"])
    shop.rename(root / "pkg" / "store.py")
    indexing.touched([shop.as_uri(), (root / "pkg" / "store.py").as_uri()])
    until(lambda: paths(indexing, root, "plum") == ["pkg/store.py"])

    indexing.follow([], [])
    assert paths(indexing, root, "plum") == []
    assert indexing.status() == {"index_files": 0, "index_ready": False}


def test_documents_elsewhere_have_an_empty_index(indexing: Indexing) -> None:
    found = indexing.find("file:///else/pkg/a.py")
    assert found is not None
    assert found[1] == "pkg/a.py"
    assert found[0].search(["apple"], 5) == []


def test_what_gets_excluded_is_not_read_meanwhile(indexing: Indexing, root: Path) -> None:
    indexing.follow([root.as_uri()], [])
    until(lambda: not indexing.building)
    assert paths(indexing, root, "pear") == ["pkg/hidden.py"]
    (root / ".snowcoderignore").write_text("hidden.py\n")
    indexing.touched([f"{root.as_uri()}/.snowcoderignore"])
    assert paths(indexing, root, "pear") == []
    until(lambda: not indexing.building)
    assert paths(indexing, root, "sell") == ["pkg/shop.py"]

    (root / ".snowcoderignore").unlink()
    indexing.follow([root.as_uri()], ["*.py"])
    assert paths(indexing, root, "sell") == []
    until(lambda: not indexing.building)
    assert paths(indexing, root, "sell") == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_builder_is_started_again(
    indexing: Indexing, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    indexing.follow([root.as_uri()], [])
    until(lambda: not indexing.building)
    (process_id,) = _children()
    os.kill(process_id, signal.SIGKILL)
    (root / "new.py").write_text("def sell_plum(): ...\n")
    until(lambda: paths(indexing, root, "plum") == ["new.py"])


def test_builders_end_with_the_server(indexing: Indexing, root: Path) -> None:
    indexing.follow([root.as_uri()], [])
    until(lambda: not indexing.building)
    assert len(_children()) == 1
    indexing.close()
    until(lambda: not _children())


def _children() -> list[int]:
    import psutil

    found = []
    for child in psutil.Process().children():
        try:
            if "completion.context.builder" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_the_server_indexes_its_folders_while_context_is_on(root: Path) -> None:
    with Client(stub_command()) as client:
        client.initialize({"context": "on"}, folders=[root.as_uri()])

        def status() -> tuple[int, bool]:
            stats = client.request("snowcoder/stats", {})
            return stats["index_files"], stats["index_ready"]

        until(lambda: status() == (2, True))
        new = root / "new.py"
        new.write_text("x = 1\n")
        client.notify("textDocument/didSave", {"textDocument": {"uri": new.as_uri()}})
        until(lambda: status() == (3, True))
        new.unlink()
        change = {"uri": new.as_uri(), "type": 3}
        client.notify("workspace/didChangeWatchedFiles", {"changes": [change]})
        until(lambda: status() == (2, True))
        settings = {"snowcoder": {"context": "off"}}
        client.notify("workspace/didChangeConfiguration", {"settings": settings})
        until(lambda: status() == (0, False))
        assert client.leave() == 0


def test_context_off_indexes_nothing(root: Path) -> None:
    with Client(stub_command()) as client:
        client.initialize({}, folders=[root.as_uri()])
        stats = client.request("snowcoder/stats", {})
        assert (stats["index_files"], stats["index_ready"]) == (0, False)
        assert client.leave() == 0
