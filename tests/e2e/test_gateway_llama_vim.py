"""llama.vim's requests, sent from real Neovim, against `/infill` of `snowcoder gateway`."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pynvim
import pytest

from benchmarks.servers import gateway
from lsp_server.gateway.config import TOKEN_VARIABLE
from tests.e2e.install import find, find_old
from tests.e2e.neovim import running
from tests.e2e.waiting import wait_for

SENDER = Path(__file__).with_name("llama_vim.lua")
TYPED = "for name in names:\n    print("
"""Behind `known`, code whose next word any model for Python knows: `name`."""
PATIENCE = 30.0
PREDICT_MS = 20_000
"""Longer than the plugin's 250: these tests are not about speed."""
FIELDS = {
    *("content", "truncated", "tokens_cached"),
    *(f"timings/{what}_{unit}" for what in ("prompt", "predicted") for unit in ("n", "ms")),
    *(f"timings/{what}_per_token_ms" for what in ("prompt", "predicted")),
    *(f"timings/{what}_per_second" for what in ("prompt", "predicted")),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with gateway(os.environ.get("SNOWCODER_E2E_MODEL"), threads=2) as (started, _):
        yield started


@pytest.fixture(params=["0.12", "0.11"])
def nvim(request: pytest.FixtureRequest, tmp_path: Path, address: str) -> Iterator[pynvim.Nvim]:
    neovim = find() if request.param == "0.12" else find_old()
    assert neovim is not None, "run `python -m tests.e2e.install` first"
    with running(neovim, tmp_path, "--clean") as started:
        started.exec_lua("L = dofile(...)", str(SENDER))
        started.exec_lua("L.url = ...", f"{address}/infill")
        yield started


@pytest.fixture
def known() -> str:
    """Code that the gateway has not seen: nothing is left of it in its caches."""
    return f"# {secrets.token_hex(8)}\n" + "for name in names:\n    print(name)\n\n" * 3


def put(nvim: pynvim.Nvim, before: str, after: str) -> None:
    """Let `before` and `after` stand around the cursor."""
    nvim.command("stopinsert")
    nvim.current.buffer[:] = (before + after).split("\n")
    above, _, line = before.rpartition("\n")
    nvim.command("startinsert!")
    nvim.current.window.cursor = (above.count("\n") + bool(above) + 1, len(line))


def answer(nvim: pynvim.Nvim) -> dict[str, Any]:
    """What the request under way brought."""
    wait_for(lambda: nvim.exec_lua("return L.code") is not None, PATIENCE)
    assert nvim.exec_lua("return L.code") == 0
    found: dict[str, Any] = json.loads(nvim.exec_lua("return L.answer"))
    return found


def ask(nvim: pynvim.Nvim, extra: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    nvim.exec_lua("L.ask(...)", extra or [], PREDICT_MS)
    return answer(nvim)


def test_a_suggestion_is_shown_with_its_times_and_accepted(nvim: pynvim.Nvim, known: str) -> None:
    put(nvim, known + TYPED, "\n\nprint('done')\n")
    found = ask(nvim)
    assert set(found) == FIELDS
    assert found["content"].startswith("name")
    assert found["timings/predicted_n"] > 0
    assert found["timings/predicted_ms"] > 0
    assert found["truncated"] is False
    nvim.exec_lua("L.accept()")
    assert nvim.current.line == "    print(" + found["content"].partition("\n")[0]
    assert nvim.current.buffer[-2] == "print('done')"


def test_what_the_editor_closed_is_not_written_again(nvim: pynvim.Nvim, known: str) -> None:
    put(nvim, known + TYPED, ")\n")
    assert ask(nvim)["content"] == "name"
    nvim.exec_lua("L.accept()")
    assert nvim.current.line == "    print(name)"


def test_a_blank_line_is_asked_for_from_its_beginning(nvim: pynvim.Nvim, known: str) -> None:
    put(nvim, known + "for name in names:\n    ", "\n")
    content = ask(nvim)["content"]
    assert content.startswith("    print(name)")


def test_the_next_key_reads_little_anew(nvim: pynvim.Nvim, known: str) -> None:
    put(nvim, known + TYPED, "\n")
    first = ask(nvim)
    put(nvim, known + TYPED + "n", "\n")
    second = ask(nvim)
    assert second["content"] == first["content"].removeprefix("n")
    assert second["timings/prompt_n"] < first["timings/prompt_n"]


def test_code_of_other_files_does_no_harm(nvim: pynvim.Nvim, known: str) -> None:
    extra = [{"text": "def area(w, h):\n    return w * h\n", "time": [1, 2], "filename": "a.py"}]
    nvim.exec_lua("L.warm_up(...)", extra)
    assert answer(nvim) == {}
    put(nvim, known + TYPED, "\n")
    assert ask(nvim, extra)["content"].startswith("name")


def test_a_request_given_up_by_the_next_one(nvim: pynvim.Nvim, known: str, address: str) -> None:
    put(nvim, known * 20 + "def fibonacci(n):\n", "\n")
    nvim.exec_lua("L.ask(...)", [], PREDICT_MS)
    put(nvim, known + TYPED, "\n")
    assert ask(nvim)["content"].startswith("name")
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def test_a_gateway_with_a_token(
    nvim: pynvim.Nvim, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = secrets.token_hex(16)
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    put(nvim, known + TYPED, "\n")
    with gateway(os.environ.get("SNOWCODER_E2E_MODEL"), threads=2) as (address, _):
        nvim.exec_lua("L.url = ...", f"{address}/infill")
        assert ask(nvim)["error"]["code"] == "invalid_token"
        nvim.exec_lua("L.key = ...", token)
        assert ask(nvim)["content"].startswith("name")
