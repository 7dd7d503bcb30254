"""Latency of the real server process under a human-paced typing trace.

Usage: python -m benchmarks.latency [--threads N] [--model PATH] [--json]

Takes about four minutes: the pauses of the trace are waited for. What counts is the time
between writing a request and reading its answer on the client's side. Requests that were
overtaken by the next key have no such time; they are reported as `superseded`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.lsp_client import LspClient, ServerError
from benchmarks.replay import Asked, Cause, Editor, replay
from benchmarks.stats import percentile
from benchmarks.trace import Session, TraceError, load_trace, sessions

FIRST_LIMIT_S = 60.0
REUSED = 0.95
"""A request with at least this share of its prompt in the KV cache counts as reusing it."""

# Typed right after the start of the server, as fast as it answers, to see the first
# suggestion: our own text, with a continuation that any code model is sure of.
_FIRST_BEFORE = '''"""Sums."""


def add_all(numbers):
    """Return the sum of the numbers."""
    total = 0
    for number in numbers:
'''
_FIRST_LINE = "        total += number"
_FIRST_AFTER = '''    return total


def multiply_all(numbers):
    """Return the product of the numbers."""
    product = 1
    for number in numbers:
        product *= number
    return product
'''


def server_command(threads: int, model: str | None) -> list[str]:
    """Return the command line that editors start, isolated from the working directory."""
    command = [sys.executable, "-I", "-m", "lsp_server", "serve", "--threads", str(threads)]
    return command if model is None else [*command, "--model", str(Path(model).resolve())]


def initialize(client: LspClient) -> None:
    """Open the connection as an editor that counts columns in UTF-16.

    Raises:
        ServerError: the server does not offer inline completion.
    """
    capabilities = {
        "general": {"positionEncodings": ["utf-16"]},
        "textDocument": {"inlineCompletion": {}},
    }
    params = {
        "processId": None,
        "rootUri": None,
        "capabilities": capabilities,
        # What is measured is nobody's work and belongs in nobody's record.
        "initializationOptions": {"snowcoder": {"telemetry": "off"}},
    }
    answer = client.call("initialize", params)
    if "inlineCompletionProvider" not in answer["capabilities"]:
        raise ServerError("the server does not offer inline completion")
    client.notify("initialized", {})


def first_suggestion(client: LspClient) -> float:
    """Type until something is suggested; returns milliseconds since the process was started.

    Raises:
        ServerError: nothing was suggested for the whole line, tried for a minute.
    """
    lines = [*_FIRST_BEFORE.split("\n")[:-1], "", *_FIRST_AFTER.split("\n")]
    row = _FIRST_BEFORE.count("\n")
    attempt = 0
    while time.perf_counter() - client.started < FIRST_LIMIT_S:
        # A new document each time: after a hidden suggestion the server may rest in this one.
        editor = Editor(client, f"file:///first/{attempt}.py", lines, [])
        attempt += 1
        editor.move(row, 0)
        for column in range(8, len(_FIRST_LINE)):
            editor.insert(_FIRST_LINE[editor.column : column])
            number, answer = editor.send()
            if not answer.wait(FIRST_LIMIT_S):
                client.cancel(number)
                raise ServerError(f"no answer in {FIRST_LIMIT_S:.0f} s: {client.errors()}")
            if answer.result and answer.received is not None:
                editor.close()
                return (answer.received - client.started) * 1000
        editor.close()
    raise ServerError(f"no suggestion in {FIRST_LIMIT_S:.0f} s: {client.errors()}")


def resident_mb(process_id: int) -> float | None:
    """Return VmRSS of a process in MB (10^6 bytes), or None where there is no /proc."""
    status = Path(f"/proc/{process_id}/status")
    if not status.is_file():
        return None
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def match_records(
    asked: Sequence[Asked], records: Sequence[dict[str, Any]]
) -> list[dict[str, Any] | None]:
    """Pair each request with the server's record of it, None where the engine never saw it.

    Both sides read the same monotonic clock and requests arrive in the order they were
    sent, so a record belongs to the latest request sent before the server received it.
    """
    sent = [one.answer.sent * 1000 for one in asked]
    matched: list[dict[str, Any] | None] = [None] * len(asked)
    for record in records:
        index = bisect_right(sent, record["received_ms"]) - 1
        if index >= 0:
            matched[index] = record
    return matched


def summarise(asked: Sequence[Asked], records: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Compute the keys that follow from the requests and the server's records of them.

    `jump_p50_ms` and the `typed_` keys count, like `p50_ms`, only requests that ran the model: a
    jump to a place where nothing is asked of the model would only flatter it.
    """
    everything: list[float] = []
    ran: list[float] = []
    jumps: list[float] = []
    typed: list[float] = []
    overheads: list[float] = []
    queued: list[float] = []
    reused = 0
    for one, record in zip(asked, records, strict=True):
        elapsed = one.milliseconds
        if elapsed is None:
            continue
        everything.append(elapsed)
        prompt = record["prompt_tokens"] if record is not None else 0
        if record is None or prompt == 0:
            reused += 1
            continue
        ran.append(elapsed)
        overheads.append(elapsed - record["total_ms"])
        queued.append(record["queue_ms"])
        reused += record["reused_tokens"] >= REUSED * prompt
        (jumps if one.cause in (Cause.OPEN, Cause.JUMP) else typed).append(elapsed)
    tokens = [r["generated_tokens"] for r in records if r is not None and r["prompt_tokens"]]
    answered = max(len(everything), 1)
    return {
        "p50_ms": _rounded(percentile(ran, 0.5)),
        "p95_ms": _rounded(percentile(ran, 0.95)),
        "p50_all_ms": _rounded(percentile(everything, 0.5)),
        "jump_p50_ms": _rounded(percentile(jumps, 0.5)),
        "typed_p50_ms": _rounded(percentile(typed, 0.5)),
        "typed_p95_ms": _rounded(percentile(typed, 0.95)),
        "overhead_p95_ms": _rounded(percentile(overheads, 0.95)),
        "queue_p95_ms": _rounded(percentile(queued, 0.95)),
        "requests": len(asked),
        "superseded": sum(one.superseded for one in asked),
        "shown_share": round(sum(one.suggestion is not None for one in asked) / answered, 4),
        "mean_tokens": round(sum(tokens) / len(tokens), 2) if tokens else None,
        "reuse_share": round(reused / answered, 4),
    }


