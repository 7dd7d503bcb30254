"""Take the README's pictures: the real programs in a real terminal, captured as SVG.

    python docs/make_pictures.py [--model PATH]

Needs tmux, and the Neovim that `make e2e` unpacks.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SAMPLE = ROOT / "lsp_server" / "samples" / "inventory.py"
_COLUMNS, _ROWS = 96, 24


class Terminal:
    """A program in a tmux pane."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._tmux = ["tmux", "-L", f"pictures-{os.getpid()}"]
        words = [f"{k}={v}" for k, v in (environment or {}).items()]
        line = shlex.join(["env", "TERM=tmux-256color", *words, *command])
        size = ["-x", str(_COLUMNS), "-y", str(_ROWS)]
        subprocess.run([*self._tmux, "new-session", "-d", *size, line], check=True)

    def type(self, text: str, seconds_per_key: float = 0.05) -> None:
        """Type like a person."""
        for key in text:
            subprocess.run([*self._tmux, "send-keys", "-l", key], check=True)
            time.sleep(seconds_per_key)

    def press(self, key: str) -> None:
        """One key by tmux's name for it."""
        subprocess.run([*self._tmux, "send-keys", key], check=True)

    def screen(self) -> str:
        """What the pane shows, colours as ANSI sequences."""
        run = subprocess.run(
            [*self._tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True
        )
        return run.stdout

    def wait(self, shown: Callable[[str], bool], seconds: float = 30) -> str:
        """The first screen that `shown` accepts.

        Raises:
            TimeoutError: none came.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            screen = self.screen()
            if shown(screen):
                return screen
            time.sleep(0.02)
        raise TimeoutError(f"the screen never showed it:\n{screen}")

    def close(self) -> None:
        """End the program."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


def save(screen: str, title: str, path: Path) -> None:
    """Write a captured screen as SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(
            record=True, width=_COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(Text.from_ansi(screen.rstrip("\n")))
        path.write_text(console.export_svg(title=title), encoding="utf-8")
    print(path.relative_to(ROOT))


def picture_try(model: list[str]) -> None:
    """`snowcoder try` with a suggestion that the model just made."""
    terminal = Terminal([sys.executable, "-I", "-m", "lsp_server", "try", *model])
    try:
        accepted = 0
        while accepted < 1:  # the first requests still warm up
            terminal.wait(lambda screen: "accepted" in screen)
            accepted += 1
            terminal.wait(lambda screen: "accepted" not in screen)
        screen = terminal.wait(lambda shown: " model" in shown and "\x1b[2;3m" in shown)
    finally:
        terminal.close()
    save(screen, "snowcoder try", IMAGES / "try.svg")


def picture_neovim(model: list[str]) -> None:
    """Neovim 0.12 with ghost text."""
    from tests.e2e.install import find

    editor = find()
    if editor is None:
        raise SystemExit("no Neovim: run make e2e once")
    with tempfile.TemporaryDirectory() as folder:
        text = SAMPLE.read_text(encoding="utf-8")
        name = "        self.items[item.name] = "
        before, _, after = text.partition(name)
        target = Path(folder) / "inventory.py"
        target.write_text(before.rstrip(" ") + after.partition("\n")[2], encoding="utf-8")
        configuration = Path(folder) / "init.lua"
        words = [sys.executable, "-I", "-m", "lsp_server", "serve", *model]
        command = ", ".join(f"'{word}'" for word in words)
        lua = (ROOT / "nvim" / "init.lua").read_text(encoding="utf-8")
        look = "vim.o.termguicolors = true; vim.o.number = true; vim.o.swapfile = false\n"
        configuration.write_text(look + lua.replace("'snowcoder', 'serve'", command))
        row = before.count("\n")
        socket = str(Path(folder) / "nvim.sock")
        # The unpacked editor cannot start itself again, as its terminal interface would:
        # one process edits, another draws.
        editing = subprocess.Popen(
            [*editor.command, "--headless", "--listen", socket, "-u", str(configuration),
             f"+{row}", str(target)],
            env={**os.environ, **editor.environment}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(1)
        drawing = [*editor.command, "--remote-ui", "--server", socket]
        terminal = Terminal(drawing, editor.environment)
        try:
            time.sleep(4)  # the server starts with the file
            terminal.press("o")
            terminal.type("self.it", 0.12)
            time.sleep(2)
            screen = terminal.screen()
        finally:
            terminal.close()
            editing.kill()
            editing.wait()
    save(screen, "Neovim 0.12", IMAGES / "neovim.svg")


def picture_plugin(model: list[str]) -> None:
    """Neovim 0.11 with the plugin's own ghost text, several lines of it."""
    from tests.e2e.install import find_old

    editor = find_old()
    if editor is None:
        raise SystemExit("no Neovim 0.11: run make e2e once")
    with tempfile.TemporaryDirectory() as folder:
        lines = SAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)
        row = next(i for i, line in enumerate(lines) if "def remove(" in line)
        body = next(i for i in range(row, len(lines)) if not lines[i].strip())
        target = Path(folder) / "inventory.py"
        target.write_text("".join([*lines[: row + 1], *lines[body:]]), encoding="utf-8")
        words = [sys.executable, "-I", "-m", "lsp_server", "serve", *model]
        configuration = Path(folder) / "init.lua"
        configuration.write_text(
            "vim.o.termguicolors = true; vim.o.number = true; vim.o.swapfile = false\n"
            f"vim.opt.rtp:append('{ROOT / 'nvim'}')\n"
            f"require('snowcoder').setup({{cmd = {{{', '.join(map(repr, words))}}},"
            " settings = { deadlineMs = 5000, minLogprob = -20 } })\n"
        )
        terminal = Terminal(
            [*editor.command, "-u", str(configuration), f"+{row + 1}", str(target)],
            {"HOME": folder, "XDG_STATE_HOME": folder},
        )
        try:
            time.sleep(4)  # the server starts with the file
            terminal.press("o")
            time.sleep(5)
            screen = terminal.screen()
        finally:
            terminal.close()
    save(screen, "Neovim 0.11", IMAGES / "neovim-block.svg")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="other weights than the shipped ones")
    options = parser.parse_args()
    model = ["--model", options.model] if options.model else []
    IMAGES.mkdir(exist_ok=True)
    picture_try(model)
    picture_neovim(model)
    picture_plugin(model)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
