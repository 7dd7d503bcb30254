"""The Neovim plugin in the real editors: 0.12 with its own inline completion, 0.11 with ours."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pynvim
import pytest

from tests.e2e import recorder
from tests.e2e.cases import CASES, TYPED
from tests.e2e.install import Neovim, find, find_old
from tests.e2e.neovim import PATIENCE, running
from tests.e2e.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "nvim"
SERVER = [sys.executable, "-I", "-m", "lsp_server", "serve"]
QUIET = 0.6
"""Seconds in which what must not happen would have."""

# Everything is shown, however unsure and late: these tests are not about the model.
SETTINGS = {"deadlineMs": 20_000, "minLogprob": -1000}

KEYS = {
    "accept": "<C-y>",
    "accept_word": "<M-Right>",
    "accept_line": "<M-Down>",
    "next": "<M-]>",
    "dismiss": "<C-]>",
    "undo": "<Esc>u",
    "tab": "<Tab>",
    "outdent": "<C-d>",
    "menu": "<C-n>",
    "pause": "<Cmd>SnowcoderPause<CR>",
    "resume": "<Cmd>SnowcoderResume<CR>",
    "close_brackets": "<Cmd>inoremap ( ()<lt>Left><CR>",
}

GHOST = """
for _, name in ipairs({'snowcoder', 'nvim.lsp.inline_completion'}) do
  local namespace = vim.api.nvim_get_namespaces()[name]
  local marks = namespace
    and vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, {details = true}) or {}
  if #marks > 0 then
    local _, row, column, details = unpack(marks[1])
    local lines = {details.virt_text[1][1]}
    for _, line in ipairs(details.virt_lines or {}) do
      lines[#lines + 1] = line[1][1]
    end
    return {row, column, table.concat(lines, '\\n')}
  end
end
return vim.NIL
"""


class NeovimDriver:
    """A Neovim with the plugin on its runtime path and nothing else of a user's."""

    def __init__(self, nvim: pynvim.Nvim, log: Path) -> None:
        self.nvim = nvim
        self.log = log
        self.file = Path()

    def open(self, path: Path) -> None:
        self.file = path
        self.nvim.command(f"edit {self.nvim.funcs.fnameescape(str(path))}")
        self.wait_for(
            lambda: self.nvim.exec_lua(
                "local c = vim.lsp.get_clients({name = 'snowcoder'})[1]"
                "return c and c.initialized and vim.lsp.buf_is_attached(0, c.id)"
            )
        )

    def begin(self, above: str) -> None:
        self.nvim.input(f"<Esc>gg/{above}<CR>O")

    def type(self, text: str) -> None:
        for key in text:
            self.nvim.input({"<": "<lt>", "\n": "<CR>"}.get(key, key))

    def press(self, action: str) -> None:
        if action == "kill_server":
            self._kill_server()
            return
        self.nvim.input(KEYS[action])
        if action == "menu":
            self.wait_for(lambda: self.nvim.funcs.pumvisible())

    def _kill_server(self) -> None:
        editor = psutil.Process(self.nvim.funcs.getpid())
        for process in editor.children(recursive=True):
            command = process.cmdline()
            if "lsp_server" in command and recorder.__file__ not in command:
                process.kill()

    def configure(self, settings: dict[str, Any]) -> None:
        self.nvim.exec_lua("require('snowcoder').configure(...)", settings)

    def save(self, path: Path | None = None) -> None:
        command = f"saveas {self.nvim.funcs.fnameescape(str(path))}" if path else "write"
        self.nvim.command(command)

    def ghost(self) -> str:
        def at_cursor() -> str | None:
            mark = self.nvim.exec_lua(GHOST)
            row, column = self.nvim.current.window.cursor
            return mark[2] if mark and mark[:2] == [row - 1, column] else None

        text: str = self.wait_for(at_cursor)
        return text

    def no_ghost(self) -> None:
        self.wait_for(lambda: self.nvim.exec_lua(GHOST) is None)
        time.sleep(QUIET)
        assert self.nvim.exec_lua(GHOST) is None

    @property
    def line(self) -> str:
        text: str = self.nvim.current.line
        return text

    @property
    def before(self) -> str:
        row, column = self.nvim.current.window.cursor
        lines = self.nvim.current.buffer[:row]
        return "\n".join([*lines[:-1], lines[-1].encode()[:column].decode()])

    def sent(self, method: str) -> list[dict[str, Any]]:
        return recorder.messages(self.log, "client", method)

    def answers(self) -> list[Any]:
        return recorder.results(self.log, "server")

    @property
    def record(self) -> Path:
        return self.log.parent / "SNOWCODER_DATA/telemetry.db"

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        try:
            return wait_for(condition, PATIENCE)
        except AssertionError:
            print(self.nvim.eval("v:errmsg"), self.nvim.exec_lua(GHOST), self.line)
            print(self.nvim.command_output("messages"))
            raise


def _find(version: str) -> Neovim:
    neovim = find() if version == "0.12" else find_old()
    assert neovim is not None, "run `python -m tests.e2e.install` first"
    return neovim


@pytest.fixture(params=["0.12", "0.11"])
def editor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NeovimDriver]:
    log = tmp_path / "messages.jsonl"
    settings = SETTINGS | {"model": os.environ.get("SNOWCODER_E2E_MODEL")}
    command = [sys.executable, recorder.__file__, str(log), *SERVER]
    with running(_find(request.param), tmp_path, "--clean") as nvim:
        nvim.exec_lua("vim.opt.rtp:prepend(...)", str(PLUGIN))
        nvim.exec_lua("require('snowcoder').setup(...)", {"cmd": command, "settings": settings})
        yield NeovimDriver(nvim, log)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project with one real Python file in it; its path has a space and other letters."""
    path = tmp_path / "prôjet 1" / "backend.py"
    path.parent.mkdir()
    (path.parent / "pyproject.toml").touch()
    path.write_bytes((ROOT / "models/backend.py").read_bytes())
    return path


@pytest.mark.parametrize("case", CASES)
def test_case(editor: NeovimDriver, source: Path, case: str) -> None:
    if CASES[case].crlf:
        source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    editor.open(source)
    CASES[case].run(editor)
    assert editor.nvim.eval("v:errmsg") == ""


def test_tab_never_takes_a_suggestion(editor: NeovimDriver, source: Path) -> None:
    editor.open(source)
    editor.begin("from enum import")
    editor.type(TYPED)
    editor.ghost()
    editor.press("tab")
    editor.wait_for(lambda: editor.line != TYPED)
    assert editor.line.removeprefix(TYPED).isspace()


def test_why_lists_decisions_newest_first(editor: NeovimDriver, source: Path) -> None:
    editor.open(source)
    editor.begin("from enum import")
    editor.type("count = len(")
    editor.ghost()
    editor.nvim.input("<Esc>:SnowcoderWhy<CR>")
    editor.wait_for(lambda: editor.nvim.eval("&buftype") == "nofile")
    lines = editor.nvim.current.buffer[:]
    assert "backend.py:12" in lines[0]
    assert "suggestion" in lines[0]


def test_health_and_status_tell_of_the_server(editor: NeovimDriver, source: Path) -> None:
    assert editor.nvim.exec_lua("return require('snowcoder').status()") == ""
    editor.open(source)
    editor.nvim.exec_lua("require('snowcoder').pause()")
    editor.wait_for(
        lambda: editor.nvim.exec_lua("return require('snowcoder').status()") == "SnowCoder: paused"
    )
    editor.nvim.command("checkhealth snowcoder")
    report = "\n".join(editor.nvim.current.buffer[:])
    assert f"for {source.parent}" in report
    assert "ERROR" not in report


@pytest.mark.parametrize("version", ["0.12", "0.11"])
def test_the_spec_for_lazy_works(version: str, tmp_path: Path, source: Path) -> None:
    page = (ROOT / "docs/neovim.md").read_text(encoding="utf-8")
    spec = page.split("**lazy.nvim.**")[1].split("```lua\n")[1].split("```")[0]
    # What lazy.nvim makes of it: a folder, `build` once, `config` at the first file of the type.
    folder = tmp_path / "lazy/snowcoder"
    shutil.copytree(PLUGIN, folder / "nvim")
    with running(_find(version), tmp_path, "--clean") as nvim:
        nvim.exec_lua(
            """
            local text, folder = ...
            local spec = assert(loadstring('return {' .. text .. '}'))()[1]
            local plugin = { dir = folder }
            spec.build(plugin)
            vim.api.nvim_create_autocmd('FileType', {
              pattern = spec.ft, once = true, callback = function() spec.config(plugin) end,
            })
            """,
            spec,
            str(folder),
        )
        editor = NeovimDriver(nvim, tmp_path / "messages.jsonl")
        editor.open(source)
        editor.configure(SETTINGS)
        editor.begin("from enum import")
        editor.type(TYPED)
        ghost = editor.ghost()
        editor.press("accept")
        editor.wait_for(lambda: editor.line == TYPED + ghost)
        assert nvim.eval("v:errmsg") == ""
        nvim.input("<Esc>:help snowcoder<CR>")
        editor.wait_for(lambda: nvim.eval("&buftype") == "help")


def test_an_older_editor_is_refused(editor: NeovimDriver) -> None:
    said = editor.nvim.exec_lua(
        """
        local has, said = vim.fn.has, nil
        vim.fn.has = function(what) return what == 'nvim-0.11' and 0 or has(what) end
        vim.notify = function(text) said = text end
        require('snowcoder').setup()
        return said
        """
    )
    assert "needs Neovim 0.11 or newer" in said


def test_health_names_a_command_that_is_missing(editor: NeovimDriver) -> None:
    editor.nvim.exec_lua("require('snowcoder').setup({cmd = {'no-such-snowcoder'}})")
    editor.nvim.command("checkhealth snowcoder")
    report = "\n".join(editor.nvim.current.buffer[:])
    assert "no-such-snowcoder is not on the path" in report
    assert "pipx install snowcoder" in report


def test_a_server_that_keeps_ending_is_given_up(editor: NeovimDriver, source: Path) -> None:
    started = source.with_name("started")
    program = f"open({str(started)!r}, 'a').write('x'); raise SystemExit(3)"
    editor.nvim.exec_lua(
        """
        messages = {}
        vim.notify = function(text) table.insert(messages, text) end
        require('snowcoder').setup({cmd = ...})
        """,
        [sys.executable, "-c", program],
    )
    editor.nvim.command(f"edit {editor.nvim.funcs.fnameescape(str(source))}")
    editor.wait_for(lambda: "keeps ending" in str(editor.nvim.exec_lua("return messages")))
    time.sleep(QUIET)
    assert started.read_text() == "x" * 6
