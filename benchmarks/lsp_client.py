"""A small JSON-RPC client that speaks LSP over a server's standard streams."""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Json = Any
"""A decoded JSON value; what is inside is the server's word."""
CANCELLED = (-32800, -32802)
"""LSP error codes of a request that the client or the server gave up."""


class ServerError(Exception):
    """The server died, did not answer in time, or answered with an error."""


@dataclass(slots=True)
class Answer:
    """A request under way. Times are `time.perf_counter()` seconds.

    Attributes:
        sent: when the request was written.
        received: when its response was read; None before.
        result: the response's result.
        error: the response's error object.
    """

    sent: float
    received: float | None = None
    result: Json = None
    error: dict[str, Any] | None = None
    _done: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> bool:
        """Block until the response is there, at most so long; tells whether it is."""
        return self._done.wait(max(seconds, 0.0))

    def finish(self, message: dict[str, Any] | None, received: float) -> None:
        """Take over the response; None when the server went away."""
        if message is None:
            self.error = {"code": 0, "message": "the server went away"}
        else:
            self.error, self.result = message.get("error"), message.get("result")
        self.received = received
        self._done.set()


class LspClient:
    """Starts a server process and talks to it. Use as a context manager.

    Args:
        command: the server's command line.
        cwd: its working directory.
    """

    def __init__(self, command: Sequence[str], cwd: Path | None = None) -> None:
        # A file, not a pipe: nobody reads it meanwhile, and a full pipe would stop the server.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, cwd=cwd
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise ServerError("the server has no standard streams")
        self._input: IO[bytes] = self.process.stdin
        self._output: IO[bytes] = self.process.stdout
        self._ids = itertools.count(1)
        self._waiting: dict[int, Answer] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> LspClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, method: str, params: dict[str, Any] | None) -> tuple[int, Answer]:
        """Send a request; returns its id and where its answer will be."""
        number = next(self._ids)
        answer = Answer(sent=time.perf_counter())
        with self._lock:
            if self._closed:
                raise ServerError(f"the server went away: {self.errors()}")
            self._waiting[number] = answer
        self._send({"id": number, "method": method, "params": params})
        return number, answer

    def call(self, method: str, params: dict[str, Any] | None, seconds: float = 60.0) -> Json:
        """Send a request and return its result.

        Raises:
            ServerError: no answer in time, or an error.
        """
        _, answer = self.request(method, params)
        if not answer.wait(seconds):
            raise ServerError(f"no answer to {method} in {seconds:.0f} s: {self.errors()}")
        if answer.error is not None:
            raise ServerError(f"{method}: {answer.error.get('message')}: {self.errors()}")
        return answer.result

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def cancel(self, number: int) -> None:
        """Give up a request, as an editor does when the user types on."""
        self.notify("$/cancelRequest", {"id": number})

    def errors(self) -> str:
        """Return the end of what the server wrote to standard error."""
        self._stderr.seek(0)
        return self._stderr.read()[-2000:].decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Shut the server down; it is killed if it does not leave within five seconds."""
        if self.process.poll() is None:
            try:
                self.call("shutdown", None, seconds=5.0)
                self.notify("exit", {})
                self._input.close()
                self.process.wait(5.0)
            except (ServerError, OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self._input, self._output, self._stderr):
            stream.close()

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        try:
            self._input.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self._input.flush()
        except OSError as error:
            raise ServerError(f"the server went away: {self.errors()}") from error

    def _read(self) -> None:
        while (message := self._message()) is not None:
            now = time.perf_counter()
            if "method" not in message:
                with self._lock:
                    answer = self._waiting.pop(message["id"], None)
                if answer is not None:
                    answer.finish(message, now)
            elif "id" in message:
                # A request of the server (configuration, progress): an editor may answer null.
                self._send({"id": message["id"], "result": None})
        with self._lock:
            self._closed = True
            abandoned = list(self._waiting.values())
        for answer in abandoned:
            answer.finish(None, time.perf_counter())

    def _message(self) -> dict[str, Any] | None:
        length = 0
        while (line := self._output.readline()).strip():
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        body = self._output.read(length) if length else b""
        if not length or len(body) < length:
            return None
        message: dict[str, Any] = json.loads(body)
        return message
