r"""Line endings, byte order mark, cursor: one form for the model, the user's own on the way back.

The model was trained on text with `\n` line ends and no byte order mark; tabs it has seen and
keeps. Everything behind this module works on the normalised text; `Normalised.restore` and
`Normalised.cursor` lead back to the document as the editor holds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BYTE_ORDER_MARK = "\ufeff"
_LINE_BREAK = re.compile("\r\n|\r|\n")


class CursorError(ValueError):
    """The cursor is not inside the document."""


@dataclass(frozen=True, slots=True)
class Normalised:
    r"""A document split at the cursor, as the model sees it.

    Attributes:
        prefix: text before the cursor, `\n` line ends, no byte order mark.
        suffix: text after the cursor, likewise.
        newline: the line ending most lines of the document use (`\n` where it has none).
        cursor: where the cursor is in the original text, code points. It differs from the
            offset asked for in two places no editor puts a cursor: between `\r` and `\n`
            (moved before both) and before a byte order mark (moved behind it).
    """

    prefix: str
    suffix: str
    newline: str
    cursor: int

    def restore(self, insert: str) -> str:
        r"""`insert` (`\n` line ends) with the document's own line ending."""
        return insert if self.newline == "\n" else insert.replace("\n", self.newline)


def normalise(text: str, offset: int) -> Normalised:
    r"""Split `text` at `offset` and bring it to the form the model was trained on.

    Args:
        text: the document as the editor holds it.
        offset: cursor, code points into `text`.

    Raises:
        CursorError: `offset` is outside 0..len(text).
    """
    if not 0 <= offset <= len(text):
        raise CursorError(f"the cursor ({offset}) is outside the document ({len(text)} characters)")
    start = int(text.startswith(BYTE_ORDER_MARK))
    cursor = max(offset, start)
    if text[cursor - 1 : cursor + 1] == "\r\n" and cursor > start:
        cursor -= 1
    prefix, suffix = text[start:cursor], text[cursor:]
    if "\r" not in text:
        return Normalised(prefix, suffix, "\n", cursor)
    return Normalised(_to_line_feeds(prefix), _to_line_feeds(suffix), line_ending(text), cursor)


def line_ending(text: str) -> str:
    r"""The most frequent line ending of `text`: `\n`, `\r\n` or `\r`; `\n` where there is none."""
    crlf = text.count("\r\n")
    counts = {"\n": text.count("\n") - crlf, "\r\n": crlf, "\r": text.count("\r") - crlf}
    return max(counts, key=lambda ending: counts[ending])


def offset_at(text: str, line: int, column: int) -> int:
    """Offset of a position given as people count: both from 1, columns in code points.

    Column n stands before the n-th character; one past the last is the line's end. A byte order
    mark is not a character of the first line.

    Raises:
        CursorError: there is no such line, or the line is shorter.
    """
    starts = [int(text.startswith(BYTE_ORDER_MARK))]
    starts += [match.end() for match in _LINE_BREAK.finditer(text)]
    if not 1 <= line <= len(starts):
        raise CursorError(f"there is no line {line}: the file has {len(starts)}")
    start = starts[line - 1]
    end = match.start() if (match := _LINE_BREAK.search(text, start)) else len(text)
    if not 1 <= column <= end - start + 1:
        raise CursorError(f"there is no column {column}: line {line} has {end - start} characters")
    return start + column - 1


def _to_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
