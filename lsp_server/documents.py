"""Open documents and positions in them (LSP 3.18, "Text Documents" and "Position").

Lines end at `\\n`, `\\r\\n` and `\\r` only: Python's `splitlines` would also split at form
feeds, which Python sources hold, and every position below one would be off. A document is
kept as its list of lines, so that an edit costs what it changes and not the whole file.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from lsprotocol import types

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class DocumentError(Exception):
    """A change to a document that is not open."""


class Encoding(StrEnum):
    """Unit of `Position.character`, as negotiated with the client."""

    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"


def split_lines(text: str) -> list[str]:
    """Lines with their endings; the last one has none (so there is always at least one)."""
    lines = io.StringIO(text, newline="").readlines()
    if not lines or lines[-1].endswith(("\n", "\r")):
        lines.append("")
    return lines


def line_body(line: str) -> str:
    """The line without its ending."""
    return line.rstrip("\r\n")


def _units(char: str, encoding: Encoding) -> int:
    code = ord(char)
    if encoding is Encoding.UTF8:
        return 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
    return 1 + (encoding is Encoding.UTF16 and code > 0xFFFF)


def to_column(line: str, character: int, encoding: Encoding) -> int:
    """Code points before `character` units of `line`.

    Past the end of the line it is the end; inside a character it is the character's start.
    """
    body = line_body(line)
    if encoding is Encoding.UTF32 or body.isascii():
        return min(character, len(body))
    units = 0
    for column, char in enumerate(body):
        units += _units(char, encoding)
        if units > character:
            return column
    return len(body)


def to_character(line: str, column: int, encoding: Encoding) -> int:
    """Units of `encoding` in the first `column` code points of `line`."""
    head = line[:column]
    if encoding is Encoding.UTF32 or head.isascii():
        return len(head)
    return sum(_units(char, encoding) for char in head)


class Change(NamedTuple):
    """What an edit did: `removed`, which stood at `start` (code points), became `inserted`."""

    start: int
    removed: str
    inserted: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one state of a document.

    Attributes:
        text: the whole document.
        offset: code points before the cursor.
        line: zero-based line number.
        line_start: code points before the line.
        line_text: the line, ending included.
        encoding: unit of the client's positions.
    """

    text: str
    offset: int
    line: int
    line_start: int
    line_text: str
    encoding: Encoding

    def character(self, offset: int) -> int:
        """Position on the cursor's line of `offset` (code points into `text`).

        Raises:
            ValueError: `offset` is on another line.
        """
        column = offset - self.line_start
        if not 0 <= column <= len(line_body(self.line_text)):
            raise ValueError(f"offset {offset} is not on the cursor's line")
        return to_character(self.line_text, column, self.encoding)


class Document:
    """One open document."""

    def __init__(self, text: str, language: str, encoding: Encoding) -> None:
        self.language = language
        self._encoding = encoding
        self.replace(text)

    @property
    def text(self) -> str:
        """The whole text, as the client has it."""
        return "".join(self._lines)

    def replace(self, text: str) -> None:
        """Set the whole text. Half surrogate pairs, which no tokenizer takes, become U+FFFD."""
        self._lines = split_lines(_LONE_SURROGATE.sub("\ufffd", text))

    def edit(self, start: tuple[int, int], end: tuple[int, int], text: str) -> Change:
        """Replace what is between two (line, character) positions; out of range is clamped."""
        first, first_column = self._clamp(start)
        last, last_column = self._clamp(end)
        if (last, last_column) < (first, first_column):
            raise DocumentError("the range of a change ends before it starts")
        text = _LONE_SURROGATE.sub("\ufffd", text)
        between = "".join(self._lines[first : last + 1])
        tail = self._lines[last][last_column:]
        removed = between[first_column : len(between) - len(tail)]
        start_offset = sum(map(len, self._lines[:first])) + first_column
        changed = self._lines[first][:first_column] + text + tail
        # The line before too: its "\r" and an inserted "\n" are one line ending.
        low, high = max(first - 1, 0), last + 1
        lines = split_lines("".join(self._lines[low:first]) + changed)
        if high < len(self._lines):
            lines.pop()
        self._lines[low:high] = lines
        return Change(start_offset, removed, text)

    def cursor(self, line: int, character: int) -> Cursor:
        """The place at a position, clamped into the document."""
        line, column = self._clamp((line, character))
        start = sum(map(len, self._lines[:line]))
        return Cursor(
            text=self.text,
            offset=start + column,
            line=line,
            line_start=start,
            line_text=self._lines[line],
            encoding=self._encoding,
        )

    def _clamp(self, position: tuple[int, int]) -> tuple[int, int]:
        line, character = position
        if line >= len(self._lines):
            return len(self._lines) - 1, len(self._lines[-1])
        return line, to_column(self._lines[line], character, self._encoding)


class Listener:
    """Told what happens to documents; this one ignores it."""

    def opened(self, uri: str) -> None:
        """A document was opened."""

    def edited(self, uri: str, changes: list[Change]) -> None:
        """A document was changed; each change is in the text that the last one left."""

    def closed(self, uri: str, text: str) -> None:
        """A document was closed in the state `text`."""


class Documents:
    """The documents that the client has open, by URI; cells of notebooks are among them."""

    def __init__(self, encoding: Encoding = Encoding.UTF16) -> None:
        self.encoding = encoding
        self.listener = Listener()
        self._open: dict[str, Document] = {}

    def open(self, uri: str, text: str, language: str) -> None:
        """Start to follow a document; opening twice replaces it."""
        self._open[uri] = Document(text, language, self.encoding)
        self.listener.opened(uri)

    def get(self, uri: str) -> Document | None:
        """The open document, or None."""
        return self._open.get(uri)

    def require(self, uri: str) -> Document:
        """The open document.

        Raises:
            DocumentError: it is not open.
        """
        if (document := self._open.get(uri)) is None:
            raise DocumentError(f"{uri} is not open")
        return document

    def change(self, uri: str, changes: Sequence[types.TextDocumentContentChangeEvent]) -> None:
        """Apply changes in order.

        Raises:
            DocumentError: the document is not open, or a range ends before it starts.
        """
        document = self.require(uri)
        done = []
        for change in changes:
            if isinstance(change, types.TextDocumentContentChangePartial):
                start, end = change.range.start, change.range.end
                places = (start.line, start.character), (end.line, end.character)
                done.append(document.edit(*places, change.text))
            else:
                before = document.text
                document.replace(change.text)
                done.append(Change(0, before, document.text))
        self.listener.edited(uri, done)

    def close(self, uri: str) -> None:
        """Forget a document; unknown ones are ignored."""
        if (document := self._open.pop(uri, None)) is not None:
            self.listener.closed(uri, document.text)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 (hex, of UTF-8) of every open document, by URI."""
        return {
            uri: hashlib.sha256(document.text.encode("utf-8", "replace")).hexdigest()
            for uri, document in self._open.items()
        }
