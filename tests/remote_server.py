"""A real HTTP server on loopback that answers as it is told, badly for the most part."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Part = bytes | float | None
"""Bytes to send, seconds to wait, or None to cut the connection hard."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(text: str, reason: str | None = None, **more: Any) -> bytes:
    """One chunk of a streamed completion."""
    choice = {"index": 0, "text": text, "finish_reason": reason}
    chunk = {"id": "cmpl-1", "model": "m", "choices": [choice]} | more
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*texts: str, end: str | None = "stop") -> list[Part]:
    """A good answer in so many pieces; without its end for None."""
    parts: list[Part] = [HEAD, *(event(text) for text in texts)]
    return parts if end is None else [*parts, event("", end), DONE]


@dataclass
class RemoteServer:
    """Attributes:
    answer: parts of the next answers.
    bodies: JSON bodies that were sent.
    headers: header blocks that were sent.
    left: how many clients closed the connection before the answer ended.
    """

    url: str = ""
    answer: Callable[[dict[str, Any]], list[Part]] = field(default=lambda body: stream("x"))
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    left: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.headers.append(head)
            lengths = [line for line in head.lower().split("\r\n") if "content-length" in line]
            body = json.loads(await reader.readexactly(int(lengths[0].split(":")[1])))
            self.bodies.append(body)
            for part in self.answer(body):
                if part is None:
                    writer.transport.abort()
                    return
                if isinstance(part, float):
                    if await self._leaves(reader, part):
                        return
                else:
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left += 1
        finally:
            writer.close()

    async def _leaves(self, reader: asyncio.StreamReader, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                if await reader.read(1) == b"":
                    self.left += 1
                    return True
        except TimeoutError:
            pass
        return False


@contextmanager
def running() -> Iterator[RemoteServer]:
    """A server in a thread of its own."""
    server, started = RemoteServer(), threading.Event()
    loop = asyncio.new_event_loop()

    async def start() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        started.set()
        async with listening:
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(start()), daemon=True)
    thread.start()
    assert started.wait(10)
    yield server
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
