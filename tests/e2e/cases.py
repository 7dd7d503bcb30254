"""What every editor has to do: a table of cases over one small interface.

A case opens a project, does what a user does, and checks the buffer and what the server was
told. The model decides the words: a case checks that they are what was shown.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

SHOWN = "textDocument/didShowCompletion"
PARTIAL = "textDocument/didPartiallyAcceptCompletion"
DISMISSED = "textDocument/didDismissCompletion"

TYPED = "lines = text.splitlines(); count = len("
"""Code whose next word any model for Python knows."""
BEGUN = "l"
"""The first letter of that word."""

UNDECIDED = "if isinstance(text, "
"""Code that a model goes on with in two ways, however much of the file it has read."""

BLOCK = "def count_words(text: str) -> dict[str, int]:\n"
"""An open and empty block."""


class Driver(Protocol):
    """An editor with a file of a project open, in the way a user has it in hand.

    Actions are `accept`, `accept_word`, `accept_line`, `next`, `dismiss`, `undo`, `tab`,
    `outdent`, `menu` (opens the completion menu), `pause`, `resume`, `close_brackets` (from then
    on the editor closes what is opened) and `kill_server`.
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
    def file(self) -> Path:
        """The file that was opened."""

    @property
    def line(self) -> str:
        """The cursor's line."""

    @property
    def before(self) -> str:
        """The document up to the cursor, with line feeds."""

    def sent(self, method: str) -> list[dict[str, Any]]:
        """Params of all notifications and requests of this name that the server received."""

    def answers(self) -> list[Any]:
        """Results of all requests that the server answered."""

    @property
    def record(self) -> Path:
        """The telemetry database of the server."""


def _ids(editor: Driver, method: str) -> list[str]:
    return [params["item"]["command"]["arguments"][0] for params in editor.sent(method)]


def _accepted(editor: Driver) -> list[str]:
    """Ids of the suggestions that the server was told of as accepted."""
    commands = editor.sent("workspace/executeCommand")
    return [c["arguments"][0] for c in commands if c["command"] == "snowcoder.accept"]


def _rows(editor: Driver, query: str) -> list[str]:
    """The first column of what the server's record has at the moment."""
    if not editor.record.exists():
        return []
    with closing(sqlite3.connect(editor.record, timeout=10)) as database:
        return [row[0] for row in database.execute(query)]


def suggest(editor: Driver, typed: str = TYPED) -> str:
    """Type where a statement may stand; the ghost text."""
    editor.begin("from enum import")
    editor.type(typed)
    # What is there before all keys have come is for other text.
    editor.wait_for(lambda: editor.line == typed)
    ghost = editor.ghost()
    editor.wait_for(lambda: editor.sent(SHOWN))
    return ghost


def suggest_block(editor: Driver) -> str:
    """Open a block that a model has more than one line for; the ghost text."""
    editor.begin("from enum import")
    editor.type(BLOCK)
    editor.wait_for(lambda: editor.line.isspace())
    ghost = editor.ghost()
    assert "\n" in ghost
    editor.wait_for(lambda: editor.sent(SHOWN))
    return ghost


def _taken(editor: Driver, ghost: str) -> str:
    """What of `ghost` was taken by the last of its partial acceptances, and those before it."""
    partial = editor.sent(PARTIAL)[-1]
    # An item that goes on with an earlier one lacks what was taken of that.
    before = ghost.removesuffix(partial["item"]["insertText"])
    return ghost[: len(before) + partial["acceptedLength"]]


def typing_shows_and_accept_inserts(editor: Driver) -> None:
    ghost = suggest(editor)
    shown = _ids(editor, SHOWN)
    assert _accepted(editor) == []
    editor.press("accept")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    editor.wait_for(lambda: _accepted(editor))
    assert _accepted(editor) == shown[-1:]
    assert len(set(shown)) == len(shown)
    assert editor.sent(PARTIAL) == editor.sent(DISMISSED) == []


def typing_along_moves_the_ghost(editor: Driver) -> None:
    ghost = suggest(editor)
    assert len(ghost) > 1
    editor.type(ghost[0])
    editor.wait_for(lambda: editor.ghost() == ghost[1:])
    assert editor.line == TYPED + ghost[0]
    editor.press("accept")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    editor.wait_for(lambda: _accepted(editor))
    assert _accepted(editor)[0] in _ids(editor, SHOWN)


def words_are_accepted_one_by_one(editor: Driver) -> None:
    typed = "def average(values: list[float]) -> float: return sum"
    ghost = suggest(editor, typed)
    assert len(ghost) > 4
    taken = ""
    for step in (1, 2):
        editor.press("accept_word")
        editor.wait_for(lambda: len(editor.sent(PARTIAL)) == step)  # noqa: B023
        assert len(editor.line) > len(typed + taken)
        taken = editor.line.removeprefix(typed)
        assert ghost.startswith(taken)
        assert _taken(editor, ghost) == taken
    editor.wait_for(lambda: editor.ghost() == ghost.removeprefix(taken))
    assert _accepted(editor) == []
    editor.press("dismiss")
    ended = "select resolution from ended"
    editor.wait_for(lambda: _rows(editor, ended) == ["partially_accepted"])
    assert _rows(editor, "select accepted_chars from ended") == [len(taken)]


