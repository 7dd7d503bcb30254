"""Servers on loopback that benchmarks and end-to-end tests start for themselves."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

_START_S = 60.0


class GatewayFailedError(Exception):
    """The gateway did not start."""


@contextmanager
def gateway(model: str | None, threads: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A gateway in a process of its own; its address and the process.

    Raises:
        GatewayFailedError: it did not start.
    """
    port = free_port()
    command = [sys.executable, "-I", "-m", "lsp_server", "gateway", "--port", str(port)]
    command += ["--threads", str(threads), *(["--model", model] if model else [])]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            if not comes_up(f"{address}/health", process):
                raise GatewayFailedError("the gateway did not start")
            yield address, process
        finally:
            process.terminate()


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
