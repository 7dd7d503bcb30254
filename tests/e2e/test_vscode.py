"""A real VS Code with the packaged extension, the real server and real weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


def test_tab_takes_all(editor: Editor) -> None:
    editor.type(TYPED)
    ghost = editor.ghost()
    if folder := os.environ.get("SNOWCODER_SCREENSHOTS"):
        editor.page.save_screenshot(str(Path(folder) / "vscode-ghost-text.png"))
    editor.wait_for(lambda: editor.text == HEAD + TYPED)
    assert editor.accepted() == []
    editor.keys(Keys.TAB)
    editor.wait_for(lambda: editor.text == HEAD + TYPED + ghost)
    editor.wait_for(lambda: len(editor.accepted()) == 1)
