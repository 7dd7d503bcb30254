"""Throws malformed messages at the real server process and counts what stays unanswered.

Usage: python -m benchmarks.fuzz [--messages N] [--seed K] [--model PATH] [--json]

Keys: tried (messages), requests (those that want an answer), unanswered (requests without one
within thirty seconds, or with more than one), crashes (the process ended). Exit status 1 if the
last two are not 0.
"""

from __future__ import annotations

import contextlib
import json
import queue
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import own_state, parser, report
from benchmarks.latency import server_command

ANSWER_S = 30.0
BATCH = 100
URI = "file:///fuzz/a.py"
NOTEBOOK = "file:///fuzz/book.ipynb"
PLACE = {"line": 1, "character": 4}
RANGE = {"start": PLACE, "end": PLACE}
ITEM = {"item": {"insertText": "x", "command": {"command": "c", "arguments": ["id"]}}}
CELL = {"kind": 2, "document": f"{NOTEBOOK}#a"}
TEXT = {"uri": URI, "languageId": "python", "version": 1, "text": "import os\nx = os.\n"}

REQUESTS: dict[str, Any] = {
    "textDocument/inlineCompletion": {
        "textDocument": {"uri": URI},
        "position": PLACE,
        "context": {
            "triggerKind": 2,
            "selectedCompletionInfo": {"range": RANGE, "text": "path"},
        },
    },
    "workspace/executeCommand": {"command": "snowcoder.why", "arguments": [1]},
    "snowcoder/stats": {},
    "snowcoder/documents": {},
    "initialize": {"processId": None, "capabilities": {}},
    "textDocument/hover": {"textDocument": {"uri": URI}, "position": PLACE},
    "no/such": {},
}
NOTIFICATIONS: dict[str, Any] = {
    "textDocument/didOpen": {"textDocument": TEXT},
    "textDocument/didChange": {
        "textDocument": {"uri": URI, "version": 2},
        "contentChanges": [{"range": RANGE, "text": "path"}, {"text": "import os\nx = 1\n"}],
    },
    "textDocument/didClose": {"textDocument": {"uri": URI}},
    "textDocument/didSave": {"textDocument": {"uri": URI}},
    "notebookDocument/didOpen": {
        "notebookDocument": {"uri": NOTEBOOK, "notebookType": "x", "version": 0, "cells": [CELL]},
        "cellTextDocuments": [{**TEXT, "uri": f"{NOTEBOOK}#a"}],
    },
    "notebookDocument/didChange": {
        "notebookDocument": {"uri": NOTEBOOK, "version": 1},
        "change": {"cells": {"structure": {"array": {"start": 0, "deleteCount": 1}}}},
    },
    "workspace/didChangeConfiguration": {"settings": {"snowcoder": {"deadlineMs": 100}}},
    "workspace/didChangeWorkspaceFolders": {
        "event": {"added": [{"uri": "file:///fuzz", "name": "fuzz"}], "removed": []}
    },
    "workspace/didRenameFiles": {"files": [{"oldUri": URI, "newUri": URI}]},
    "workspace/didDeleteFiles": {"files": [{"uri": URI}]},
    "textDocument/didShowCompletion": ITEM,
    "textDocument/didPartiallyAcceptCompletion": {**ITEM, "acceptedLength": 1},
    "textDocument/didDismissCompletion": ITEM,
    "snowcoder/didRestCursor": {"textDocument": {"uri": URI}, "position": PLACE},
    "snowcoder/didChangeVisibility": {"visible": True},
    "$/cancelRequest": {"id": 1},
    "$/setTrace": {"value": "off"},
    "window/workDoneProgress/cancel": {"token": "x"},
}
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**70, 1.5, float("nan"), "", "x", "\ud800", "\0" * 9, [], {},
    [[]], [None], {"": None}, {"class": 1}, "😀" * 50, "file:///x", "//[", URI,
)  # fmt: skip
HEADERS = (
    "Content-Length: {}\r\n\r\n",
    "content-length:{}\r\n\r\n",
    "CONTENT-LENGTH : {}\n\n",
    "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
    "Content-Length: {}\r\nX-Other: y\r\n\r\n",
    "rubbish\r\n\r\nContent-Length: {}\r\n\r\n",
    "\0\xff: \r\nContent-Length: -1\r\n\r\nContent-Length: {}\r\n\r\n",
)
BODIES = (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"jsonrpc":"2.0"}', b'"\\ud800"')


