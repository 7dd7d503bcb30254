"""The server starts inside projects whose packages are named like ours."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lsp_server.entry import isolate_path
from tests.lsp_server.client import TIMEOUT, Client

SCRIPT = Path(sysconfig.get_path("scripts")) / "snowcoder"
STARTS = {
    "command": [SCRIPT],
    "isolated module": [sys.executable, "-I", "-m", "lsp_server"],
}
ROOT = str(Path(isolate_path.__code__.co_filename).resolve().parent.parent)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose own packages must not be imported."""
    for name in ("models", "completion", "telemetry", "numpy", "pygls"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the project was imported')")
    return tmp_path


@pytest.mark.parametrize("start", STARTS)
def test_serves_inside_a_project_with_our_names(start: str, project: Path) -> None:
    command = [*STARTS[start], "serve", "--model", project / "missing"]
    with Client(command, cwd=project, environment={"PYTHONPATH": "."}) as client:
        client.initialize()
        # This sentence comes from our own `models`, imported only now.
        message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
        assert "no model at" in message
        assert client.leave() == 0


@pytest.mark.parametrize("start", STARTS)
def test_the_other_commands_too(start: str, project: Path) -> None:
    (project / "a.py").write_text("x = 1\n")
    done = subprocess.run(
        [*STARTS[start], "complete", "a.py:1:3", "--model", "missing"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no model at" in done.stderr


def test_the_path_loses_the_project_and_keeps_the_interpreter() -> None:
    stdlib, packages = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    path = ["/usr/local/bin", "/project", "", "src", stdlib, "/pth", packages]
    pythonpath = os.pathsep.join(["/project", packages, "src"])
    assert isolate_path(path, pythonpath, safe=False) == [stdlib, "/pth", packages, ROOT]


def test_a_safe_path_keeps_its_first_entry() -> None:
    stdlib = sysconfig.get_path("stdlib")
    assert isolate_path(["/first", stdlib, ROOT], "", safe=True) == ["/first", stdlib, ROOT]