def write_requests(
    path: Path, asked: Sequence[Asked], records: Sequence[dict[str, Any] | None]
) -> None:
    """Write each request's cause and time, with the server's record of it."""
    with path.open("w", encoding="utf-8") as file:
        for one, record in zip(asked, records, strict=True):
            row = {"cause": one.cause, "milliseconds": one.milliseconds, "record": record}
            file.write(json.dumps(row) + "\n")


def measure(
    command: Sequence[str],
    files: Sequence[Session],
    *,
    threads: int,
    log: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Start a server, replay a trace, and report.

    Args:
        command: starts the server.
        files: what to type.
        threads: of the server's model, for the report.
        log: gets one JSON object per request, to see where the time went.
        progress: write a counter to standard error.

    Raises:
        ServerError: the server failed.
    """
    asked: list[Asked] = []
    with LspClient(command) as client:
        initialize(client)
        first_ms = first_suggestion(client)
        before = client.call("snowcoder/stats", {})
        for number, session in enumerate(files, start=1):
            replay(client, session, asked)
            if progress:
                print(f"\r{number}/{len(files)} files", end="", file=sys.stderr, flush=True)
        if progress:
            print(file=sys.stderr)
        after = client.call("snowcoder/stats", {})
        rss = resident_mb(client.process.pid)
    records = match_records(asked, after["last"])
    if log is not None:
        write_requests(log, asked, records)
    result = summarise(asked, records)
    result |= {
        "first_suggestion_ms": _rounded(first_ms),
        "rss_mb": _rounded(rss),
        "kv_mb": after["kv_mb"],
        "model_calls": after["model_calls"] - before["model_calls"],
        "threads": threads,
    }
    return result


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Missing sources are reported as skipped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of the server's model (default 2)")
    parser.add_argument("--model", help="a packaged model's name or a folder with weights")
    parser.add_argument("--requests", type=Path, metavar="FILE", help="write every request")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args(given)
    try:
        result = measure(
            server_command(arguments.threads, arguments.model),
            list(sessions(load_trace())),
            threads=arguments.threads,
            log=arguments.requests,
            progress=sys.stderr.isatty(),
        )
    except TraceError as error:
        print(f"benchmarks.latency: {error}", file=sys.stderr)
        result = {"skipped": str(error)}
    except ServerError as error:
        print(f"benchmarks.latency: {error}", file=sys.stderr)
        return 1
    report(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
