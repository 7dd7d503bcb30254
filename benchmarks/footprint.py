"""What servers cost while they are there: memory of a second one, processor time of an idle one.

Usage: python -m benchmarks.footprint [--threads N] [--model PATH] [--json]

Linux only (reads /proc); takes about a minute. The first server writes the prepacked weights that
the other two map.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import own_state, parser, report
from benchmarks.latency import first_suggestion, initialize, server_command
from benchmarks.lsp_client import LspClient, ServerError

_IDLE_S = 20.0
_SETTLED_S = 3.0
_PACKED_LIMIT_S = 60.0


def private_bytes(process_id: int) -> int:
    """Memory that is this process's alone: it would be free if the process ended."""
    rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    rows = (line.split() for line in rollup.splitlines())
    return sum(int(row[1]) * 1024 for row in rows if row[0].startswith("Private_"))


def idle_share(process_id: int, seconds: float) -> float:
    """Share of one core that a process uses while nothing is asked of it."""
    process = psutil.Process(process_id)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


def _wait_for_packed(cache: Path) -> None:
    until = time.monotonic() + _PACKED_LIMIT_S
    while not list(cache.glob("weights/*/digests.json")):
        if time.monotonic() > until:
            raise ServerError(f"no prepacked weights within {_PACKED_LIMIT_S:.0f} s")
        time.sleep(0.1)


def _another(command: Sequence[str], others: ExitStack, result: dict[str, Any]) -> LspClient:
    client = others.enter_context(LspClient(command))
    initialize(client)
    result["first_suggestion_ms"] = round(first_suggestion(client), 1)
    return client


def measure(command: Sequence[str], cache: Path) -> dict[str, Any]:
    """Start three servers and look at them.

    Raises:
        ServerError: a server failed.
    """
    result: dict[str, Any] = {}
    with LspClient(command) as first:
        initialize(first)
        result["unpacked_first_suggestion_ms"] = round(first_suggestion(first), 1)
        _wait_for_packed(cache)
        with ExitStack() as others:
            second, third = (_another(command, others, result) for _ in range(2))
            time.sleep(_SETTLED_S)
            kv = third.call("snowcoder/stats", {})["kv_mb"]
            for name, client in (("first", first), ("second", second), ("third", third)):
                own = private_bytes(client.process.pid) / 1e6
                result[f"{name}_private_mb"] = round(own, 1)
            result["kv_mb"] = kv
            result["added_private_mb"] = round(result["third_private_mb"] - kv, 1)
            result["idle_cpu_share"] = round(idle_share(third.process.pid, _IDLE_S), 4)
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser(__doc__).parse_args(given)
    if not Path("/proc/self/smaps_rollup").is_file():
        report({"skipped": "this system has no /proc/PID/smaps_rollup"}, arguments.json)
        return 0
    with own_state() as folder:
        try:
            result = measure(server_command(arguments.threads, arguments.model), folder)
        except ServerError as error:
            print(f"benchmarks.footprint: {error}", file=sys.stderr)
            return 1
    report(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
