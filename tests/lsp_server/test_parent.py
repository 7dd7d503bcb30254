from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from lsp_server import parent
from tests.lsp_server.client import TIMEOUT, Client, stub_command


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_the_end_of_a_process_is_seen_even_if_nobody_waits_for_it() -> None:
    process = sleeper()
    ended = threading.Event()
    thread = parent.watch(process.pid, ended.set, interval_s=0.01)
    assert thread is not None
    assert parent.is_alive(process.pid)
    process.kill()
    # Until `wait` it is a zombie.
    assert ended.wait(TIMEOUT)
    process.wait()
    thread.join(TIMEOUT)


@pytest.mark.parametrize("process_id", [None, 0, -1, 2**40])
def test_what_cannot_be_seen_is_not_watched_or_never_ends(process_id: int | None) -> None:
    ended = threading.Event()
    parent.watch(process_id, ended.set, interval_s=0.01)
    assert not ended.is_set()
    assert parent.is_alive(os.getpid())


def test_the_server_ends_with_its_editor_though_its_input_stays_open() -> None:
    editor = sleeper()
    with Client(stub_command()) as client:
        client.request("initialize", {"processId": editor.pid, "capabilities": {}})
        editor.kill()
        editor.wait()
        assert client.process.wait(TIMEOUT) == 1
