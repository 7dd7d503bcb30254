"""Types a trace into a language server as a person in an editor would.

After every key a completion is asked for; if its answer is not there at the next key, it is
cancelled. A suggestion that equals the rest of the line is accepted once it stood long
enough to be read.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.lsp_client import CANCELLED, Answer, Json, LspClient, ServerError
from benchmarks.trace import Place, Session, keystrokes

ACCEPT_MIN_CHARS = 4
ACCEPT_AFTER_S = 0.3
"""A reader needs about this long to see that a suggestion is the wanted one."""
ANSWER_LIMIT_S = 30.0


class Cause(StrEnum):
    """What made the editor ask."""

    OPEN = "open"
    JUMP = "jump"
    KEY = "key"
    ACCEPT = "accept"


@dataclass(slots=True)
class Asked:
    """One completion request.

    Attributes:
        cause: what made the editor ask.
        answer: the client's record of it.
        superseded: no answer came before the next key.
        suggestion: text the answer puts at the cursor, None for nothing.
    """

    cause: Cause
    answer: Answer
    superseded: bool = False
    suggestion: str | None = None

    @property
    def milliseconds(self) -> float | None:
        """From writing the request to reading its answer; None if superseded."""
        if self.superseded or self.answer.received is None:
            return None
        return (self.answer.received - self.answer.sent) * 1000


def utf16(text: str) -> int:
    """Return the length in UTF-16 code units, which LSP counts columns in."""
    return len(text.encode("utf-16-le")) // 2


class Editor:
    """One document in the server, with its cursor.

    Args:
        client: an initialized connection.
        uri: of the document.
        lines: its text.
        asked: every request is appended here.
    """

    def __init__(
        self, client: LspClient, uri: str, lines: Sequence[str], asked: list[Asked]
    ) -> None:
        self.lines = list(lines)
        self.row, self.column = 0, 0
        self._client, self._uri, self._asked = client, uri, asked
        self._version = 1
        self._visible: str | None = None
        self._visible_since = 0.0
        document = {"uri": uri, "languageId": "python", "version": 1, "text": "\n".join(lines)}
        client.notify("textDocument/didOpen", {"textDocument": document})

    def close(self) -> None:
        """Close the document."""
        self._client.notify("textDocument/didClose", {"textDocument": {"uri": self._uri}})

    def move(self, row: int, column: int) -> None:
        """Put the cursor somewhere else; what was visible is gone."""
        self.row, self.column = row, column
        self._visible = None

    def insert(self, text: str) -> None:
        """Insert text at the cursor, which ends up behind it."""
        position = self._position()
        line = self.lines[self.row]
        parts = (line[: self.column] + text + line[self.column :]).split("\n")
        after = len(line) - self.column
        self.lines[self.row : self.row + 1] = parts
        self.row += len(parts) - 1
        self.column = len(parts[-1]) - after
        self._version += 1
        self._client.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": self._uri, "version": self._version},
                "contentChanges": [{"range": {"start": position, "end": position}, "text": text}],
            },
        )

    def send(self) -> tuple[int, Answer]:
        """Ask for a completion at the cursor; returns the request's id and its answer to be."""
        return self._client.request(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": self._uri},
                "position": self._position(),
                "context": {"triggerKind": 2},
            },
        )

    def ask(self, cause: Cause, seconds: float, rest: str = "") -> Asked:
        """Ask for a completion, then let the time until the next action pass.

        Args:
            cause: what made the editor ask.
            seconds: until the next action; the request is cancelled if it takes longer.
            rest: what the user is about to type on this line, to recognise it when shown.
        """
        number, answer = self.send()
        asked = Asked(cause, answer)
        self._asked.append(asked)
        if not answer.wait(seconds):
            asked.superseded = True
            self._visible = None
            self._client.cancel(number)
            return asked
        if answer.error is not None and answer.error.get("code") not in CANCELLED:
            raise ServerError(f"completion failed: {answer.error.get('message')}")
        asked.suggestion = self._shown_text(answer.result)
        if asked.suggestion != rest:
            self._visible = None
        elif self._visible is None:
            self._visible, self._visible_since = rest, time.perf_counter()
        if answer.received is not None:
            time.sleep(max(answer.sent + seconds - time.perf_counter(), 0.0))
        return asked

    def wants(self, rest: str) -> bool:
        """Tell whether the user takes what is shown instead of typing on."""
        stood = time.perf_counter() - self._visible_since
        readable = self._visible is not None and len(rest) >= ACCEPT_MIN_CHARS
        return readable and stood >= ACCEPT_AFTER_S

    def run_command(self, asked: Asked) -> None:
        """Run the command of an accepted item, as an editor does after inserting it."""
        command = _items(asked.answer.result)[0].get("command")
        if command is not None:
            params = {"command": command["command"], "arguments": command.get("arguments", [])}
            self._client.request("workspace/executeCommand", params)

    def _position(self) -> dict[str, int]:
        return {
            "line": self.row,
            "character": utf16(self.lines[self.row][: self.column]),
        }

    def _shown_text(self, result: Json) -> str | None:
        items = _items(result)
        if not items:
            return None
        text: str = items[0]["insertText"]
        if (place := items[0].get("range")) is None:
            return text
        line = self.lines[self.row]
        widths = [utf16(line[:column]) for column in range(len(line) + 1)]
        start = bisect.bisect_left(widths, place["start"]["character"])
        return text.removeprefix(line[start : self.column])


