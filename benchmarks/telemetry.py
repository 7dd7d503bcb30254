"""What telemetry costs a completion, and what is lost when its process is killed.

overhead_p95_ms          what an edit, a request's arms and its record add on the event loop,
                         with ten accepted suggestions followed in the document
kill9_trials             writers killed at random while they record 10,000 events
committed_lost           events known to be committed that are not in the database
duplicated               events that are there twice
uncommitted_lost_ms_max  age at the kill of the oldest event that is not there, by the
                         client's own record
report_seconds_10m       an experiment's report over Parquet of 10 million events (DuckDB),
                         process start included
engines_max_rel_diff     largest relative difference between any of the report's numbers on
                         SQLite and DuckDB, PostgreSQL, Spark (`engines` names those installed)
collector_events_per_s   taken in by `snowcoder collector` from four connections, batches of 100
collector_p95_ms         of such a batch, from the request to its acknowledgement
collector_lost           events that it had acknowledged before it was killed at random, or that
                         were sent again afterwards, and that are not there

What needs an extra (`analysis`, `collector`) that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import collector
from benchmarks.stats import percentile
from completion.types import CompletionRequest, Policies, Record, Source, Suggestion
from lsp_server.documents import Document, Encoding
from lsp_server.inline import Place, build_item
from lsp_server.measure import Recorder
from telemetry.events import Shown
from telemetry.store import Store, Writer

EVENTS = 10_000
BURST, PAUSE_S = 100, 0.005
"""The writer's pace: all events in about half a second."""
TRACKED = 10
REQUESTS = 2000
LINES = 400


def record_events(path: str) -> None:
    """What a killed process does: record, and say on standard output what it knows.

    `p N T` says that event N was handed over at T (monotonic ns); `c N`, that all up to N are
    committed.
    """
    store = Store(Path(path))
    store.start()
    store.wait_ready(60)
    say = sys.stdout
    print("ready", flush=True)

    def confirm(number: int) -> None:
        # A job of a later transaction than the event's: by then that one is committed.
        def first(writer: Writer) -> None:
            threading.Timer(0.05, lambda: store.run(second)).start()

        def second(writer: Writer) -> None:
            say.write(f"c {number}\n")
            say.flush()

        store.run(first)

    for number in range(EVENTS):
        store.put(Shown(at_us=number, suggestion_id=str(number)))
        say.write(f"p {number} {time.monotonic_ns()}\n")
        if number % BURST == BURST - 1:
            say.flush()
            confirm(number)
            time.sleep(PAUSE_S)
    threading.Event().wait()


