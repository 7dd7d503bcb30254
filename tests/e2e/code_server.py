"""Installs code-server, which is VS Code for the browser, under `.cache/vscode`.

Its package fetches the rest with scripts that assume a C++ tool chain for everything; here
only the modules that it cannot run without are compiled. Needs Node 20 and npm.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

VERSION = "4.100.3"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "vscode"
ENTRY = CACHE / "node_modules/code-server/out/node/entry.js"
NATIVE = ["@vscode/spdlog", "native-watchdog", "@parcel/watcher", "kerberos", "node-pty"]


class CodeServerError(Exception):
    """code-server cannot be installed; the sentence says why."""


def installed() -> bool:
    """Whether an earlier `install` finished."""
    return (CACHE / "complete").is_file()


def install() -> None:
    """Install code-server unless it is there.

    Raises:
        CodeServerError: npm is missing or failed.
    """
    if installed():
        return
    if (npm := shutil.which("npm")) is None:
        raise CodeServerError("VS Code's tests need Node 20 and npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "package.json").write_text('{"private": true}\n')
    code = CACHE / "node_modules/code-server/lib/vscode"
    quiet = ["--no-audit", "--no-fund"]
    bare = ["--ignore-scripts", *quiet]
    _run([npm, "install", f"code-server@{VERSION}", *bare], CACHE)
    _run([npm, "rebuild", "argon2", *quiet], CACHE)
    _run([npm, "install", "--omit=dev", *bare], code)
    _run([npm, "install", "--omit=dev", *bare], code / "extensions")
    # node-pty's own last step fails although what it is for has been built: check the results.
    _run([npm, "rebuild", *NATIVE], code, may_fail=True)
    for name in ("node-pty/build/Release/pty.node", "@vscode/spdlog/build/Release/spdlog.node"):
        if not (code / "node_modules" / name).is_file():
            raise CodeServerError(f"npm did not build {name}")
    (CACHE / "complete").touch()


def _run(command: list[str], folder: Path, *, may_fail: bool = False) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise CodeServerError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
