"""A real VS Code with the packaged extension, the real server and real weights.

| case | the buffer after it | the server is told |
|---|---|---|
| Tab | all of the suggestion | shown, accepted |
| typed through | what was typed; the rest as ghost text | no partial acceptance |
| word, line | the first word, the first line | shown, partially accepted |
| Escape | nothing new | shown, dismissed |
| undo | as before | accepted, once |
| Tab at the start of a line | indentation | nothing accepted |
| Tab with the list open | the list's choice | nothing accepted |
| a bracket that the editor closed | one bracket | accepted |
| emoji before the cursor, CRLF | as it should | accepted |
| pause, resume | nothing, then a suggestion | |
| settings change | nothing, then a suggestion | |
| server killed | a suggestion | |
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from selenium.webdriver.common.keys import Keys

from tests.e2e import vscode
from tests.e2e.vscode import Editor

HEAD = """\
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def __len__(self):
        """
TYPED = "return "
QUIET_S = 1.5
"""Long enough for a suggestion to appear, were there one."""

SHOWN = "textDocument/didShowCompletion"
PARTIAL = "textDocument/didPartiallyAcceptCompletion"
DISMISSED = "textDocument/didDismissCompletion"


@pytest.fixture(scope="session")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code") / "extensions"
    vscode.install_extension(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project with one Python file in it, in a folder with a space and a letter beyond ASCII."""
    path = tmp_path / "prö ject" / "stack.py"
    path.parent.mkdir()
    path.write_bytes(HEAD.encode())
    return path


@pytest.fixture
def editor(tmp_path: Path, extensions: Path, source: Path) -> Iterator[Editor]:
    with vscode.editor(tmp_path, extensions, source) as window:
        yield window


def has_text(editor: Editor, text: str) -> None:
    editor.wait_for(lambda: editor.text == text)


def suggestion(params: dict[str, object]) -> str:
    """Id of the suggestion that a notification is about."""
    item = params["item"]
    assert isinstance(item, dict)
    return str(item["command"]["arguments"][0])


def newest(editor: Editor) -> str:
    """Id of the suggestion that is on screen."""
    return suggestion({"item": editor.item()})


def test_tab_takes_all(editor: Editor) -> None:
    editor.type(TYPED)
    ghost = editor.ghost()
    has_text(editor, HEAD + TYPED)
    assert editor.accepted() == []
    editor.wait_for(lambda: [suggestion(p) for p in editor.sent(SHOWN)] == [newest(editor)])
    editor.picture("vscode-ghost-text")
    taken = newest(editor)
    editor.keys(Keys.TAB)
    has_text(editor, HEAD + TYPED + ghost)
    editor.wait_for(lambda: editor.accepted() == [taken])
    assert editor.sent(PARTIAL) == editor.sent(DISMISSED) == []


def test_tab_at_once_was_seen_as_well(editor: Editor) -> None:
    editor.type(TYPED)
    ghost = editor.ghost()
    taken = newest(editor)
    editor.keys(Keys.TAB)
    has_text(editor, HEAD + TYPED + ghost)
    editor.wait_for(lambda: editor.accepted() == [taken])
    assert [suggestion(p) for p in editor.sent(SHOWN)].count(taken) == 1


def test_typing_through_moves_the_ghost_text(editor: Editor) -> None:
    editor.type(TYPED)
    ghost = editor.ghost()
    assert len(ghost) > 2
    for length in (1, 2):
        editor.type(ghost[length - 1])
        editor.wait_for(lambda length=length: editor.ghost_now() == ghost[length:])
    has_text(editor, HEAD + TYPED + ghost[:2])
    assert editor.sent(PARTIAL) == editor.accepted() == []


def test_a_word_is_taken(editor: Editor) -> None:
    editor.type(TYPED)
    ghost = editor.ghost()
    first = newest(editor)
    editor.keys(Keys.CONTROL, Keys.ARROW_RIGHT)
    editor.wait_for(lambda: editor.text != HEAD + TYPED)
    word = editor.text.removeprefix(HEAD + TYPED)
    assert ghost.startswith(word)
    assert 0 < len(word) < len(ghost)
    (partial,) = editor.wait_for(lambda: editor.sent(PARTIAL))
    assert partial["acceptedLength"] == len(word)
    assert suggestion(partial) == first
    assert first in [suggestion(p) for p in editor.sent(SHOWN)]
    assert editor.accepted() == []
    editor.wait_for(lambda: editor.ghost_now() == ghost[len(word) :])


def test_a_line_is_taken(tmp_path: Path, extensions: Path, source: Path) -> None:
    body = HEAD.removesuffix("def __len__(self):\n        ") + "def pop_all(self):"
    source.write_text(body)
    with vscode.editor(tmp_path, extensions, source) as editor:
        editor.type("\n")
        before = f"{body}\n        "
        has_text(editor, before)
        editor.ghost()
        item = editor.item()
        lines = item["insertText"].split("\n")
        editor.picture("vscode-lines")
        editor.keys(Keys.CONTROL, Keys.ALT, Keys.ARROW_RIGHT)
        editor.wait_for(lambda: editor.text.rstrip() == before + lines[0])
        # The editor takes a suggestion of one line whole.
        told = editor.accepted if len(lines) == 1 else lambda: editor.sent(PARTIAL)
        assert len(editor.wait_for(told)) == 1
        assert [suggestion(p) for p in editor.sent(SHOWN)] == [suggestion({"item": item})]


