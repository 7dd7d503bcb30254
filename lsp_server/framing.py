"""Reads framed messages as LSP 3.18, "Header Part", wants them, and finds its way back if not.

pygls knows `Content-Length: N` in exactly that spelling and loses the next message too after
anything else. Header names know no case, blanks around the colon are free, other fields are
allowed; and after rubbish the next header is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import Protocol

_LENGTH = re.compile(rb"content-length[ \t]*:[ \t]*(\d{1,10})[ \t]*\r?\n?\Z", re.IGNORECASE)
MAX_BYTES = 512_000_000
"""Longer messages are rubbish: no editor sends half a gigabyte."""
_WAITING = 64
"""Messages read before they are handled; an editor that sends faster waits, as for a full pipe."""
_TURNS = 10
"""Turns of the loop between two messages: an answer of the client, its settings for example, passes
through about five futures before it reaches who asked. A turn takes microseconds."""


class Stream(Protocol):
    """What is needed of a binary stream."""

    def readline(self) -> bytes:
        """The next line with its end; empty at the end of the stream."""
        ...

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end of the stream."""
        ...


def read_body(stream: Stream) -> bytes:
    """The body of the next message, cut short where the stream ends; empty at its end."""
    length = 0
    while line := stream.readline():
        if match := _LENGTH.search(line):
            length = int(match.group(1))
        elif not line.strip() and 0 < length <= MAX_BYTES:
            return stream.read(length)
    return b""


class FrameReader:
    """What pygls's loop reads from: every message under a header as pygls spells it.

    A thread reads ahead. pygls itself would cross to a thread and back for each of two header
    lines and the body, and each crossing waits for the interpreter, which work ahead holds for up
    to a millisecond: an edit and its request would come in several milliseconds late.

    Args:
        stream: where messages come from; blocks.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._bodies: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(_WAITING)
        self._lines: list[bytes] = []
        self._body = b""

    def start(self) -> None:
        """Begin to read; needs a running event loop."""
        loop = asyncio.get_running_loop()
        # A daemon: nothing ends a blocked read, and it must not keep the process.
        threading.Thread(target=self._work, args=(loop,), name="reader", daemon=True).start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        body = b"?"
        while body:
            self._room.acquire()
            try:
                body = read_body(self._stream)
            except OSError:
                body = b""
            # The loop may have ended, and then nobody is left to read for.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._bodies.put_nowait, body)

    async def readline(self) -> bytes:
        """In turn the header with the length of the next message, and the line after it."""
        if self._lines:
            return self._lines.pop()
        # What the last message said applies before the next one is looked at.
        for _ in range(0 if self._bodies.empty() else _TURNS):
            await asyncio.sleep(0)
        self._body = await self._bodies.get()
        self._room.release()
        if not self._body:
            return b""
        self._lines.append(b"\r\n")
        return b"Content-Length: %d\r\n" % len(self._body)

    async def readexactly(self, n: int) -> bytes:
        """The body of a message, whose length is `n`."""
        return self._body
