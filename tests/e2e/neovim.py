"""A real Neovim with a home of its own, driven over its socket."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvim

from tests.e2e.install import Neovim
from tests.e2e.waiting import wait_for

PATIENCE = 10.0
"""Seconds to wait for what must happen; no measure of speed."""
_HOMES = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"),
    "SNOWCODER_DATA",
)


@contextmanager
def running(neovim: Neovim, home: Path, *arguments: str | Path) -> Iterator[pynvim.Nvim]:
    """An editor that ends with the block; `snowcoder` is on its path."""
    environment = os.environ | neovim.environment | {name: str(home / name) for name in _HOMES}
    environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    address = home / "socket"
    command = [*neovim.command, "--headless", "-n", "--listen", address, *arguments]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        nvim = wait_for(lambda: _attach(address), PATIENCE)
        try:
            yield nvim
        finally:
            # An editor that ends while it is asked leaves the connection waiting.
            nvim.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _attach(address: Path) -> pynvim.Nvim | None:
    """A connection; None as long as nobody listens there."""
    try:
        return pynvim.attach("socket", path=str(address))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
