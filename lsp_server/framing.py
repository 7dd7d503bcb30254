"""Reads framed messages as LSP 3.18, "Header Part", wants them, and finds its way back if not.

pygls knows `Content-Length: N` in exactly that spelling and loses the next message too after
anything else. Header names know no case, blanks around the colon are free, other fields are
allowed; and after rubbish the next header is looked for.
"""

from __future__ import annotations

import re
from typing import Protocol

_LENGTH = re.compile(rb"content-length[ \t]*:[ \t]*(\d{1,10})[ \t]*\r?\n?\Z", re.IGNORECASE)
MAX_BYTES = 512_000_000
"""Longer messages are rubbish: no editor sends half a gigabyte."""


class Stream(Protocol):
    """What is needed of a binary stream."""

    def readline(self) -> bytes:
        """The next line with its end; empty at the end of the stream."""
        ...

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end of the stream."""
        ...


class FrameReader:
    """Looks like a stream to pygls, whose every header is as pygls spells it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._between = b""

    def readline(self) -> bytes:
        """In turn the header with the length of the next message, and the line after it."""
        if self._between:
            line, self._between = self._between, b""
            return line
        length = 0
        while line := self._stream.readline():
            if match := _LENGTH.search(line):
                length = int(match.group(1))
            elif not line.strip() and 0 < length <= MAX_BYTES:
                self._between = b"\r\n"
                return b"Content-Length: %d\r\n" % length
        return b""

    def read(self, size: int, /) -> bytes:
        """The body of a message."""
        return self._stream.read(size)
