"""What the server does when the disk, its database or its weights fail it: it says so once, goes on
with what works, and is whole again when they are."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsp_server.paths import CACHE_VARIABLE, STATE_VARIABLE
from telemetry.paths import DATA_VARIABLE, database_path
from tests.lsp_server.client import TIMEOUT, Client, RpcError, stub_command
from tests.lsp_server.test_indexing import until
from tests.lsp_server.test_weights import SETTINGS, SNOWCODER, serve, suggestion

URI = "file:///project/a.py"
needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="no prlimit")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the servers of a test keep everything."""
    for variable, name in (
        (STATE_VARIABLE, "state"),
        (CACHE_VARIABLE, "cache"),
        (DATA_VARIABLE, "data"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def weights(home: Path, tiny_weights: Path) -> Path:
    """Weights that a test may remove."""
    return Path(shutil.copytree(tiny_weights, home / "weights"))


def stats(client: Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.request("snowcoder/stats", None)
    return answer


def told(client: Client) -> str:
    """The next message for the user."""
    message = client.notifications.get(timeout=TIMEOUT)
    assert message["method"] == "window/showMessage"
    text: str = message["params"]["message"]
    return text


def recorded() -> int:
    """Requests in the telemetry database."""
    address = f"{database_path().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            number: int = connection.execute("select count(*) from opportunities").fetchone()[0]
    except sqlite3.OperationalError:
        # The server has not made the tables yet.
        return 0
    return number


# Weights -------------------------------------------------------------------------------------


def test_weights_that_come_back_are_loaded_at_the_next_request(weights: Path) -> None:
    aside = weights.rename(weights.with_name("aside"))
    with serve(weights) as client:
        client.initialize(SETTINGS, encodings=["utf-8"])
        assert "no model at" in told(client)
        assert "no model at" in client.status("error")["reason"]
        client.open(URI, "x = 1\n")
        assert client.complete(URI, 0, 5) == []
        aside.rename(weights)

        def loaded() -> bool:
            client.complete(URI, 0, 5)
            return client.statuses.qsize() > 0 and client.status("idle") is not None

        until(loaded)
        assert suggestion(client)
        assert client.notifications.empty()
        assert client.leave() == 0


def test_weights_that_vanish_while_they_serve_are_not_missed(home: Path, weights: Path) -> None:
    with serve(weights) as client:
        client.initialize(SETTINGS, encodings=["utf-8"])
        assert suggestion(client)
        aside = weights.rename(home / "aside")
        shutil.rmtree(home / "cache", ignore_errors=True)
        assert suggestion(client)
        settings = {"settings": {"snowcoder": SETTINGS | {"threads": 2}}}
        client.notify("workspace/didChangeConfiguration", settings)
        assert "goes on with the model it has: no model at" in told(client)
        assert suggestion(client)
        aside.rename(weights)
        settings = {"settings": {"snowcoder": SETTINGS | {"threads": 1}}}
        client.notify("workspace/didChangeConfiguration", settings)
        client.status("loading")
        client.status("idle")
        assert suggestion(client)
        assert client.notifications.empty()
        assert client.leave() == 0


# A full disk ---------------------------------------------------------------------------------


def fill(pid: int) -> None:
    """Let no file of a process grow, as on a full disk."""
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def clear(pid: int) -> None:
    """Take `fill` back, for a process and its children."""
    import resource

    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)


FULL = ["sh", "-c", 'ulimit -S -f 0 && exec "$@"', "sh"]
"""Start of a command whose disk is full."""


def ask(client: Client, times: int) -> None:
    client.open(URI, "x = 1\ny = \n")
    for _ in range(times):
        client.complete(URI, 1, 4)


def decisions(home: Path) -> int:
    lines = (home / "state" / "decisions.jsonl").read_text().splitlines()
    return sum("outcome" in json.loads(line) for line in lines)


@needs_limits
def test_a_disk_that_is_full_while_serving(home: Path, weights: Path) -> None:
    with serve(weights) as client:
        client.initialize(SETTINGS, encodings=["utf-8"])
        ask(client, 1)
        until(lambda: recorded() == 1)
        fill(client.process.pid)
        ask(client, 3)
        assert suggestion(client)
        assert "disk" in told(client)
        assert "disk" in stats(client)["problem"]
        # Tried again several times a second, and told once.
        time.sleep(2.5)
        ask(client, 1)
        assert client.notifications.empty()
        kept = decisions(home)
        log = (home / "state" / "server.log").stat().st_size

        clear(client.process.pid)
        until(lambda: stats(client)["problem"] is None)
        assert stats(client)["lost"] == 0
        ask(client, 1)
        until(lambda: decisions(home) > kept)
        asked = len(client.command("snowcoder.why"))
        until(lambda: recorded() == asked)
        client.notify("workspace/didChangeConfiguration", {"nonsense": 1})
        until(lambda: (home / "state" / "server.log").stat().st_size > log)
        assert client.notifications.empty()
        assert client.leave() == 0


@needs_limits
def test_a_disk_that_is_full_at_the_start(home: Path, weights: Path) -> None:
    with Client([*FULL, SNOWCODER, "serve", "--model", weights, "--threads", "1"]) as client:
        client.initialize(SETTINGS, encodings=["utf-8"])
        assert suggestion(client)
        assert "disk" in told(client)
        ask(client, 2)
        assert "disk" in stats(client)["problem"]
        assert client.notifications.empty()
        clear(client.process.pid)
        until(lambda: stats(client)["problem"] is None)
        ask(client, 1)
        asked = len(client.command("snowcoder.why"))
        until(lambda: recorded() == asked)
        until(lambda: decisions(home) > 0)
        assert client.notifications.empty()
        assert client.leave() == 0


@needs_limits
def test_an_index_that_the_disk_has_no_room_for(home: Path) -> None:
    root = home / "work"
    root.mkdir()
    (root / "a.py").write_text("def sell(): ...\n")
    with Client([*FULL, *stub_command()]) as client:
        client.initialize({"context": "on", "telemetry": "off"}, folders=[root.as_uri()])
        assert "index" in told(client)
        uri = f"{root.as_uri()}/a.py"
        client.open(uri, "ab")
        assert client.complete(uri, 0, 2) != []
        client.notify("textDocument/didSave", {"textDocument": {"uri": uri}})
        assert stats(client)["index_ready"] is False
        assert client.notifications.empty()
        clear(client.process.pid)
        until(lambda: stats(client)["index_ready"])
        assert stats(client)["index_files"] == 1
        assert client.notifications.empty()
        assert client.leave() == 0


# A folder that cannot be read -----------------------------------------------------------------


def test_a_folder_that_cannot_be_read(home: Path) -> None:
    root, other = home / "work", home / "other"
    for folder in (root / ".snowcoderignore", other):
        folder.mkdir(parents=True)
    with Client(stub_command()) as client:
        client.initialize({"telemetry": "off"}, folders=[root.as_uri(), other.as_uri()])
        assert str(root) in told(client)
        for folder in (root, other):
            client.open(f"{folder.as_uri()}/a.py", "ab")
        until(lambda: client.complete(f"{other.as_uri()}/a.py", 0, 2) != [])
        assert client.complete(f"{root.as_uri()}/a.py", 0, 2) == []
        (root / ".snowcoderignore").rmdir()
        saved = {"textDocument": {"uri": f"{root.as_uri()}/.snowcoderignore"}}
        client.notify("textDocument/didSave", saved)
        until(lambda: client.complete(f"{root.as_uri()}/a.py", 0, 2) != [])
        assert client.notifications.empty()
        assert client.leave() == 0


# A database that another program locked -----------------------------------------------------


def check_lock(client: Client, release: Callable[[], object]) -> None:
    """A lock is told, does not keep suggestions away, and costs no record once it is gone."""
    ask(client, 2)
    assert "locked" in told(client)
    ask(client, 2)
    assert "locked" in stats(client)["problem"]
    assert client.notifications.empty()
    release()
    until(lambda: stats(client)["problem"] is None)
    asked = len(client.command("snowcoder.why"))
    until(lambda: recorded() == asked)
    assert stats(client)["lost"] == 0
    assert client.notifications.empty()
    assert client.leave() == 0


def test_a_database_that_gets_locked(home: Path) -> None:
    with Client(stub_command()) as client:
        client.initialize()
        ask(client, 1)
        until(lambda: recorded() == 1)
        with closing(sqlite3.connect(database_path(), isolation_level=None)) as other:
            other.execute("begin exclusive")
            check_lock(client, lambda: other.execute("rollback"))


def test_a_database_that_is_locked_at_the_start(home: Path) -> None:
    with Client(stub_command()) as client:
        client.initialize()
        assert client.leave() == 0
    with (
        closing(sqlite3.connect(database_path(), isolation_level=None)) as other,
        Client(stub_command()) as client,
    ):
        other.execute("pragma locking_mode=exclusive")
        other.execute("begin exclusive")
        client.initialize()
        check_lock(client, other.close)


# Malformed requests of the completion menu ---------------------------------------------------


def code_of(client: Client, **fields: Any) -> int:
    with pytest.raises(RpcError) as error:
        client.result(client.begin("textDocument/completion", **fields))
    return error.value.code


PLACE = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 2}}


def test_the_menu_answers_malformed_params() -> None:
    with Client(stub_command()) as client:
        client.initialize({"completion": True})
        client.open(URI, "ab")
        for fields in (
            {},
            *({"params": wrong} for wrong in (None, [], 5, {})),
            {"params": {"textDocument": {"uri": URI}}},
            {"params": PLACE | {"position": {"line": -1, "character": 0}}},
            {"params": PLACE | {"position": {"line": "0", "character": 0}}},
            {"params": PLACE | {"textDocument": 5}},
            {"params": PLACE | {"context": {"triggerKind": 9}}},
        ):
            assert code_of(client, **fields) == -32602, fields
            answer = client.request("textDocument/completion", PLACE)
            assert [item["label"] for item in answer["items"]] == ["abAB"]
        assert client.leave() == 0


def test_without_the_menu_its_method_is_unknown(client: Client) -> None:
    assert code_of(client, params=PLACE) == -32601
