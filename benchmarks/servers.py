"""Servers on loopback that benchmarks and end-to-end tests start for themselves."""

from __future__ import annotations

import socket
import subprocess
import time

import httpx
import psutil

_START_S = 60.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def comes_up(url: str, process: subprocess.Popen[bytes] | psutil.Popen) -> bool:
    """Wait until `url` answers, whatever it says; False if the process ends or a minute passes."""
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            httpx.get(url)
            return True
        except httpx.HTTPError:
            time.sleep(0.05)
    return False