def lines_are_accepted_one_by_one(editor: Driver) -> None:
    ghost = suggest_block(editor)
    first, rest = ghost.split("\n", 1)
    start = editor.before
    editor.press("accept_line")
    # Editors differ in whether the line's end is taken with it.
    editor.wait_for(lambda: editor.before.rstrip("\n") == start + first)
    editor.wait_for(lambda: len(editor.sent(PARTIAL)) == 1)
    taken = _taken(editor, ghost)
    assert taken.rstrip("\n") == first
    editor.wait_for(lambda: editor.ghost() == ghost.removeprefix(taken))
    editor.press("accept_line")
    second = rest.split("\n", 1)[0]
    editor.wait_for(lambda: editor.before.rstrip("\n") == f"{start}{first}\n{second}")


def a_block_is_shown_and_accepted_whole(editor: Driver) -> None:
    ghost = suggest_block(editor)
    start = editor.before
    editor.press("accept")
    editor.wait_for(lambda: editor.before == start + ghost)
    editor.wait_for(lambda: _accepted(editor))
    assert _accepted(editor) == _ids(editor, SHOWN)[-1:]


def undo_takes_back_what_was_accepted(editor: Driver) -> None:
    ghost = suggest(editor)
    editor.press("accept")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    editor.press("undo")
    editor.wait_for(lambda: editor.line == TYPED)


def what_is_dismissed_stays_away(editor: Driver) -> None:
    ghost = suggest(editor)
    editor.press("dismiss")
    editor.no_ghost()
    editor.wait_for(lambda: _ids(editor, DISMISSED))
    assert _ids(editor, DISMISSED) == _ids(editor, SHOWN)[-1:]
    editor.type(ghost[0])
    editor.no_ghost()
    assert editor.line == TYPED + ghost[0]
    assert _accepted(editor) == []


def the_next_one_is_another(editor: Driver) -> None:
    ghost = suggest(editor, UNDECIDED)
    editor.press("next")
    editor.wait_for(lambda: editor.ghost() != ghost)
    other = editor.ghost()
    kinds = [p["context"]["triggerKind"] for p in editor.sent("textDocument/inlineCompletion")]
    assert kinds[-1] == 1
    editor.wait_for(lambda: len(set(_ids(editor, SHOWN))) >= 2)
    editor.press("accept")
    editor.wait_for(lambda: editor.line == UNDECIDED + other)
    editor.wait_for(lambda: _accepted(editor))
    assert _accepted(editor) == _ids(editor, SHOWN)[-1:]


def nothing_is_suggested_while_paused(editor: Driver) -> None:
    editor.press("pause")
    editor.begin("from enum import")
    editor.type(TYPED)
    editor.no_ghost()
    assert editor.sent(SHOWN) == []
    editor.press("resume")
    editor.type(BEGUN)
    assert editor.ghost()
    commands = [c["command"] for c in editor.sent("workspace/executeCommand")]
    assert commands == ["snowcoder.pause", "snowcoder.resume"]


def tab_indents(editor: Driver) -> None:
    editor.begin("from enum import")
    editor.type(BLOCK)
    editor.press("outdent")
    editor.wait_for(lambda: editor.line == "")
    # The suggestion begins with the indentation that is missing.
    assert editor.ghost().startswith("    ")
    editor.press("tab")
    editor.wait_for(lambda: editor.line != "")
    assert editor.line.isspace()
    assert _accepted(editor) == []


def an_open_menu_keeps_its_keys(editor: Driver) -> None:
    editor.begin("from enum import")
    editor.type("se")
    editor.press("menu")
    editor.press("accept")
    editor.type("x")
    editor.wait_for(lambda: editor.line.startswith("se") and editor.line.endswith("x"))
    assert editor.line.isidentifier()
    assert _accepted(editor) == []


def a_closed_bracket_is_not_doubled(editor: Driver) -> None:
    editor.press("close_brackets")
    editor.begin("from enum import")
    editor.type("count = len(")
    editor.wait_for(lambda: editor.line == "count = len()")
    ghost = editor.ghost()
    editor.press("accept")
    editor.wait_for(lambda: _accepted(editor))
    editor.wait_for(lambda: editor.line.startswith("count = len(" + ghost.rstrip(")")))
    assert editor.line.count("(") == editor.line.count(")")


def a_killed_server_is_started_again(editor: Driver) -> None:
    suggest(editor)
    # What a server has not written when it is killed is lost.
    editor.wait_for(lambda: _rows(editor, "select suggestion_id from shown"))
    editor.press("kill_server")
    editor.wait_for(lambda: len(editor.sent("textDocument/didOpen")) == 2)
    editor.type(BEGUN)
    assert editor.ghost()
    assert editor.line == TYPED + BEGUN


