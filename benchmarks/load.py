"""Several editors at once, each typing its part of the trace into a server of its own.

Usage: python -m benchmarks.load [--clients 8] [--model PATH] [--json]

In real time, as `benchmarks.latency`. Keys: clients, requests, unanswered (neither answered nor
superseded within thirty seconds, or refused with an error), p50_ms and p95_ms (client's time of
answered requests). Exit status 1 if unanswered is not 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import own_state, parser, report
from benchmarks.latency import initialize, server_command
from benchmarks.lsp_client import CANCELLED, LspClient, ServerError
from benchmarks.replay import ANSWER_LIMIT_S, Asked, replay
from benchmarks.stats import percentile
from benchmarks.trace import Session, TraceError, load_trace, sessions


def one_editor(command: Sequence[str], files: Sequence[Session]) -> list[Asked]:
    """Type `files` into a new server; returns every request."""
    asked: list[Asked] = []
    with LspClient(command) as client:
        initialize(client)
        for session in files:
            replay(client, session, asked)
        for one in asked:
            one.answer.wait(ANSWER_LIMIT_S)
    return asked


def load(command: Sequence[str], files: Sequence[Session], clients: int) -> dict[str, Any]:
    """Let so many editors share the trace's files and report.

    Raises:
        ServerError: a server failed.
    """
    shares = [files[index % len(files) :: clients] for index in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        jobs = [pool.submit(one_editor, command, share) for share in shares]
        asked = [one for job in jobs for one in job.result()]
    lost = [
        one
        for one in asked
        if one.answer.received is None
        or (one.answer.error is not None and one.answer.error.get("code") not in CANCELLED)
    ]
    times = [one.milliseconds for one in asked if one.milliseconds is not None]
    p50, p95 = percentile(times, 0.5), percentile(times, 0.95)
    return {
        "clients": clients,
        "requests": len(asked),
        "unanswered": len(lost),
        "p50_ms": None if p50 is None else round(p50, 1),
        "p95_ms": None if p95 is None else round(p95, 1),
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Missing sources are reported as skipped."""
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--files", type=int, help="only the first so many files of the trace")
    arguments = options.parse_args(given)
    try:
        files = list(sessions(load_trace()))[: arguments.files]
        with own_state():
            command = server_command(arguments.threads, arguments.model)
            result = load(command, files, arguments.clients)
    except TraceError as error:
        print(f"benchmarks.load: {error}", file=sys.stderr)
        result = {"skipped": str(error)}
    except ServerError as error:
        print(f"benchmarks.load: {error}", file=sys.stderr)
        return 1
    report(result, arguments.json)
    return 1 if result.get("unanswered") else 0


if __name__ == "__main__":
    raise SystemExit(main())
