"""A small JSON-RPC client that starts a server process and talks to it over its streams."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

TIMEOUT = 30.0
"""Seconds after which a missing answer fails a test; never a measure of speed."""


class RpcError(Exception):
    """The server answered with an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]


def write_message(stream: BinaryIO, body: bytes) -> None:
    """Frame `body` (LSP 3.18, "Header Part") and send it."""
    stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    stream.flush()


def read_message(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message, None at the end. Anything that is not a message is an error."""
    length = 0
    while header := stream.readline():
        if header == b"\r\n":
            message: dict[str, Any] = json.loads(stream.read(length))
            return message
        name, _, value = header.partition(b": ")
        if name not in (b"Content-Length", b"Content-Type"):
            raise AssertionError(f"not the protocol on standard output: {header!r}")
        if name == b"Content-Length":
            length = int(value)
    return None


class Client:
    """One server process and one client of it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd,
            env=os.environ | dict(environment or {}),
        )
        self.notifications: queue.Queue[dict[str, Any]] = queue.Queue()
        self.statuses: queue.Queue[dict[str, Any]] = queue.Queue()
        self.asked: queue.Queue[dict[str, Any]] = queue.Queue()
        """Requests of the server; `respond` answers them."""
        self._answers: dict[Any, queue.Queue[dict[str, Any]]] = defaultdict(queue.Queue)
        self._answers_lock = threading.Lock()
        self._version = 0
        self._last_id = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if kind is not None:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        self.process.stdout.close()

    # Messages --------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Send any JSON value as it is."""
        self.send_bytes(json.dumps(message).encode())

    def send_bytes(self, body: bytes) -> None:
        """Send a body that may not even be JSON."""
        assert self.process.stdin is not None
        write_message(self.process.stdin, body)

    def notify(self, method: str, params: Any) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def begin(self, method: str, **fields: Any) -> int:
        """Send a request; returns its id for `result`. `params` is left out unless given."""
        self._last_id += 1
        self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, **fields})
        return self._last_id

    def result(self, msg_id: int | str | None) -> Any:
        """The answer to a request; id None for errors that name no request.

        Raises:
            RpcError: the server answered with an error.
        """
        answer = self._answer(msg_id).get(timeout=TIMEOUT)
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def _answer(self, msg_id: Any) -> queue.Queue[dict[str, Any]]:
        """Where an answer arrives; both threads may be first to ask, and must get the same."""
        with self._answers_lock:
            return self._answers[msg_id]

    def request(self, method: str, params: Any) -> Any:
        """Send a request and wait for its answer."""
        return self.result(self.begin(method, params=params))

    def respond(self, method: str, result: Any) -> Any:
        """Answer the server's next request, which must be `method`; returns its params."""
        message = self.asked.get(timeout=TIMEOUT)
        assert message["method"] == method
        self.send({"jsonrpc": "2.0", "id": message["id"], "result": result})
        return message.get("params")

    def status(self, state: str) -> dict[str, Any]:
        """The next status of that state; others before it are skipped."""
        while (status := self.statuses.get(timeout=TIMEOUT))["state"] != state:
            pass
        return status

    def command(self, name: str, *arguments: Any) -> Any:
        """Run a command of the server."""
        params = {"command": name, "arguments": list(arguments)}
        return self.request("workspace/executeCommand", params)

    def _read(self) -> None:
        assert self.process.stdout is not None
        while (message := read_message(self.process.stdout)) is not None:
            if message.get("method") == "snowcoder/status":
                self.statuses.put(message["params"])
            elif "method" in message:
                (self.asked if "id" in message else self.notifications).put(message)
            else:
                self._answer(message.get("id")).put(message)

    # The life of an editor -------------------------------------------------------------

    def initialize(
        self,
        options: Mapping[str, Any] | None = None,
        encodings: Sequence[str] = ("utf-16",),
        folders: Sequence[str] = (),
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Do the handshake; returns the server's capabilities.

        `folders` are URIs of workspace folders, `capabilities` go on top of the encodings.
        """
        answer = self.request(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": None,
                "workspaceFolders": [{"uri": uri, "name": "folder"} for uri in folders],
                "capabilities": {
                    "general": {"positionEncodings": list(encodings)},
                    **(capabilities or {}),
                },
                "initializationOptions": {"snowcoder": dict(options or {})},
            },
        )
        self.notify("initialized", {})
        offered: dict[str, Any] = answer["capabilities"]
        return offered

    def open(self, uri: str, text: str, language: str = "python") -> None:
        item = {"uri": uri, "languageId": language, "version": 0, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def insert(self, uri: str, line: int, character: int, text: str) -> None:
        """Type `text` at a position."""
        self._version += 1
        place = {"line": line, "character": character}
        self.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": uri, "version": self._version},
                "contentChanges": [{"range": {"start": place, "end": place}, "text": text}],
            },
        )

    def begin_complete(self, uri: str, line: int, character: int, trigger: int = 2) -> int:
        """Ask for a suggestion; returns the request's id."""
        return self.begin(
            "textDocument/inlineCompletion",
            params={
                "textDocument": {"uri": uri},
                "position": {"line": line, "character": character},
                "context": {"triggerKind": trigger},
            },
        )

    def complete(self, uri: str, line: int, character: int, trigger: int = 2) -> Any:
        """Ask for a suggestion and wait for it."""
        return self.result(self.begin_complete(uri, line, character, trigger))

    def leave(self) -> int:
        """`shutdown` and `exit`; returns the exit status."""
        self.request("shutdown", None)
        self.notify("exit", None)
        return self.process.wait(TIMEOUT)


def stub_command(*arguments: str) -> list[str | Path]:
    """Start of the server with the engine of `stub_server.py`."""
    return [sys.executable, Path(__file__).with_name("stub_server.py"), *arguments]
