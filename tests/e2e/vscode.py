"""VS Code in a browser: code-server with the packaged extension, driven in Chromium."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
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

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.e2e import recorder
from tests.e2e.browser import browser
from tests.e2e.code_server import ENTRY
from tests.e2e.waiting import wait_for

EXTENSION = Path(__file__).resolve().parents[2] / "vscode-ext"
PATIENCE = 20.0
"""Seconds to wait for what must happen; no measure of speed."""

SETTINGS = {
    # Everything is shown, however unsure and late: these tests are not about the model.
    "snowcoder.deadlineMs": 20_000,
    "snowcoder.minLogprob": -1000,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.wordBasedSuggestions": "allDocuments",
    "editor.parameterHints.enabled": False,
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

_GHOST = """
const wanted = ".ghost-text-decoration, .ghost-text-decoration-preview, .suggest-preview-text";
const clean = (text) => text.replace(/\\u00a0/g, " ").replace(/\\u200b/g, "");
const seen = (element) => element.getClientRects().length > 0;
const shown = [...document.querySelectorAll(wanted)].filter(seen);
return shown.map((element) => clean(element.textContent)).join("");
"""


class Editor:
    """One window on a folder, with the cursor at the end of one file."""

    def __init__(self, page: webdriver.Chrome, file: Path, log: Path) -> None:
        self.page = page
        self.file = file
        self.log = log

    @property
    def text(self) -> str:
        """The buffer, as it was saved a moment ago; line ends as they are."""
        return self.file.read_bytes().decode("utf-8")

    def type(self, text: str) -> None:
        """Type key by key, faster than the server answers."""
        ActionChains(self.page, duration=0).send_keys(text).perform()

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
        self.wait_for(lambda: self.page.find_elements(By.CSS_SELECTOR, ".quick-input-widget input"))
        time.sleep(0.3)
        self.type(title)
        self.wait_for(lambda: title in self.text_of(".quick-input-list .monaco-list-row.focused"))
        self.keys(Keys.ENTER)

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

    def button(self, label: str) -> None:
        """Press a button of a message."""
        for button in self.page.find_elements(
            By.CSS_SELECTOR, ".notifications-toasts .monaco-button"
        ):
            if button.text == label:
                button.click()
                return
        raise AssertionError(f"no button {label!r}")

    def picture(self, name: str) -> None:
        """Keep a picture of the window, if pictures are wanted."""
        if folder := os.environ.get("SNOWCODER_SCREENSHOTS"):
            self.page.save_screenshot(str(Path(folder) / f"{name}.png"))

    def ghost_now(self) -> str:
        """Ghost text on screen, "" without."""
        return str(self.page.execute_script(_GHOST))

    def ghost(self) -> str:
        """Wait for ghost text; returns it."""
        return str(self.wait_for(self.ghost_now))

    def status(self) -> str:
        """Label of the status bar item, its icon's state included."""
        script = (
            'const e = document.querySelector(\'[id="snowcoder.snowcoder.snowcoder.status"], '
            '[id*="snowcoder.status"]\');'
            "return e ? e.getAttribute('aria-label') || e.innerText : '';"
        )
        return str(self.page.execute_script(script))

    def sent(self, method: str) -> list[dict[str, Any]]:
        """Params of the messages `method` that the server received."""
        return recorder.messages(self.log, "client", method)

    def item(self) -> dict[str, Any]:
        """The newest suggestion that the server gave."""
        found: list[dict[str, Any]] = []
        for result in recorder.results(self.log, "server"):
            if isinstance(result, list) and result and "insertText" in (result[0] or {}):
                found = result
        return found[0]

    def ready(self) -> int:
        """How often a server was ready so far."""
        told = recorder.messages(self.log, "server", "snowcoder/status")
        states = ["loading"] + [status["state"] for status in told]
        return sum(pair == ("loading", "idle") for pair in itertools.pairwise(states))

    def accepted(self) -> list[str]:
        """Ids of the suggestions that the server was told of as accepted."""
        commands = self.sent("workspace/executeCommand")
        return [c["arguments"][0] for c in commands if c["command"] == "snowcoder.accept"]

    def configure(self, **values: object) -> None:
        """Write the folder's settings, which the window then reads."""
        settings = self.file.parent / ".vscode/settings.json"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(json.dumps({f"snowcoder.{name}": v for name, v in values.items()}))

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`; on failure, prints what there is to see."""
        try:
            return wait_for(condition, PATIENCE)
        except AssertionError:
            print("ghost:", repr(self.ghost_now()), "status:", self.status())
            print("buffer:", repr(self.text[-300:]))
            print(self.text_of(".notifications-toasts"))
            if self.log.exists():
                print(self.log.read_text()[-1500:])
            self.picture("failed")
            raise


def server_command(log: Path) -> list[str]:
    """The installed server behind the recorder."""
    command = [sys.executable, recorder.__file__, str(log)]
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


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextmanager
def editor(
    home: Path, extensions: Path, file: Path, settings: dict[str, object] | None = None
) -> Iterator[Editor]:
    """VS Code on the folder of `file`, with the cursor at its end and the server idle."""
    data, log = home / "data", home / "messages.jsonl"
    (data / "User").mkdir(parents=True)
    all_settings = SETTINGS | {"snowcoder.command": server_command(log)} | (settings or {})
    (data / "User/settings.json").write_text(json.dumps(all_settings))
    port = _free_port()
    node = shutil.which("node") or "node"
    command = [node, str(ENTRY), "--auth", "none", "--bind-addr", f"127.0.0.1:{port}"]
    command += ["--extensions-dir", str(extensions), "--user-data-dir", str(data)]
    command += ["--disable-telemetry", "--disable-update-check"]
    state = {name: str(home / name) for name in ("SNOWCODER_STATE_DIR", "SNOWCODER_DATA", "HOME")}
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | state | {"PATH": path}
    base = f"http://127.0.0.1:{port}/"
    with (
        (home / "code-server.log").open("wb") as output,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            wait_for(lambda: _answers(base + "healthz"), PATIENCE)
            target = f"vscode-remote://127.0.0.1:{port}{urllib.parse.quote(str(file))}"
            query = {"folder": str(file.parent), "payload": json.dumps([["openFile", target]])}
            with browser(home / "chromium") as page:
                page.get(base + "?" + urllib.parse.urlencode(query))
                window = Editor(page, file, log)
                window.wait_for(lambda: window.has(".monaco-editor .view-line"))
                window.wait_for(lambda: "SnowCoder" in window.status())
                if all_settings["snowcoder.command"] == server_command(log):
                    window.wait_for(window.ready)
                page.find_element(By.CSS_SELECTOR, ".monaco-editor .view-lines").click()
                window.keys(Keys.CONTROL, Keys.END)
                yield window
        finally:
            process.terminate()
            process.wait(PATIENCE)