def _items(result: Json) -> list[dict[str, Json]]:
    items: list[dict[str, Json]] = result["items"] if isinstance(result, dict) else result or []
    return items


def replay(client: LspClient, session: Session, asked: list[Asked]) -> None:
    """Visit the places of one file, which stays open, as files in editors do.

    Args:
        client: an initialized connection.
        session: the file and its places.
        asked: every request is appended here.
    """
    missing = {line for place in session.places for line in range(place.start, place.end)}
    lines = [line for number, line in enumerate(session.lines) if number not in missing]
    editor = Editor(client, f"file:///trace/{session.name}", lines, asked)
    for index, place in enumerate(session.places):
        cause = Cause.JUMP if index else Cause.OPEN
        _visit(editor, session, place, missing, cause)
    if tuple(editor.lines) != session.lines:
        raise AssertionError(f"the replay of {session.name} did not restore the file")


def _visit(editor: Editor, session: Session, place: Place, missing: set[int], cause: Cause) -> None:
    """Type one place; `missing` holds the lines not typed so far and shrinks."""

    def row_of(line: int) -> int:
        return line - sum(1 for other in missing if other < line)

    # Not the row of the line before: that one may be missing as well.
    row = row_of(place.start) - 1
    editor.move(row, len(editor.lines[row]))
    editor.ask(cause, place.pause_ms / 1000)
    keys = keystrokes(session.lines[place.start : place.end])
    begun = place.start
    position = 0
    glanced = False
    while position < len(keys):
        if keys[position].startswith("\n"):
            missing.discard(begun)
            begun += 1
        editor.insert(keys[position])
        gap = place.gaps_ms[position] / 1000
        position += 1
        rest = _rest_of_line(keys, position)
        asked = editor.ask(Cause.KEY, gap, rest)
        if not glanced and position >= place.glance.after:
            glanced = True
            _glance(editor, row_of(place.glance.line), place, rest)
        elif rest and editor.wants(rest):
            editor.insert(rest)
            editor.run_command(asked)
            position += len(rest)
            editor.ask(Cause.ACCEPT, place.gaps_ms[position - 1] / 1000)


def _glance(editor: Editor, row: int, place: Place, rest: str) -> None:
    home = (editor.row, editor.column)
    editor.move(row, len(editor.lines[row]))
    editor.ask(Cause.JUMP, place.glance.pause_ms / 1000)
    editor.move(*home)
    editor.ask(Cause.JUMP, place.glance.back_ms / 1000, rest)


def _rest_of_line(keys: Sequence[str], position: int) -> str:
    rest = []
    for key in keys[position:]:
        if key.startswith("\n"):
            break
        rest.append(key)
    return "".join(rest)