def kill_once(path: Path, after_s: float) -> dict[str, float]:
    """Kill a writer `after_s` seconds into its work and compare both records."""
    command = [sys.executable, "-m", "benchmarks.telemetry", "--record", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        killed: list[int] = []

        def kill() -> None:
            killed.append(time.monotonic_ns())
            process.send_signal(signal.SIGKILL)

        killer = threading.Timer(after_s, kill)
        killer.start()
        lines = process.stdout.read().splitlines()
        killer.join()
    put, committed = {}, -1
    for line in lines:
        match line.split():
            case ["p", number, at]:
                put[int(number)] = int(at)
            case ["c", number]:
                committed = max(committed, int(number))
    with closing(sqlite3.connect(path)) as connection:
        stored = [int(row[0]) for row in connection.execute("select suggestion_id from shown")]
    there = set(stored)
    lost = [at for number, at in put.items() if number not in there]
    return {
        "committed_lost": sum(number not in there for number in range(committed + 1)),
        "duplicated": len(stored) - len(there),
        "uncommitted_lost_ms": max(killed[0] - min(lost), 0) / 1e6 if lost else 0.0,
        "put": len(put),
        "confirmed": committed + 1,
    }


def kill_trials(trials: int, seed: int) -> dict[str, Any]:
    """Kill writers at random points of their work."""
    chance = random.Random(seed)
    total = {"committed_lost": 0.0, "duplicated": 0.0, "put": 0.0, "confirmed": 0.0}
    oldest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(trials):
            found = kill_once(Path(folder) / f"{trial}.db", chance.uniform(0.02, 0.7))
            oldest = max(oldest, found.pop("uncommitted_lost_ms"))
            for name, value in found.items():
                total[name] += value
    return {
        "kill9_trials": trials,
        "kill9_events_put": int(total["put"]),
        "kill9_events_confirmed": int(total["confirmed"]),
        "committed_lost": int(total["committed_lost"]),
        "duplicated": int(total["duplicated"]),
        "uncommitted_lost_ms_max": round(oldest, 1),
    }


async def overhead(path: Path) -> list[float]:
    """Milliseconds that each completion spends on telemetry."""
    document = Document("    value = compute(1)\n" * LINES, "python", Encoding.UTF16)
    uri = "file:///benchmark.py"
    store = Store(path)
    recorder = Recorder(store, lambda asked: document.text, "", lambda message: None)
    recorder.start()
    store.wait_ready(60)
    spent = []
    for number in range(REQUESTS):
        line = number % LINES
        change = document.edit((line, 4), (line, 4), "x")
        cursor = document.cursor(line, 5)
        place = Place(cursor)
        record = Record(total_ms=40.0, source=Source.MODEL, logprob_sum=-0.5)
        outcome = Suggestion(f"s{number}", "abc(1)", cursor.offset, cursor.offset, record)
        began = time.perf_counter()
        recorder.edited(uri, [change])
        policies = recorder.policies(Policies())
        measured = time.perf_counter() - began
        request = CompletionRequest(
            cursor.text, cursor.offset, uri, policies=policies, received=began
        )
        items = [build_item(place, outcome)]
        began = time.perf_counter()
        recorder.asked(request, place, uri, outcome, items)
        spent.append((measured + time.perf_counter() - began) * 1000)
        if number < TRACKED:
            document.edit((line, 5), (line, 5), "abc(1)")
            recorder.accepted(f"s{number}")
        await asyncio.sleep(0.002)
    recorder.close()
    return spent


_SYNTHETIC = {
    # 8 M requests, 1 M suggestions shown, 1 M ended: 10 M events of 2,000 users in 50 days.
    "opportunities": """select 'model' as source, 'x=' || if(i % 2000 % 2 = 0, 'control', 'test')
        as arms, (20000 + 60000 * random())::bigint as total_us, 'low_confidence' as hidden_reason
        from range(8000000) t(i)""",
    "suggestions": """select 'u' || (i % 2000) as user_id,
        strftime(date '2026-01-01' + (i // 2000 % 50)::int, '%Y-%m-%d') as day,
        if(random() < 0.3, 'accepted', 'ignored') as resolution, 1::bigint as visible,
        random() as retained_30, random() as retained_120, random() as retained_300,
        null::double as retained_600 from range(1000000) t(i)""",
    "user_days": """select 'u' || (i % 2000) as user_id,
        strftime(date '2026-01-01' + (i // 2000)::int, '%Y-%m-%d') as day,
        80::bigint as opportunities, 10::bigint as offers, 0::bigint as errors,
        (3000000 * random())::bigint as total_us, 10::bigint as suggestions, 3::bigint as accepted,
        1::bigint as dismissed, 100 * random() as retained_chars,
        (7200000000 * random())::bigint as active_us, 500::bigint as typed_chars,
        90::bigint as completed_chars from range(100000) t(i)""",
    "exposures": """select 'x' as experiment, if(i % 2 = 0, 'control', 'test') as arm,
        1::bigint as weight, 'user' as unit, '2026-01-05' as day, 'u' || i as user_id
        from range(2000) t(i)""",
}


def time_report(folder: Path) -> float:
    """Seconds of `snowcoder report` over ten million events."""
    import duckdb

    with duckdb.connect() as connection:
        for name, query in _SYNTHETIC.items():
            connection.execute(f"copy ({query}) to '{folder / name}.parquet'")
    command = [sys.executable, "-m", "lsp_server", "report", "--db", str(folder)]
    began = time.perf_counter()
    subprocess.run([*command, "--experiment", "x", "--json"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def compare_engines(folder: Path) -> dict[str, Any]:
    """One report on every engine that is installed, of a simulated fleet's record."""
    from benchmarks import postgres
    from benchmarks.engines import compare, copy_record
    from benchmarks.fleet import EXPERIMENT, write_fleet
    from telemetry.export import export_parquet

    record, parquet = folder / "fleet.db", folder / "fleet"
    events = write_fleet(record, users=60, days=10, requests=30)
    export_parquet(record, parquet)
    places = {"sqlite": str(record), "duckdb": str(parquet)}
    if find_spec("pyspark") is not None:
        places["spark"] = f"spark:{parquet}"
    with ExitStack() as running:
        if postgres.find() is not None:
            places["postgresql"] = running.enter_context(postgres.running())
            copy_record(record, places["postgresql"])
        difference = compare(list(places.values()), EXPERIMENT)
    return {
        "engines_max_rel_diff": difference,
        "engines": list(places),
        "engines_events": events,
    }


def measure(trials: int, seed: int) -> dict[str, Any]:
    """All numbers."""
    result = kill_trials(trials, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spent = asyncio.run(overhead(folder / "overhead.db"))
        result["overhead_p50_ms"] = round(percentile(spent, 0.5) or 0.0, 3)
        result["overhead_p95_ms"] = round(percentile(spent, 0.95) or 0.0, 3)
        if find_spec("ibis") is not None:
            result["report_seconds_10m"] = round(time_report(folder), 1)
        if find_spec("fastapi") is not None and find_spec("ibis") is not None:
            result |= compare_engines(folder)
            result |= collector.measure(folder, trials=max(trials // 5, 1), seed=seed)
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=50, help="processes to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--record", metavar="DATABASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.record is not None:
        record_events(arguments.record)
        return 0
    result = measure(arguments.trials, arguments.seed)
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:24} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
