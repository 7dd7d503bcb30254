"""VS Code in a browser: code-server with the packaged extension, driven in Chromium."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.servers import free_port
from tests.e2e import recorder
from tests.e2e.browser import browser
from tests.e2e.code_server import ENTRY
from tests.e2e.waiting import wait_for

EXTENSION = Path(__file__).resolve().parents[2] / "vscode-ext"
PATIENCE = 20.0
"""Seconds to wait for what must happen; no measure of speed."""
QUIET_S = 1.2
"""Seconds in which what must not happen would have."""

SETTINGS = {
    # Everything is shown, however unsure and late: these tests are not about the model.
    "snowcoder.deadlineMs": 20_000,
    "snowcoder.minLogprob": -1000,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.wordBasedSuggestions": "allDocuments",
    "editor.parameterHints.enabled": False,
    "editor.autoClosingBrackets": "never",
    "editor.autoClosingQuotes": "never",
    "editor.minimap.enabled": False,
    "editor.cursorBlinking": "solid",
    # The test reads the buffer on disk.
    "files.autoSave": "afterDelay",
    "files.autoSaveDelay": 50,
    "security.workspace.trust.enabled": False,
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "telemetry.telemetryLevel": "off",
    "extensions.autoUpdate": False,
}

GHOST = """
const clean = (element) => element.textContent.replace(/\\u00a0/g, " ").replace(/\\u200b/g, "");
const shown = (selector) => [...document.querySelectorAll(selector)]
  .filter((element) => element.getClientRects().length > 0);
