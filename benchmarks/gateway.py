"""The gateway beside the engine: what it costs, many editors at once, a remote engine that dies.

Usage: python -m benchmarks.gateway [--model PATH] [--requests 400] [--seconds 60] [--json]

Keys: `requests` and `overhead_p50_ms`, `overhead_p95_ms` (one editor's typing of the trace over
loopback: client's time less the engine's); of sixteen editors typing at once in real time for
`--seconds`: `clients`, `clients_requests`, `answered`, `superseded`, `unanswered`,
`foreign_text` (answers with another editor's names), `clients_p50_ms`, `clients_p95_ms` (of those
answered); of `--kills` requests whose remote engine is killed while it answers: `killed`,
`lost_silently`, `hidden_by_deadline`, `late` (answers after the deadline), `latest_ms`. Exit
status 1 if `unanswered`, `foreign_text` or `lost_silently` is not 0.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.gateway_clients import SUPERSEDED, WORDS, Asked, type_all, type_in_turn
from benchmarks.harness import own_state, parser, report
from benchmarks.killed_remote import kill_often
from benchmarks.servers import comes_up, free_port
from benchmarks.stats import percentile
from benchmarks.trace import TraceError, load_trace, sessions
from models.local import LocalBackend
from models.registry import find


class GatewayFailedError(Exception):
    """The gateway did not start."""


@contextmanager
def gateway(model: str | None, threads: int) -> Iterator[str]:
    """A gateway in a process of its own; its address."""
    port = free_port()
    command = [sys.executable, "-I", "-m", "lsp_server", "gateway", "--port", str(port)]
    command += ["--threads", str(threads), *(["--model", model] if model else [])]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            if not comes_up(f"{address}/health", process):
                raise GatewayFailedError("the gateway did not start")
            yield address
        finally:
            process.terminate()


def overhead(asked: Sequence[Asked]) -> dict[str, Any]:
    """What a request costs beyond the engine."""
    extra = [one.milliseconds - one.engine_ms for one in asked if one.engine_ms is not None]
    return {
        "requests": len(extra),
        "overhead_p50_ms": _rounded(percentile(extra, 0.5)),
        "overhead_p95_ms": _rounded(percentile(extra, 0.95)),
    }


def together(asked: Sequence[Asked]) -> dict[str, Any]:
    """What many editors got."""
    statuses = Counter(one.status for one in asked)
    times = [one.milliseconds for one in asked if one.status == 200]
    return {
        "clients": len(WORDS),
        "clients_requests": len(asked),
        "answered": statuses[200],
        "superseded": statuses[SUPERSEDED],
        "unanswered": len(asked) - statuses[200] - statuses[SUPERSEDED],
        "shown": sum(bool(re.search(r"\w", one.content)) for one in asked),
        "foreign_text": sum(one.foreign for one in asked),
        "clients_p50_ms": _rounded(percentile(times, 0.5)),
        "clients_p95_ms": _rounded(percentile(times, 0.95)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Missing sources are reported as skipped."""
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=400, help="of one editor alone")
    options.add_argument("--seconds", type=float, default=60.0, help="that sixteen editors type")
    options.add_argument("--kills", type=int, default=100, help="of the remote engine")
    arguments = options.parse_args(given)
    try:
        files = list(sessions(load_trace()))
        with own_state(), gateway(arguments.model, arguments.threads) as address:
            alone = type_in_turn(address, files, arguments.requests)
            result = overhead(alone) | together(
                asyncio.run(type_all(address, files, arguments.seconds))
            )
        backend = LocalBackend.load(find(arguments.model), threads=arguments.threads)
        backend.warm_up()
        result |= kill_often(backend, files, arguments.kills, arguments.seed)
    except TraceError as error:
        print(f"benchmarks.gateway: {error}", file=sys.stderr)
        result = {"skipped": str(error)}
    except GatewayFailedError as error:
        print(f"benchmarks.gateway: {error}", file=sys.stderr)
        return 1
    report(result, arguments.json)
    bad = result.get("unanswered"), result.get("foreign_text"), result.get("lost_silently")
    return 1 if any(bad) else 0


if __name__ == "__main__":
    raise SystemExit(main())
