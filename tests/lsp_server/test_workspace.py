from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import pytest

from lsp_server.power import Power, on_battery
from lsp_server.workspace import Workspace, read_ignore_file


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.001)


async def test_ignore_files_of_folders_that_come_and_go(tmp_path: Path) -> None:
    (tmp_path / ".snowcoderignore").write_text("secret/\n")
    workspace = Workspace()
    inside, hidden = f"{tmp_path}/a.py", f"{tmp_path}/secret/a.py"
    assert workspace.rules.reason(hidden) is None
    workspace.add(tmp_path.as_uri())
    assert workspace.rules.reason(inside) is not None
    await until(lambda: workspace.rules.reason(inside) is None)
    assert workspace.rules.reason(hidden) is not None
    assert workspace.folders == [tmp_path.as_uri()]

    (tmp_path / ".snowcoderignore").write_text("a.py\n")
    workspace.touched([f"{tmp_path.as_uri()}/a.py"])
    assert workspace.rules.reason(inside) is None
    workspace.touched([f"{tmp_path.as_uri()}/.snowcoderignore", "file:///else/.snowcoderignore"])
    await until(lambda: "a.py" in (workspace.rules.reason(inside) or ""))

    workspace.remove(tmp_path.as_uri())
    workspace.remove("file:///unknown")
    assert workspace.rules.reason(inside) is None


async def test_a_folder_that_cannot_be_read_costs_only_itself() -> None:
    mounted = threading.Event()

    def read(folder: Path) -> list[str]:
        if folder.name == "dead":
            mounted.wait()
        if folder.name == "forbidden":
            raise PermissionError(13, "forbidden")
        return []

    workspace = Workspace(read=read)
    for name in ("dead", "forbidden", "fine"):
        workspace.add(f"file:///{name}")
    workspace.add("vscode-remote://host/there")
    await until(lambda: workspace.rules.reason("/fine/a.py") is None)
    assert workspace.rules.reason("/there/a.py") is None
    assert "not been read" in (workspace.rules.reason("/dead/a.py") or "")
    assert "not been read" in (workspace.rules.reason("/forbidden/a.py") or "")
    mounted.set()
    await until(lambda: workspace.rules.reason("/dead/a.py") is None)


async def test_a_folder_that_does_not_answer_is_told_once_and_comes_back(tmp_path: Path) -> None:
    ignore = tmp_path / ".snowcoderignore"
    os.mkfifo(ignore)  # opening it hangs, as on a dead mount, until somebody writes
    told: list[str] = []
    workspace = Workspace(told.append, slow_s=0.01)
    workspace.add(tmp_path.as_uri())
    await until(lambda: told)
    workspace.touched([ignore.as_uri()])
    await asyncio.sleep(0.05)
    (sentence,) = told
    assert str(tmp_path) in sentence
    assert workspace.rules.reason(f"{tmp_path}/a.py") is not None

    def answered() -> bool:
        flags = os.O_WRONLY | os.O_NONBLOCK  # an error where nobody waits at this moment
        with contextlib.suppress(OSError), os.fdopen(os.open(ignore, flags), "w") as writer:
            writer.write("b.py\n")
        return workspace.rules.reason(f"{tmp_path}/a.py") is None

    await until(answered)
    assert len(told) == 1


async def test_what_cannot_be_read_is_told_once_and_tried_again(tmp_path: Path) -> None:
    ignore = tmp_path / ".snowcoderignore"
    ignore.mkdir()
    tried: list[Path] = []
    told: list[str] = []

    swapping = threading.Lock()  # between the two, there is no such file, which is no fault

    def read(folder: Path) -> list[str]:
        tried.append(folder)
        with swapping:
            return read_ignore_file(folder)

    workspace = Workspace(told.append, read, retry_s=0.01)
    workspace.add(tmp_path.as_uri())
    await until(lambda: len(tried) > 3)
    assert len(told) == 1
    assert "directory" in told[0]
    with swapping:
        ignore.rmdir()
        ignore.write_text("b.py\n")
    await until(lambda: workspace.rules.reason(f"{tmp_path}/a.py") is None)
    assert workspace.rules.reason(f"{tmp_path}/b.py") is not None

    workspace.remove(tmp_path.as_uri())
    ignore.unlink()
    ignore.mkdir()
    workspace.add(tmp_path.as_uri())
    tried.clear()
    await until(lambda: tried)
    workspace.remove(tmp_path.as_uri())
    before = len(tried)
    await asyncio.sleep(0.05)
    assert len(tried) <= before + 1  # nobody follows it any more; one may have been under way


async def test_folders_that_can_be_read_are_not_spoken_of(tmp_path: Path) -> None:
    told: list[str] = []
    workspace = Workspace(told.append, slow_s=0.0)
    workspace.add(tmp_path.as_uri())
    workspace.remove(tmp_path.as_uri())
    workspace.add("vscode-remote://host/there")
    await asyncio.sleep(0.05)
    assert told == []


def test_no_ignore_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_ignore_file(tmp_path) == []
    assert read_ignore_file(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, False),
        ({"BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Charging"}}, False),
        ({"hid": {"type": "Battery", "scope": "Device", "status": "Discharging"}}, False),
        (
            {
                "AC": {"type": "Mains", "online": "1"},
                "BAT0": {"type": "Battery", "status": "Discharging"},
            },
            False,
        ),
    ],
)
def test_battery(supplies: dict[str, dict[str, str]], expected: bool, tmp_path: Path) -> None:
    for name, values in supplies.items():
        (tmp_path / name).mkdir()
        for key, value in values.items():
            (tmp_path / name / key).write_text(f"{value}\n")
    assert on_battery(tmp_path) is expected
    assert on_battery(tmp_path / "missing") is False


def test_power_is_not_asked_at_every_key() -> None:
    asked: list[bool] = []
    power = Power(lambda: not asked.append(True))
    assert [power.on_battery() for _ in range(5)] == [True] * 5
    assert len(asked) == 1