const byTop = (a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top;
const inline = shown(".ghost-text-decoration, .ghost-text-decoration-preview");
const below = shown(".suggest-preview-text .view-line").sort(byTop);
return [inline.map(clean).join(""), ...below.map(clean)].join("\\n");
"""
"""Ghost text on screen: what is in the line, then the lines below it."""

_LINE = """
const cursor = document.querySelector(".monaco-editor .cursors-layer .cursor");
const line = [...document.querySelectorAll(".monaco-editor .view-lines .view-line")]
  .find((element) => cursor && element.style.top === cursor.style.top);
if (!line) return [];
const copy = line.cloneNode(true);
const ghosts = ".ghost-text-decoration, .ghost-text-decoration-preview";
copy.querySelectorAll(ghosts).forEach((element) => element.remove());
return [copy.textContent.replace(/\\u00a0/g, " ").replace(/[\\u200b-\\u200d]/g, "")];
"""
"""A list of the cursor's line on screen without ghost text; empty if it is out of sight."""

_COLOURED = """
const cursor = document.querySelector(".monaco-editor .cursors-layer .cursor");
const line = [...document.querySelectorAll(".monaco-editor .view-lines .view-line")]
  .find((element) => cursor && element.style.top === cursor.style.top);
return !!line && [...line.querySelectorAll("span[class^=mtk]")]
  .some((element) => !/(^| )(mtk1|ghost-text-decoration.*)( |$)/.test(element.className));
"""
"""Whether anything in the cursor's line has a colour of its own."""

_COMMANDS = {
    "pause": "SnowCoder: Pause Suggestions",
    "resume": "SnowCoder: Resume Suggestions",
}
_KEYS: dict[str, tuple[str, ...]] = {
    "accept": (Keys.TAB,),
    "accept_word": (Keys.CONTROL, Keys.ARROW_RIGHT),
    "accept_line": (Keys.CONTROL, Keys.ALT, Keys.ARROW_RIGHT),
    "next": (Keys.ALT, "]"),
    "dismiss": (Keys.ESCAPE,),
    "undo": (Keys.CONTROL, "z"),
    "tab": (Keys.TAB,),
    "outdent": (Keys.SHIFT, Keys.TAB),
}
_MENU = ".suggest-widget.visible .monaco-list-row"
_CHANGED = "workspace/didChangeConfiguration"


class VSCodeDriver:
    """A window of VS Code: what a user does in it and sees of it (see `cases.Driver`).

    Args:
        page: the browser that the window is in.
        url: address of code-server, with a slash at the end.
        home: folder of all that the window and its server keep.
    """

    def __init__(self, page: webdriver.Chrome, url: str, home: Path) -> None:
        self.page = page
        self.home = home
        self.log = home / "messages.jsonl"
        self.file = Path()
        self._url = url
        self._settings: dict[str, object] = {}
        self._closes_brackets = False

    # What a user does ------------------------------------------------------------------

    def open(self, path: Path) -> None:
        self.show(path)
        self.wait_for(lambda: self.ready() > 0)

    def show(self, path: Path) -> None:
        """Open a file in a window on its folder, whatever the server does."""
        self.file = path
        host = urllib.parse.urlsplit(self._url).netloc
        target = f"vscode-remote://{host}{urllib.parse.quote(str(path))}"
        query = {"folder": str(path.parent), "payload": json.dumps([["openFile", target]])}
        self.page.get(self._url + "?" + urllib.parse.urlencode(query))
        self.wait_for(lambda: self.has(".monaco-editor .view-line"))
        self.wait_for(lambda: "SnowCoder" in self.status())
        self.focus()

    def focus(self) -> None:
        """Click into the text."""

        def click() -> bool:
            try:
                self.page.find_element(By.CSS_SELECTOR, ".monaco-editor .view-lines").click()
            except (NoSuchElementException, StaleElementReferenceException):
                return False  # the window is about to draw it anew
            return True

        self.wait_for(click)

    def begin(self, above: str) -> None:
        lines = self.text.splitlines()
        number = next(i for i, line in enumerate(lines, 1) if above in line)
        self.keys(Keys.CONTROL, "g")
        self._answer(str(number))
        self.wait_for(lambda: self._place()[0] == number)
        self.keys(Keys.CONTROL, Keys.SHIFT, Keys.ENTER)
        self.wait_for(lambda: self.line.strip() == "")

    def type(self, text: str) -> None:
        # VS Code closes a bracket and indents a line only where it has tokenized the line above.
        # A new line makes that stale, and these keys would overtake it. Lines are tokenized, and
        # coloured, in order.
        for part in re.split("(?=[\n(])" if self._closes_brackets else "(?=\n)", text):
            if part.startswith(("\n", "(")):
                self.wait_for(lambda: self.page.execute_script(_COLOURED))
            self._send(part)

    def _send(self, text: str) -> None:
        ActionChains(self.page, duration=0).send_keys(text).perform()

    def press(self, action: str) -> None:
        if action in _COMMANDS:
            self.command(_COMMANDS[action])
        elif action == "menu":
            self.keys(Keys.CONTROL, Keys.SPACE)
            self.wait_for(lambda: self.has(_MENU))
        elif action == "close_brackets":
            self._change({"editor.autoClosingBrackets": "always"})
            self._closes_brackets = True
        elif action == "kill_server":
            self._kill_server()
        else:
            self.keys(*_KEYS[action])

    def _kill_server(self) -> None:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if str(self.log) in command:
                for server in process.children(recursive=True):
                    server.kill()

    def keys(self, *chord: str) -> None:
        """Press the keys together."""
        actions = ActionChains(self.page, duration=0)
        for key in chord:
            actions.key_down(key)
        for key in reversed(chord):
            actions.key_up(key)
        actions.perform()

    def command(self, title: str) -> None:
        """Run a command from the palette, and come back to the editor."""
        self.keys(Keys.F1)
        self._answer(title, expected=title)

    def _answer(self, text: str, *, expected: str | None = None) -> None:
        """Type into the box at the top; Enter once its first entry is the `expected` one."""
        box = ".quick-input-widget input"
        self.wait_for(lambda: self._focused(box))
        self.type(text)
        if expected is not None:
            row = ".quick-input-list .monaco-list-row.focused"
            self.wait_for(lambda: expected in self.text_of(row))
        self.keys(Keys.ENTER)
        self.wait_for(lambda: not self._focused(box))

    def configure(self, settings: dict[str, Any]) -> None:
        self._change({f"snowcoder.{name}": value for name, value in settings.items()})

    def _change(self, settings: dict[str, object]) -> None:
        """Change the folder's settings, and wait until the window has them.

        It tells the server of settings of ours only: one of them is changed along.
        """
        days = 700 + len(self.sent(_CHANGED))
        self._settings |= settings | {"snowcoder.telemetryRetentionDays": days}
        path = self.file.parent / ".vscode/settings.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self._settings))
        # A server that starts is told as well, at a time of its own.
        told = f'"telemetryRetentionDays": {days}'
        self.wait_for(lambda: told in json.dumps(self.sent(_CHANGED)))

    def save(self, path: Path | None = None) -> None:
        if path is None:
            self.keys(Keys.CONTROL, "s")
            return
        self.command("File: Reveal Active File in Explorer View")
        self.wait_for(lambda: self._focused(".explorer-folders-view .monaco-list"))
        self.keys(Keys.F2)
        self.wait_for(lambda: self._focused(".explorer-item-edited input"))
        self.keys(Keys.CONTROL, "a")
        self.type(path.name)
        self.keys(Keys.ENTER)
        self.file = path
        self.wait_for(path.exists)
        self.wait_for(lambda: path.name in self.text_of(".tab.active"))
        self.focus()

    def button(self, label: str) -> None:
        """Press a button of a message."""

        def press() -> bool:
            selector = ".notifications-toasts .monaco-button"
            for button in self.page.find_elements(By.CSS_SELECTOR, selector):
                if button.text == label:
                    button.click()
                    return True
            return False

        self.wait_for(press)

    # What a user sees ------------------------------------------------------------------

    def ghost_now(self) -> str:
        """Ghost text on screen, "" without."""
        return str(self.page.execute_script(GHOST))

    def ghost(self) -> str:
        return str(self.wait_for(self.ghost_now))

    def no_ghost(self) -> None:
        self.wait_for(lambda: not self.ghost_now())
        time.sleep(QUIET_S)
        assert self.ghost_now() == ""

    @property
    def text(self) -> str:
        """The buffer, as it was saved a moment ago; line ends as they are."""
        return self.file.read_bytes().decode("utf-8")

    @property
    def line(self) -> str:
        found: list[str] = self.wait_for(lambda: self.page.execute_script(_LINE))
        return found[0]

    @property
    def before(self) -> str:
        line, column = self._place()
        lines = self.text.replace("\r\n", "\n").split("\n")[:line]
        return "\n".join([*lines[:-1], lines[-1][: column - 1]])

    def _place(self) -> tuple[int, int]:
        """Line and column of the cursor, from 1, as the status bar has them."""
        label = self.text_of('[id="status.editor.selection"]')
        found = re.search(r"Ln (\d+), Col (\d+)", label)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def text_of(self, selector: str) -> str:
        """Text of the first element there, "" if there is none."""
        script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : '';"
        return str(self.page.execute_script(script, selector)).replace("\u00a0", " ")

    def has(self, selector: str) -> bool:
        """Whether such an element is on screen."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".some((element) => element.getClientRects().length > 0);"
        )
        return bool(self.page.execute_script(script, selector))

    def _focused(self, selector: str) -> bool:
        """Whether keys go there."""
        script = "const e = document.activeElement; return !!e && e.closest(arguments[0]) !== null;"
        return bool(self.page.execute_script(script, selector))

    def status(self) -> str:
        """Label of the status bar item, its icon's state included."""
        script = (
            "const e = document.querySelector('[id*=\"snowcoder.status\"]');"
            "return e ? e.getAttribute('aria-label') || e.innerText : '';"
        )
        return str(self.page.execute_script(script))

    def picture(self, name: str) -> None:
        """Keep a picture of the window, if pictures are wanted."""
        if folder := os.environ.get("SNOWCODER_SCREENSHOTS"):
            self.page.save_screenshot(str(Path(folder) / f"{name}.png"))

    # What the server was told ----------------------------------------------------------

    def sent(self, method: str) -> list[dict[str, Any]]:
        return recorder.messages(self.log, "client", method)

    def answers(self) -> list[Any]:
        return recorder.results(self.log, "server")

    @property
    def record(self) -> Path:
        return self.home / "SNOWCODER_DATA/telemetry.db"

    def ready(self) -> int:
        """How often a server was ready so far."""
        told = recorder.messages(self.log, "server", "snowcoder/status")
        states = ["loading"] + [status["state"] for status in told]
        return sum(pair == ("loading", "idle") for pair in itertools.pairwise(states))

    def wait_for(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        try:
            return wait_for(condition, patience)
        except AssertionError:
            print("ghost:", repr(self.ghost_now()), "status:", self.status())
            print("line:", repr(self.page.execute_script(_LINE)), "at", self._place())
            print(self.text_of(".notifications-toasts"))
            if self.log.exists():
                print(self.log.read_text()[-1500:])
            self.picture("failed")
            raise


def server_command(home: Path) -> list[str]:
    """The installed server behind the recorder, which logs to `home`."""
    command = [sys.executable, recorder.__file__, str(home / "messages.jsonl")]
    command += [sys.executable, "-I", "-m", "lsp_server", "serve"]
    if model := os.environ.get("SNOWCODER_E2E_MODEL"):
        command += ["--model", model]
    return command


def install_extension(folder: Path) -> None:
    """Install the `.vsix` that `npm run package` left, into an extensions folder."""
    package = max(EXTENSION.glob("*.vsix"), key=lambda p: p.stat().st_mtime)
    options = ["--extensions-dir", folder, "--user-data-dir", folder.parent / "install"]
    node = shutil.which("node") or "node"
    command = [node, ENTRY, *options, "--install-extension", package]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextmanager
def code_server(home: Path, extensions: Path, path: str | None = None) -> Iterator[str]:
    """A code-server with `home` for all that it keeps; its address, with a slash at the end.

    `path` is where it looks for programs, by default `snowcoder` is there.
    """
    port = free_port()
    node = shutil.which("node") or "node"
    command = [node, str(ENTRY), "--auth", "none", "--bind-addr", f"127.0.0.1:{port}"]
    command += ["--extensions-dir", str(extensions), "--user-data-dir", str(home / "data")]
    command += ["--disable-telemetry", "--disable-update-check"]
    state = {name: str(home / name) for name in ("SNOWCODER_STATE_DIR", "SNOWCODER_DATA", "HOME")}
    path = path or os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    # As if started from a shell: it would otherwise ask one for the path.
    environment = os.environ | state | {"PATH": path, "VSCODE_CLI": "1"}
    url = f"http://127.0.0.1:{port}/"
    with (
        (home / "code-server.log").open("wb") as output,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            wait_for(lambda: _answers(url + "healthz"), PATIENCE)
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextmanager
def window(
    home: Path,
    extensions: Path,
    settings: dict[str, object] | None = None,
    path: str | None = None,
) -> Iterator[VSCodeDriver]:
    """VS Code with nothing open, with these settings besides `SETTINGS`."""
    all_settings = SETTINGS | {"snowcoder.command": server_command(home)} | (settings or {})
    (home / "data/User").mkdir(parents=True)
    (home / "data/User/settings.json").write_text(json.dumps(all_settings))
    with code_server(home, extensions, path) as url, browser(home / "chromium") as page:
        yield VSCodeDriver(page, url, home)
