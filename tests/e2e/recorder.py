"""Stands between an editor and the server, and logs every message: one JSON object a line.

`python recorder.py LOG COMMAND...` starts the command and passes both streams on, byte for byte.
A line of LOG is `{"from": "client" | "server", "at": 1.5, "message": {...}}`; `at` is in seconds
since 1970. It is written before the message is passed on, so that what one side has seen is in
the log. Nothing beyond the standard
library is imported: editors start this file as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_LOCK = threading.Lock()


def messages(log: Path, sender: str, method: str) -> list[dict[str, Any]]:
    """The params of every request or notification `method` that `sender` has sent so far."""
    return [m.get("params") or {} for m in _sent(log, sender) if m.get("method") == method]


def results(log: Path, sender: str) -> list[Any]:
    """What `sender` answered to requests so far, errors excepted."""
    return [m["result"] for m in _sent(log, sender) if "result" in m]


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered: when it and its result passed, in seconds since 1970."""

    asked_at: float
    answered_at: float
    result: Any


def answered(log: Path, method: str) -> list[Answered]:
    """The client's requests `method` that were answered without an error, in order."""
    asked: dict[Any, float] = {}
    found = []
    for record in _records(log):
        message, at = record["message"], record["at"]
        if record["from"] == "client" and message.get("method") == method:
            asked[message["id"]] = at
        elif record["from"] == "server" and "result" in message and message["id"] in asked:
            found.append(Answered(asked.pop(message["id"]), at, message["result"]))
    return found


def _records(log: Path) -> list[dict[str, Any]]:
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    # The last line may be under way: what is behind the last line break is not read yet.
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def _sent(log: Path, sender: str) -> list[dict[str, Any]]:
    return [record["message"] for record in _records(log) if record["from"] == sender]


def _frame(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """Header and body of the next message; None at the end of the stream, even amid a message."""
    header, length = b"", 0
    while not header.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        header += line
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    body = stream.read(length)
    return (header, body) if len(body) == length else None


def _pass_on(source: BinaryIO, target: BinaryIO, log: Path, sender: str) -> None:
    try:
        while frame := _frame(source):
            at = time.time()
            record = json.dumps({"from": sender, "at": at, "message": json.loads(frame[1])})
            with _LOCK, log.open("a", encoding="utf-8") as file:
                file.write(record + "\n")
            target.write(b"".join(frame))
            target.flush()
    except BrokenPipeError:
        pass  # the other side is gone; its exit status tells
    finally:
        if sender == "client":
            target.close()


def main(log: Path, command: list[str]) -> int:
    """Run the server to its end; its exit status."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        threading.Thread(
            target=_pass_on, args=(sys.stdin.buffer, server.stdin, log, "client"), daemon=True
        ).start()
        _pass_on(server.stdout, sys.stdout.buffer, log, "server")
        return server.wait()


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), sys.argv[2:])
    # The thread that reads the editor may hold the buffered stdin: leave without joining it.
    sys.stdout.flush()
    os._exit(status if status >= 0 else 128 - status)