def mutate(value: Any, draw: random.Random, rate: float) -> Any:  # noqa: ANN401 - any JSON
    """`value` with members dropped, doubled or replaced by something odd."""
    if draw.random() < rate:
        return draw.choice(ODD)
    if isinstance(value, dict):
        kept = {k: mutate(v, draw, rate) for k, v in value.items() if draw.random() >= rate / 2}
        return kept | ({draw.choice(("", "extra", "uri")): None} if draw.random() < rate else {})
    if isinstance(value, list):
        items = [mutate(item, draw, rate) for item in value]
        return items * draw.choice((1, 1, 1, 0, 2))
    return value


class Target:
    """A server process and who waits for what."""

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._answers: queue.Queue[Any] = queue.Queue()
        self.counts: Counter[Any] = Counter()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, header: str, body: bytes) -> None:
        """Write a message under a header with a place for the length.

        Raises:
            OSError: the process is gone.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(header.format(len(body)).encode("latin-1") + body)
        self.process.stdin.flush()

    def collect(self, expected: set[Any]) -> int:
        """Wait for the answers to `expected`; returns how many came not at all or twice."""
        end = time.monotonic() + ANSWER_S
        while any(not self.counts[one] for one in expected) and self.process.poll() is None:
            try:
                self.counts[self._answers.get(timeout=max(0.05, end - time.monotonic()))] += 1
            except queue.Empty:
                break
        return sum(self.counts[one] != 1 for one in expected)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout, self._log):
            # What is still buffered for a process that ended cannot be written.
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while line := stream.readline():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
                while stream.readline().strip():
                    pass
                message = json.loads(stream.read(length))
                if "method" not in message and isinstance(message.get("id"), str):
                    self._answers.put(message["id"])


def start(command: Sequence[str]) -> Target:
    """A server that was initialized and has a document open."""
    target = Target(command)
    header = HEADERS[0]
    first = {"jsonrpc": "2.0", "id": "first", "method": "initialize"}
    capabilities: dict[str, Any] = {"notebookDocument": {"synchronization": {}}}
    params = {"processId": None, "capabilities": capabilities}
    opening = [
        {**first, "params": params},
        {"jsonrpc": "2.0", "method": "initialized", "params": {}},
        {"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": {"textDocument": TEXT}},
    ]
    # A process that is gone already is found by the caller.
    with contextlib.suppress(OSError):
        for one in opening:
            target.send(header, json.dumps(one).encode())
    target.collect({"first"})
    return target


def message(draw: random.Random, number: int) -> tuple[bytes, str | None]:
    """A body, and the id of its answer if it wants one."""
    kind = draw.random()
    if kind < 0.08:
        return draw.choice(BODIES), None
    rate = draw.choice((0.0, 0.05, 0.3))
    if kind < 0.13:
        reply = {"jsonrpc": "2.0", "id": draw.choice(ODD), "result": draw.choice(ODD)}
        return json.dumps(reply).encode(), None
    table = REQUESTS if kind < 0.6 else NOTIFICATIONS
    method = draw.choice(list(table))
    made: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if draw.random() > 0.05:
        made["params"] = mutate(table[method], draw, rate)
    if table is NOTIFICATIONS:
        return json.dumps(made).encode(), None
    made["id"] = f"r{number}"
    if draw.random() < rate / 10:
        made["method"] = draw.choice(ODD)
    # With a method that is no text the answer names no request: JSON-RPC 2.0, section 5.
    wanted = made["id"] if isinstance(made["method"], str) else None
    return json.dumps(made).encode(), wanted


def fuzz(command: Sequence[str], messages: int, seed: int) -> dict[str, Any]:
    """Send so many messages and report."""
    draw = random.Random(seed)
    target = start(command)
    waiting: set[Any] = set()
    requests = unanswered = crashes = 0
    began = time.perf_counter()
    for number in range(messages):
        body, wanted = message(draw, number)
        try:
            target.send(draw.choice(HEADERS) if draw.random() < 0.3 else HEADERS[0], body)
        except OSError:
            wanted = None
        if wanted is not None:
            requests += 1
            waiting.add(wanted)
        if len(waiting) >= BATCH or number == messages - 1 or target.process.poll() is not None:
            unanswered += target.collect(waiting)
            waiting.clear()
        if target.process.poll() is not None:
            crashes += 1
            target.close()
            target = start(command)
    target.close()
    return {
        "tried": messages,
        "requests": requests,
        "unanswered": unanswered,
        "crashes": crashes,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser(__doc__)
    options.add_argument("--messages", type=int, default=2000)
    arguments = options.parse_args(given)
    with own_state():
        command = server_command(arguments.threads, arguments.model)
        result = fuzz(command, arguments.messages, arguments.seed)
    report(result, arguments.json)
    return 1 if result["unanswered"] or result["crashes"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
