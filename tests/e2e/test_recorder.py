"""The recorder passes the real server's answers on, and logs both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e import recorder

SERVER = [sys.executable, "-I", "-m", "lsp_server", "serve"]


def frame(message: dict[str, Any]) -> bytes:
    body = json.dumps({"jsonrpc": "2.0"} | message).encode()
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def run(log: Path, command: list[str], sent: bytes) -> subprocess.CompletedProcess[bytes]:
    arguments = [sys.executable, recorder.__file__, log, *command]
    return subprocess.run(arguments, input=sent, capture_output=True, timeout=60)


def test_both_sides_are_logged_and_passed_on(tmp_path: Path) -> None:
    log = tmp_path / "ünï code.jsonl"
    folder = {"uri": (tmp_path / "é 😀").as_uri(), "name": "é 😀"}
    params = {"processId": None, "rootUri": None, "capabilities": {}, "workspaceFolders": [folder]}
    ran = run(
        log,
        SERVER,
        frame({"id": 1, "method": "initialize", "params": params})
        + frame({"method": "initialized", "params": {}})
        + frame({"id": 2, "method": "shutdown"})
        + frame({"method": "exit"}),
    )
    assert ran.returncode == 0
    assert b"inlineCompletionProvider" in ran.stdout
    assert recorder.messages(log, "client", "initialize") == [params]
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    answered = [
        r["message"]["id"] for r in records if r["from"] == "server" and "result" in r["message"]
    ]
    assert answered == [1, 2]
    (shutdown,) = recorder.answered(log, "shutdown")
    assert shutdown.result is None
    assert records[0]["at"] < shutdown.asked_at < shutdown.answered_at


def test_half_a_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    message = {"method": "initialize", "params": {"a": 1}}
    line = json.dumps({"from": "client", "at": 1.5, "message": message}) + "\n"
    log.write_text(line + line[:20], encoding="utf-8")
    assert recorder.messages(log, "client", "initialize") == [{"a": 1}]
    log.write_text(line + line, encoding="utf-8")
    assert recorder.messages(log, "client", "initialize") == [{"a": 1}, {"a": 1}]


def test_the_exit_status_of_the_server_is_the_recorder_s(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert run(log, [sys.executable, "-c", "raise SystemExit(7)"], b"").returncode == 7
    assert recorder.messages(log, "server", "initialize") == []