def other_letters_stand_before_the_cursor(editor: Driver) -> None:
    typed = 'moods = ["😀", "é"]; total = len('
    ghost = suggest(editor, typed)
    editor.press("accept")
    editor.wait_for(lambda: editor.line == typed + ghost)
    editor.wait_for(lambda: _accepted(editor))


def a_crlf_file_stays_one(editor: Driver) -> None:
    ghost = suggest_block(editor)
    start = editor.before
    editor.press("accept")
    editor.wait_for(lambda: editor.before == start + ghost)
    editor.save()
    saved = editor.file.read_bytes()
    assert (start + ghost).replace("\n", "\r\n").encode() in saved
    assert saved.count(b"\n") == saved.count(b"\r\n") == saved.count(b"\r")


def a_renamed_file_is_followed(editor: Driver) -> None:
    old = editor.file
    new = old.with_name("renämed.py")
    editor.save(new)
    editor.wait_for(lambda: len(editor.sent("textDocument/didOpen")) == 2)
    closed = editor.sent("textDocument/didClose")[-1]["textDocument"]["uri"]
    assert unquote(closed) == unquote(old.as_uri())
    suggest(editor)
    asked = editor.sent("textDocument/inlineCompletion")[-1]
    assert unquote(asked["textDocument"]["uri"]) == unquote(new.as_uri())


def changed_settings_take_effect(editor: Driver) -> None:
    told = len(editor.sent("workspace/didChangeConfiguration"))
    editor.configure({"languages": ["ruby"]})
    editor.wait_for(lambda: len(editor.sent("workspace/didChangeConfiguration")) > told)
    editor.begin("from enum import")
    editor.type(TYPED)
    editor.no_ghost()
    editor.configure({"languages": ["python"]})
    editor.type(BEGUN)
    assert editor.ghost()


def _record_names(editor: Driver) -> dict[str, str]:
    """The name that the record has for each item: that of the first item beside it."""
    names: dict[str, str] = {}
    for answer in editor.answers():
        items = answer if isinstance(answer, list) else []
        ids = [i["command"]["arguments"][0] for i in items if "insertText" in (i or {})]
        for one in ids:
            names.setdefault(one, ids[0])
    return names


def _wait_for_rows(editor: Driver, query: str, ids: Iterable[str]) -> None:
    expected = sorted(ids)
    editor.wait_for(lambda: sorted(_rows(editor, query)) == expected)


@dataclass(frozen=True, slots=True)
class Case:
    """What a user does; `crlf` files have Windows' line ends."""

    steps: Callable[[Driver], None]
    crlf: bool = False

    def run(self, editor: Driver) -> None:
        """Take the steps; whatever they are, what the server was told and keeps adds up."""
        self.steps(editor)
        # The last one is told a moment after it came.
        shown, accepted = _ids(editor, SHOWN), _accepted(editor)
        assert len(set(shown)) == len(shown), "shown is told once"
        answered = [*accepted, *_ids(editor, PARTIAL), *_ids(editor, DISMISSED)]
        assert set(answered) <= set(shown)
        assert len(set(accepted)) == len(accepted)
        names = _record_names(editor)
        recorded = {
            "select suggestion_id from shown": shown,
            "select suggestion_id from ended where resolution = 'accepted'": accepted,
            "select suggestion_id from ended where resolution = 'dismissed'": [
                i for i in _ids(editor, DISMISSED) if i not in _ids(editor, PARTIAL)
            ],
        }
        for query, ids in recorded.items():
            _wait_for_rows(editor, query, {names[i] for i in ids})


CASES = {
    "typing shows and accept inserts": Case(typing_shows_and_accept_inserts),
    "typing along moves the ghost": Case(typing_along_moves_the_ghost),
    "accept by word": Case(words_are_accepted_one_by_one),
    "accept by line": Case(lines_are_accepted_one_by_one),
    "several lines": Case(a_block_is_shown_and_accepted_whole),
    "undo": Case(undo_takes_back_what_was_accepted),
    "dismiss": Case(what_is_dismissed_stays_away),
    "cycle": Case(the_next_one_is_another),
    "pause and resume": Case(nothing_is_suggested_while_paused),
    "tab indents": Case(tab_indents),
    "an open menu keeps its keys": Case(an_open_menu_keeps_its_keys),
    "a closed bracket": Case(a_closed_bracket_is_not_doubled),
    "server killed": Case(a_killed_server_is_started_again),
    "other letters before the cursor": Case(other_letters_stand_before_the_cursor),
    "crlf": Case(a_crlf_file_stays_one, crlf=True),
    "rename": Case(a_renamed_file_is_followed),
    "settings": Case(changed_settings_take_effect),
}
"""Every case, by its name; each starts with a file of a project open."""
