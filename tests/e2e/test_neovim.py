"""A real Neovim with the committed configuration, the real server and real weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvim
import pytest

from tests.e2e import recorder
from tests.e2e.cases import TYPED
from tests.e2e.install import find
from tests.e2e.neovim import PATIENCE, running
from tests.e2e.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "nvim/init.lua"

# Everything is shown, however unsure and late: these tests are not about the model.
SETTINGS = {"deadlineMs": 20_000, "minLogprob": -1000}

GHOST = """
local namespace = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
local marks = namespace and vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, {details = true})
if not marks or #marks == 0 then return vim.NIL end
local _, row, column, details = unpack(marks[1])
return {row, column, details.virt_text[1][1]}
"""

BURST = """
local client = vim.lsp.get_clients({name = 'snowcoder'})[1]
answers = {}
for i = 1, 5 do
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.context = {triggerKind = 1}
  params.position = {line = 15 * i, character = 1000}
  client:request('textDocument/inlineCompletion', params, function(err, result)
    answers[i] = err and 'error' or result == nil and 'null' or 'items'
  end, 0)
end
"""

STATS = """
local client = vim.lsp.get_clients({name = 'snowcoder'})[1]
return client and client:request_sync('snowcoder/stats', nil, 1000, 0)
"""


class Editor:
    """A Neovim that runs `nvim/init.lua`, with its buffer on one file."""

    def __init__(self, nvim: pynvim.Nvim, log: Path) -> None:
        self.nvim = nvim
        self.log = log

    def accepted(self) -> list[str]:
        """Ids of the suggestions that the server was told of as accepted."""
        commands = recorder.messages(self.log, "client", "workspace/executeCommand")
        return [c["arguments"][0] for c in commands if c["command"] == "snowcoder.accept"]

    def open(self, path: Path) -> None:
        self.nvim.command(f"edit {path}")
        self.wait_for(
            lambda: self.nvim.exec_lua("return #vim.lsp.get_clients({name = 'snowcoder'})") == 1
        )

    def type(self, keys: str) -> None:
        """Type key by key, faster than the server answers."""
        for key in keys:
            self.nvim.input("<lt>" if key == "<" else key)

    def keys(self, keys: str) -> None:
        """Type one special key or command."""
        self.nvim.input(keys)

    @property
    def line(self) -> str:
        text: str = self.nvim.current.line
        return text

    def ghost(self) -> str:
        """Wait for ghost text at the cursor; returns it."""

        def at_cursor() -> str | None:
            mark = self.nvim.exec_lua(GHOST)
            row, column = self.nvim.current.window.cursor
            return mark[2] if mark and mark[:2] == [row - 1, column] else None

        return self.wait_for(at_cursor)

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`."""
        try:
            return wait_for(condition, PATIENCE)
        except AssertionError:
            log = Path(self.nvim.exec_lua("return vim.lsp.log.get_filename()"))
            print(self.nvim.exec_lua(STATS))
            print(self.nvim.eval("v:errmsg"), log.read_text()[-2000:] if log.exists() else "")
            raise


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Editor]:
    neovim = find()
    assert neovim is not None, "run `python -m tests.e2e.install` first"
    options = {"snowcoder": SETTINGS | {"model": os.environ.get("SNOWCODER_E2E_MODEL")}}
    log = tmp_path / "messages.jsonl"
    with running(neovim, tmp_path, "-u", CONFIGURATION) as nvim:
        configured = nvim.exec_lua("return vim.lsp.config.snowcoder.cmd")
        recorded = [sys.executable, recorder.__file__, str(log), *configured]
        nvim.exec_lua(
            "vim.lsp.config('snowcoder', ...)", {"init_options": options, "cmd": recorded}
        )
        yield Editor(nvim, log)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project with one real Python file in it."""
    path = tmp_path / "project" / "backend.py"
    path.parent.mkdir()
    (path.parent / "pyproject.toml").touch()
    path.write_bytes((ROOT / "models/backend.py").read_bytes())
    return path


@pytest.mark.parametrize("typed", [TYPED, 'moods = ["😀", "é"]; total = len('])
def test_typing_shows_ghost_text_and_accepting_inserts_it(
    editor: Editor, source: Path, typed: str
) -> None:
    editor.open(source)
    editor.keys("/from enum import<CR>")
    editor.keys("O")
    editor.type(typed)
    ghost = editor.ghost()
    assert editor.line == typed
    assert editor.accepted() == []
    editor.keys("<C-y>")
    editor.wait_for(lambda: editor.line != typed)
    assert editor.line == typed + ghost
    assert editor.nvim.current.window.cursor[1] == len((typed + ghost).encode())
    editor.wait_for(editor.accepted)
    assert len(editor.accepted()) == 1
    assert editor.nvim.eval("v:errmsg") == ""


def test_undo_takes_back_an_accepted_suggestion(editor: Editor, source: Path) -> None:
    editor.open(source)
    before = editor.nvim.current.buffer[:]
    editor.keys("/from enum import<CR>")
    editor.keys("O")
    editor.type(TYPED)
    ghost = editor.ghost()
    editor.keys("<C-y>")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    editor.keys("<Esc>u")
    editor.wait_for(lambda: editor.nvim.current.buffer[:] == before)


def test_a_server_that_was_stopped_starts_with_the_next_edit(editor: Editor, source: Path) -> None:
    editor.open(source)
    editor.nvim.exec_lua("vim.lsp.get_clients({name = 'snowcoder'})[1]:stop(true)")
    editor.wait_for(
        lambda: editor.nvim.exec_lua("return #vim.lsp.get_clients({name = 'snowcoder'})") == 0
    )
    editor.open(source)
    editor.keys("/from enum import<CR>")
    editor.keys("O")
    editor.type(TYPED)
    assert editor.ghost()


def test_typing_on_moves_the_ghost_text(editor: Editor, source: Path) -> None:
    editor.open(source)
    editor.keys("/from enum import<CR>")
    editor.keys("O")
    editor.type(TYPED)
    first = editor.ghost()
    assert len(first) > 1
    editor.type(first[0])
    editor.wait_for(lambda: editor.ghost() == first[1:])
    assert editor.line == TYPED + first[0]


def test_every_request_of_a_burst_is_answered(editor: Editor, source: Path) -> None:
    editor.open(source)
    editor.keys("/from enum import<CR>")
    editor.keys("O")
    editor.type(TYPED)
    editor.ghost()
    editor.nvim.exec_lua(BURST)
    answers = editor.wait_for(lambda: editor.nvim.exec_lua("return #answers == 5 and answers"))
    # The newest is served; an older one too only if it was done before the next arrived.
    assert answers[-1] == "items"
    assert "error" not in answers
    assert answers.count("null") >= 3


def test_a_crlf_file_stays_one(editor: Editor, source: Path) -> None:
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    editor.open(source)
    assert editor.nvim.eval("&fileformat") == "dos"
    editor.keys("/from enum import<CR>")
    editor.keys("O")
    editor.type(TYPED)
    ghost = editor.ghost()
    editor.keys("<C-y>")
    editor.wait_for(lambda: editor.line == TYPED + ghost)
    editor.keys("<Esc>:write<CR>")
    editor.wait_for(lambda: not editor.nvim.eval("&modified"))
    saved = source.read_bytes()
    assert f"\r\n{TYPED}{ghost}\r\n".encode() in saved
    assert saved.count(b"\n") == saved.count(b"\r\n") == saved.count(b"\r")
