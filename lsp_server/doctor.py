"""Checks of an installation, for `snowcoder doctor`.

A *problem* is one of the product itself and ends the command with 1; a *hint* is about the
machine or the editors around it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lsp_server.decisions import FILE_NAME
from lsp_server.paths import state_dir

Level = Literal["ok", "hint", "problem"]

_EDITORS = {"nvim": "Neovim", "code": "VS Code", "hx": "Helix", "emacs": "Emacs", "zed": "Zed"}
_LEAST_PYTHON = (3, 11)
_LEAST_RUNTIME = (1, 20)
_INT8 = ("avx512_vnni", "avx_vnni", "avx2", "asimddp", "asimd")
"""Instruction sets that the int8 kernels profit from, best first."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        level: how it is.
        detail: what was found.
        fix: what to do about it, in words; empty where there is nothing to do.
    """

    name: str
    level: Level
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON values."""
        return asdict(self)


def examine(model: str | None = None) -> list[Check]:
    """All checks in the order they depend on each other; never raises.

    Args:
        model: name or folder of weights; None for the packaged ones.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("runtime", check_runtime),
        ("cpu", check_cpu),
        ("weights", lambda: check_weights(model)),
        ("grammar", check_grammar),
        ("state folder", check_state),
        ("telemetry", check_telemetry),
        ("editors", check_editors),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        return Check(name, "problem", f"{type(error).__name__}: {error}", "reinstall snowcoder")


def check_python(found: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """The interpreter is one we support."""
    text = ".".join(map(str, found))
    if found[:2] < _LEAST_PYTHON:
        fix = "install snowcoder into an environment with Python 3.11 or newer"
        return Check("python", "problem", f"Python {text}", fix)
    return Check("python", "ok", f"Python {text} at {sys.executable}")


def check_runtime() -> Check:
    """ONNX Runtime can be imported, is new enough, and runs on the processor."""
    fix = "reinstall it: python -m pip install --force-reinstall onnxruntime"
    try:
        import onnxruntime
    except ImportError as error:
        return Check("runtime", "problem", f"ONNX Runtime cannot be imported: {error}", fix)
    version = onnxruntime.__version__
    if tuple(map(int, version.split(".")[:2])) < _LEAST_RUNTIME:
        return Check("runtime", "problem", f"ONNX Runtime {version} is too old", fix)
    if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
        return Check("runtime", "problem", f"ONNX Runtime {version} cannot use the processor", fix)
    return Check("runtime", "ok", f"ONNX Runtime {version}")


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    """Cores, and the instructions that int8 arithmetic profits from."""
    cores = os.cpu_count() or 1
    machine = f"{platform.machine()}, {cores} cores"
    try:
        words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return Check("cpu", "ok", f"{machine}; its instruction sets are not known here")
    known = [name for name in _INT8 if name in words]
    if not known:
        return Check("cpu", "hint", f"{machine}; no fast int8", "suggestions will be slow")
    if cores < 2:
        return Check("cpu", "hint", machine, "set snowcoder.threads to 1")
    return Check("cpu", "ok", f"{machine}; {', '.join(known)}")


def check_weights(model: str | None) -> Check:
    """Every weight file is there and matches its SHA-256."""
    from models.errors import ModelError
    from models.registry import find, verify

    try:
        folder = find(model)
        manifest = verify(folder)
    except ModelError as error:
        return Check("weights", "problem", str(error), "reinstall snowcoder, or correct the model")
    return Check("weights", "ok", f"{manifest.name} in {folder} matches its SHA-256")


def check_grammar() -> Check:
    """tree-sitter and the Python grammar fit each other."""
    from completion.parse import count_errors

    if count_errors("x = 1\n") != 0:
        fix = "reinstall tree-sitter and tree-sitter-python"
        return Check("grammar", "problem", "tree-sitter does not parse Python", fix)
    return Check("grammar", "ok", "tree-sitter parses Python")


def check_state() -> Check:
    """Log and decisions can be written."""
    folder = state_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
        if (folder / FILE_NAME).exists():
            (folder / FILE_NAME).read_bytes()
    except OSError as error:
        detail = f"{folder}: {error.strerror}"
        fix = "suggestions work, but neither log nor `snowcoder why`; make the folder writable"
        return Check("state folder", "hint", detail, fix)
    return Check("state folder", "ok", str(folder))


def check_telemetry() -> Check:
    """The local record can be read; it is not changed by looking."""
    from telemetry.paths import database_path
    from telemetry.store import StoreError, check_database

    path = database_path()
    try:
        found = check_database(path)
    except StoreError as error:
        fix = {
            "corrupt": "nothing: the next server puts it aside and begins a new one",
            "newer": "update snowcoder; until then nothing is recorded",
            "locked": "end the program that holds it; events wait meanwhile",
        }.get(error.reason, "suggestions work, but are not recorded; make it writable")
        return Check("telemetry", "hint", str(error), fix)
    return Check("telemetry", "ok", str(path) if found else f"nothing is recorded yet in {path}")


def check_editors() -> Check:
    """Editors on the path; having none is no fault of ours."""
    found = [name for command, name in _EDITORS.items() if shutil.which(command)]
    if not found:
        return Check("editors", "hint", "none found on the path", "see docs/editors.md")
    return Check("editors", "hint", ", ".join(found), "see docs/editors.md for their settings")
