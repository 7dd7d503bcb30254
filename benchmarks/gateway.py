"""The gateway beside the engine: what it costs, many editors at once, a remote engine that dies.

Usage: python -m benchmarks.gateway [--model PATH] [--requests 400] [--seconds 60] [--json]

Keys: `requests` and `overhead_p50_ms`, `overhead_p95_ms` (one editor's typing of the trace over
loopback: client's time less the engine's); of sixteen editors typing at once in real time for
`--seconds`: `clients`, `clients_requests`, `answered`, `superseded`, `unanswered`,
`foreign_text` (answers with another editor's names), `clients_p50_ms`, `clients_p95_ms` (of those
answered); of `--kills` requests whose remote engine, a gateway too, is killed in the middle of its
answer: `tried` (answers that ended before the kill among them), `killed` (those that broke off),
`lost` and `lost_silently` (the local model alone suggests something, nothing came, and it was or
was not said why), `hidden_by_deadline`, `late` (answers after the deadline), `latest_ms`. Exit
status 1 if `unanswered`, `foreign_text`, `lost_silently` or `late` is not 0, or fewer broke off
than were asked for.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.gateway_clients import SUPERSEDED, WORDS, Asked, type_all, type_in_turn
from benchmarks.harness import own_state, parser, report
from benchmarks.killed_remote import Remote, kill_often
from benchmarks.servers import GatewayFailedError, gateway
from benchmarks.stats import percentile
from benchmarks.trace import TraceError, load_trace, sessions
from models.local import LocalBackend
from models.registry import find


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
        with own_state(), gateway(arguments.model, arguments.threads) as (address, _):
            alone = type_in_turn(address, files, arguments.requests)
            result = overhead(alone) | together(
                asyncio.run(type_all(address, files, arguments.seconds))
            )
        backend = LocalBackend.load(find(arguments.model), threads=arguments.threads)
        backend.warm_up()
        with own_state():
            result |= kill_often(
                Remote(arguments.model, arguments.threads),
                backend,
                files,
                arguments.kills,
                arguments.seed,
            )
    except TraceError as error:
        print(f"benchmarks.gateway: {error}", file=sys.stderr)
        result = {"skipped": str(error)}
    except GatewayFailedError as error:
        print(f"benchmarks.gateway: {error}", file=sys.stderr)
        return 1
    report(result, arguments.json)
    bad = any(result.get(key) for key in ("unanswered", "foreign_text", "lost_silently", "late"))
    return 1 if bad or result.get("killed", arguments.kills) < arguments.kills else 0


if __name__ == "__main__":
    raise SystemExit(main())
