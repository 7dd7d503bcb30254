"""A real VS Code with the packaged extension, the real server and real weights.

The table in `cases.py` is what it has in common with other editors. Here are what only VS Code
does, and what can be wrong on a user's machine:

| what is wrong | what the user gets |
|---|---|
| the command cannot be started | a message, with a way to the settings |
| the server ends again and again | a message after five times, with a button |
| no server on this machine | a message; one click installs it |
| no Python that is new enough | a message that says which is needed |
| two windows on one folder | suggestions in both |
| a folder that is not trusted | suggestions; what the folder says to start is not started |
| nothing can be written at home | suggestions |
| a project with packages named as ours | suggestions |
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.e2e import vscode
from tests.e2e.cases import CASES, PARTIAL, SHOWN, TYPED, suggest, suggest_block
from tests.e2e.vscode import VSCodeDriver

ROOT = Path(__file__).resolve().parents[2]
TOASTS = ".notifications-toasts"
METHOD = """\
class Stack:
    def __init__(self):
        self.items = []

    def pop(self):
        return self.items.pop()

    def __len__(self):
"""


@pytest.fixture(scope="session")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code") / "extensions"
    vscode.install_extension(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project with one real Python file in it; its path has a space and other letters."""
    path = tmp_path / "prôjet 1" / "backend.py"
    path.parent.mkdir()
    path.write_bytes((ROOT / "models/backend.py").read_bytes())
    return path


@pytest.fixture
def editor(tmp_path: Path, extensions: Path) -> Iterator[VSCodeDriver]:
    with vscode.window(tmp_path, extensions) as window:
        yield window


@pytest.mark.parametrize("case", CASES)
def test_case(editor: VSCodeDriver, source: Path, case: str) -> None:
    if CASES[case].crlf:
        source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    editor.open(source)
    CASES[case].run(editor)


def test_tab_at_once_was_seen_as_well(editor: VSCodeDriver, source: Path) -> None:
    editor.open(source)
    ghost = suggest(editor)
    editor.picture("vscode-ghost-text")
    editor.press("accept")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    commands = editor.wait_for(lambda: editor.sent("workspace/executeCommand"))
    shown = editor.sent(SHOWN)[-1]["item"]["command"]
    assert commands == [{"command": "snowcoder.accept", "arguments": shown["arguments"]}]
    assert editor.sent(PARTIAL) == []


def test_a_block_is_drawn_below_the_line(editor: VSCodeDriver, source: Path) -> None:
    editor.open(source)
    suggest_block(editor)
    editor.picture("vscode-block")
    text = editor.text
    editor.press("dismiss")
    editor.no_ghost()
    assert editor.text == text


def test_undo_inside_a_method(editor: VSCodeDriver, source: Path) -> None:
    source.write_text(METHOD + "\n")
    editor.open(source)
    editor.keys(Keys.CONTROL, Keys.HOME)
    for _ in METHOD.splitlines():
        editor.keys(Keys.ARROW_DOWN)
    editor.type("        return ")
    editor.wait_for(lambda: editor.line == "        return ")
    ghost = editor.ghost()
    editor.press("accept")
    # On screen: an undo while the editor saves counts as saved, and the file keeps what was undone.
    editor.wait_for(lambda: editor.line == f"        return {ghost}")
    editor.press("undo")
    editor.wait_for(lambda: editor.line == "        return ")
    editor.wait_for(lambda: editor.sent("workspace/executeCommand"))
    assert len(editor.sent("workspace/executeCommand")) == 1


def test_tab_chooses_from_an_open_list(editor: VSCodeDriver, source: Path) -> None:
    editor.open(source)
    editor.begin("from enum import")
    editor.type("count = sel")
    editor.wait_for(lambda: editor.line == "count = sel")
    editor.ghost()
    editor.press("menu")
    choice = editor.text_of(".suggest-widget .monaco-list-row.focused .label-name")
    editor.keys(Keys.TAB)
    editor.wait_for(lambda: editor.line == f"count = {choice}")
    assert editor.sent("workspace/executeCommand") == []


def test_a_command_that_cannot_start_is_named(
    tmp_path: Path, extensions: Path, source: Path
) -> None:
    settings: dict[str, object] = {"snowcoder.command": ["/no/such/python", "serve"]}
    with vscode.window(tmp_path, extensions, settings) as editor:
        editor.show(source)
        editor.wait_for(lambda: "cannot start /no/such/python" in editor.text_of(TOASTS))
        assert "error" in editor.status()
        editor.picture("vscode-cannot-start")
        editor.button("Open Settings")
        editor.wait_for(lambda: editor.has(".settings-editor"))


def test_a_server_that_cannot_run_is_given_up(
    tmp_path: Path, extensions: Path, source: Path
) -> None:
    count = tmp_path / "starts"
    crash = f"open({str(count)!r}, 'a').write('x'); raise SystemExit(3)"
    settings: dict[str, object] = {"snowcoder.command": [sys.executable, "-c", crash]}
    with vscode.window(tmp_path, extensions, settings) as editor:
        editor.show(source)
        editor.wait_for(lambda: "five times" in editor.text_of(TOASTS))
        assert count.read_text() == "x" * 5
        assert "error" in editor.status()
        editor.picture("vscode-crash-loop")
        editor.button("Restart")
        editor.wait_for(lambda: len(count.read_text()) == 10)
        editor.wait_for(lambda: "five times" in editor.text_of(TOASTS))