def test_escape_dismisses(editor: Editor) -> None:
    editor.type(TYPED)
    editor.ghost()
    first = newest(editor)
    editor.keys(Keys.ESCAPE)
    editor.wait_for(lambda: not editor.ghost_now())
    editor.wait_for(lambda: [suggestion(p) for p in editor.sent(DISMISSED)] == [first])
    assert first in [suggestion(p) for p in editor.sent(SHOWN)]
    has_text(editor, HEAD + TYPED)
    assert editor.accepted() == []


def test_undo_takes_back_what_was_accepted(editor: Editor) -> None:
    editor.type(TYPED)
    ghost = editor.ghost()
    editor.keys(Keys.TAB)
    has_text(editor, HEAD + TYPED + ghost)
    editor.keys(Keys.CONTROL, "z")
    has_text(editor, HEAD + TYPED)
    assert len(editor.accepted()) == 1


def test_tab_at_the_start_of_a_line_indents(editor: Editor) -> None:
    editor.keys(Keys.SHIFT, Keys.HOME)
    editor.keys(Keys.DELETE)
    body = HEAD.removesuffix(" " * 8)
    has_text(editor, body)
    time.sleep(QUIET_S)
    editor.keys(Keys.TAB)
    editor.wait_for(lambda: editor.text != body)
    assert editor.text.removeprefix(body).strip() == ""
    assert editor.accepted() == []


def test_tab_chooses_from_an_open_list(editor: Editor) -> None:
    editor.type(TYPED + "self.it")
    editor.ghost()
    editor.keys(Keys.CONTROL, Keys.SPACE)
    editor.wait_for(lambda: editor.has(".suggest-widget.visible .monaco-list-row"))
    choice = editor.text_of(".suggest-widget .monaco-list-row.focused .label-name")
    editor.keys(Keys.TAB)
    has_text(editor, f"{HEAD}{TYPED}self.{choice}")
    assert editor.accepted() == []


def test_a_bracket_that_the_editor_closed_is_not_doubled(editor: Editor) -> None:
    editor.type(TYPED + "len(")
    has_text(editor, f"{HEAD}{TYPED}len()")
    editor.ghost()
    editor.keys(Keys.TAB)
    editor.wait_for(editor.accepted)
    editor.wait_for(lambda: editor.text != f"{HEAD}{TYPED}len()")
    line = editor.text.removeprefix(HEAD)
    assert line.count("(") == line.count(")")


def test_emoji_before_the_cursor(editor: Editor) -> None:
    typed = 'moods = "😀é", self.'
    editor.type(typed)
    has_text(editor, HEAD + typed)
    ghost = editor.ghost()
    editor.keys(Keys.TAB)
    has_text(editor, HEAD + typed + ghost)
    editor.wait_for(lambda: len(editor.accepted()) == 1)


def test_a_crlf_file_stays_one(tmp_path: Path, extensions: Path, source: Path) -> None:
    source.write_bytes(HEAD.replace("\n", "\r\n").encode())
    with vscode.editor(tmp_path, extensions, source) as editor:
        editor.type(TYPED)
        ghost = editor.ghost()
        editor.keys(Keys.TAB)
        has_text(editor, (HEAD + TYPED + ghost).replace("\n", "\r\n"))
        editor.wait_for(lambda: len(editor.accepted()) == 1)


def test_pause_and_resume(editor: Editor) -> None:
    editor.command("SnowCoder: Pause Suggestions")
    editor.wait_for(lambda: "pause" in editor.status())
    editor.type(TYPED)
    time.sleep(QUIET_S)
    assert editor.ghost_now() == ""
    editor.command("SnowCoder: Resume Suggestions")
    editor.wait_for(lambda: "check" in editor.status())
    editor.type("len")
    assert editor.ghost()


def test_a_setting_takes_effect_at_once(editor: Editor) -> None:
    changed = "workspace/didChangeConfiguration"
    editor.configure(languages=[])
    editor.wait_for(lambda: len(editor.sent(changed)) == 2)
    editor.type(TYPED)
    time.sleep(QUIET_S)
    assert editor.ghost_now() == ""
    editor.configure(languages=["python"])
    editor.wait_for(lambda: len(editor.sent(changed)) == 3)
    editor.type("len")
    assert editor.ghost()


def test_a_server_that_was_killed_starts_again(editor: Editor) -> None:
    kill_server(editor)
    editor.wait_for(lambda: editor.ready() == 2)
    editor.type(TYPED)
    ghost = editor.ghost()
    editor.keys(Keys.TAB)
    has_text(editor, HEAD + TYPED + ghost)
    editor.wait_for(editor.accepted)


def test_a_server_that_cannot_run_is_given_up(
    tmp_path: Path, extensions: Path, source: Path
) -> None:
    count = tmp_path / "starts"
    crash = f"open({str(count)!r}, 'a').write('x'); raise SystemExit(3)"
    settings: dict[str, object] = {"snowcoder.command": [sys.executable, "-c", crash]}
    with vscode.editor(tmp_path, extensions, source, settings) as editor:
        editor.wait_for(lambda: "five times" in editor.text_of(".notifications-toasts"))
        assert count.read_text() == "xxxxx"
        assert "error" in editor.status()
        editor.picture("vscode-crash-loop")
        editor.button("Restart")
        editor.wait_for(lambda: len(count.read_text()) == 10)


def kill_server(editor: Editor) -> None:
    """Kill the server of this window, and the recorder before it."""
    for process in psutil.process_iter(["cmdline"]):
        if str(editor.log) in (process.info["cmdline"] or []):
            for one in (process, *process.children(recursive=True)):
                one.send_signal(signal.SIGKILL)
