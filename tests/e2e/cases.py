"""What every editor has to do: a table of cases over one small interface.

A case opens a project, does what a user does, and checks the buffer and what the server was
told. The model decides the words: a case checks that they are what was shown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

SHOWN = "textDocument/didShowCompletion"
PARTIAL = "textDocument/didPartiallyAcceptCompletion"
DISMISSED = "textDocument/didDismissCompletion"

TYPED = "names = ['a', 'b']; count = len("
"""Code whose next word any model for Python knows."""


class Driver(Protocol):
    """An editor with a file of a project open, in the way a user has it in hand.

    Actions are `accept`, `accept_word`, `accept_line`, `next`, `dismiss`, `undo`, `tab`, `menu`
    (opens the completion menu), `pause` and `resume`.
    """

    def open(self, path: Path) -> None:
        """Open a file, and wait for the server."""

    def begin(self, above: str) -> None:
        """Begin to type on a new line before the first line that holds `above`."""

    def type(self, text: str) -> None:
        """Type text key by key."""

    def press(self, action: str) -> None:
        """Do what the action's key, menu or command does."""

    def configure(self, settings: dict[str, Any]) -> None:
        """Change the user's settings."""

    def save(self, path: Path | None = None) -> None:
        """Write the file, under another name if one is given."""

    def ghost(self) -> str:
        """Wait for ghost text at the cursor; lines are separated by a line feed."""

    def no_ghost(self) -> None:
        """Wait until none is there, and see that none comes."""

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`."""

    @property
    def line(self) -> str:
        """The cursor's line."""

    @property
    def before(self) -> str:
        """The document up to the cursor, with line feeds."""

    def sent(self, method: str) -> list[dict[str, Any]]:
        """Params of all notifications and requests of this name that the server received."""


def _ids(editor: Driver, method: str) -> list[str]:
    return [params["item"]["command"]["arguments"][0] for params in editor.sent(method)]


def _accepted(editor: Driver) -> list[str]:
    """Ids of the suggestions that the server was told of as accepted."""
    commands = editor.sent("workspace/executeCommand")
    return [c["arguments"][0] for c in commands if c["command"] == "snowcoder.accept"]


def _suggest(editor: Driver, typed: str = TYPED) -> str:
    """Type where a statement may stand; the ghost text."""
    editor.begin("from enum import")
    editor.type(typed)
    ghost = editor.ghost()
    assert editor.line == typed
    editor.wait_for(lambda: editor.sent(SHOWN))
    return ghost


def typing_shows_and_accept_inserts(editor: Driver) -> None:
    ghost = _suggest(editor)
    shown = _ids(editor, SHOWN)
    assert _accepted(editor) == []
    editor.press("accept")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    editor.wait_for(lambda: _accepted(editor))
    assert _accepted(editor) == shown[-1:]
    assert len(set(shown)) == len(shown)
    assert editor.sent(PARTIAL) == editor.sent(DISMISSED) == []


CASES: dict[str, Callable[[Driver], None]] = {
    case.__name__: case for case in (typing_shows_and_accept_inserts,)
}
"""Every case, by its name; each starts with a file of a project open."""