def test_an_old_python_is_not_enough(tmp_path: Path, extensions: Path, source: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python3", "python"):
        program = programs / name
        # What a Python that is too old answers to the question for its version.
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    (programs / "sh").symlink_to("/bin/sh")
    with vscode.window(tmp_path, extensions, {"snowcoder.command": []}, str(programs)) as editor:
        editor.show(source)
        editor.wait_for(lambda: "not on this machine" in editor.text_of(TOASTS))
        editor.picture("vscode-no-server")
        editor.button("Install")
        editor.wait_for(lambda: "needs Python 3.11 or newer" in editor.text_of(TOASTS))
        editor.picture("vscode-old-python")
        assert "error" in editor.status()


def test_one_click_installs_the_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, extensions: Path, source: Path
) -> None:
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, wheels, ROOT], check=True, timeout=240)
    (wheel,) = wheels.glob("snowcoder-*.whl")
    settings = {"snowcoder.command": [], "snowcoder.package": str(wheel)}
    with vscode.window(tmp_path, extensions, settings, _path_without_server()) as editor:
        editor.show(source)
        editor.wait_for(lambda: "not on this machine" in editor.text_of(TOASTS))
        editor.button("Install")
        editor.wait_for(lambda: "Installing SnowCoder" in editor.text_of(TOASTS))
        editor.picture("vscode-install")
        editor.wait_for(lambda: "check" in editor.status(), patience=240)
        editor.begin("from enum import")
        editor.type(TYPED)
        editor.ghost()
        storage = tmp_path / "data/User/globalStorage/snowcoder.snowcoder"
        assert [path.name for path in storage.iterdir()] == ["server-0.1.0"]


def test_two_windows_on_one_folder(editor: VSCodeDriver, source: Path) -> None:
    other = source.with_name("other.py")
    other.write_bytes(source.read_bytes())
    editor.open(source)
    first = editor.page.current_window_handle
    editor.page.switch_to.new_window("window")
    editor.show(other)
    # What is typed before a server is there brings no suggestion.
    editor.wait_for(lambda: editor.ready() == 2)
    second = editor.page.current_window_handle
    for file, handle in ((source, first), (other, second)):
        editor.page.switch_to.window(handle)
        editor.file = file
        editor.focus()
        ghost = suggest(editor)
        editor.press("accept")
        editor.wait_for(lambda ghost=ghost: editor.line == TYPED + ghost)


def test_a_folder_that_is_not_trusted_starts_nothing(
    tmp_path: Path, extensions: Path, source: Path
) -> None:
    started = tmp_path / "started"
    crash = f"open({str(started)!r}, 'a').write('x'); raise SystemExit(3)"
    (source.parent / ".vscode").mkdir()
    wanted = {"snowcoder.command": [sys.executable, "-c", crash]}
    (source.parent / ".vscode/settings.json").write_text(json.dumps(wanted))
    settings: dict[str, object] = {
        "security.workspace.trust.enabled": True,
        "security.workspace.trust.startupPrompt": "never",
        "security.workspace.trust.banner": "never",
    }
    with vscode.window(tmp_path, extensions, settings) as editor:
        editor.open(source)
        assert "Restricted Mode" in editor.text_of('[id="status.workspaceTrust"]')
        assert suggest(editor)
        assert not started.exists()
        editor.picture("vscode-untrusted")


def test_a_home_that_cannot_be_written(tmp_path: Path, extensions: Path, source: Path) -> None:
    # Not even root makes a folder below a file, whatever the permissions.
    home = tmp_path / "home"
    home.write_text("")
    places = ["HOME", "SNOWCODER_STATE_DIR", "SNOWCODER_DATA", "SNOWCODER_CACHE_DIR"]
    unwritable = [f"{name}={home / name}" for name in places]
    settings = {"snowcoder.command": ["env", *unwritable, *vscode.server_command(tmp_path)]}
    with vscode.window(tmp_path, extensions, settings) as editor:
        editor.open(source)
        ghost = suggest(editor)
        editor.press("accept")
        editor.wait_for(lambda: editor.line == TYPED + ghost)
        editor.wait_for(lambda: "check" in editor.status())  # it spins while the model works


def test_packages_of_the_project_are_not_imported(
    tmp_path: Path, extensions: Path, source: Path
) -> None:
    for name in ("models", "completion", "lsp_server", "telemetry", "typing_extensions"):
        package = source.with_name(name)
        package.mkdir()
        (package / "__init__.py").write_text("raise SystemExit('of the project')\n")
    with vscode.window(tmp_path, extensions, {"snowcoder.command": []}) as editor:
        editor.show(source)
        editor.wait_for(lambda: "check" in editor.status())
        editor.begin("from enum import")
        editor.type(TYPED)
        assert editor.ghost()


def _path_without_server() -> str:
    """The path, without the folders that have `snowcoder` in them."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not (Path(f) / "snowcoder").exists())
