"""What a collector takes in, and what it loses when it is killed: a real one, over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.servers import free_port
from benchmarks.stats import percentile
from telemetry.events import Opportunity

BATCH = 100
SENDERS = 4
_EVENT = Opportunity(
    at_us=1_770_000_000_000_000,
    request_id="",
    suggestion_id="",
    language="python",
    trigger="automatic",
    source="model",
    model="SnowCoder-88M",
    arms="eager=control",
    context_class="call",
    chars=20,
    total_us=40_000,
    logprob_sum=-0.5,
)


@dataclass(frozen=True, slots=True)
class Running:
    """A collector: its process, port, upload token and database."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    database: Path


@contextmanager
def collector(folder: Path, db: str | None = None) -> Iterator[Running]:
    """`snowcoder collector` on `folder`, killed at the end."""
    port = free_port()
    database = folder / "collector.db"
    command = [sys.executable, "-m", "lsp_server", "collector", "--port", str(port)]
    command += ["--db", db or str(database)]
    environment = os.environ | {"SNOWCODER_DATA": str(folder)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while not _listens(port):
                if process.poll() is not None:
                    raise ChildProcessError("the collector does not start")
                time.sleep(0.05)
            lines = (folder / "collector-tokens").read_text(encoding="utf-8").splitlines()
            token = dict(line.split() for line in lines)["upload"]
            yield Running(process, port, token, database)
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def batch(first: int) -> bytes:
    """An upload of events numbered from `first`, of the widest kind."""
    known = {field.name: getattr(_EVENT, field.name) for field in fields(_EVENT)}
    known |= {"table": "opportunities", "user_id": "u", "session_id": "s", "version": 1}
    events = [
        known | dict.fromkeys(["event_id", "request_id", "suggestion_id"], f"event-{number:012}")
        for number in range(first, first + BATCH)
    ]
    return json.dumps({"events": events}).encode()


class Sender:
    """One connection that is kept open."""

    def __init__(self, running: Running) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        self._headers = {"authorization": f"Bearer {running.token}"}

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def send(self, body: bytes) -> bool:
        """Whether the collector acknowledged it."""
        try:
            self._connection.request("POST", "/v1/events", body, self._headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return answer.status == 200


def throughput(folder: Path, batches: int, db: str | None = None) -> dict[str, float]:
    """Events a second from `SENDERS` connections, and milliseconds of a batch (95 %)."""
    bodies = [batch(number * BATCH) for number in range(batches + SENDERS)]
    with collector(folder, db) as running:
        senders = [Sender(running) for _ in range(SENDERS)]
        for number, sender in enumerate(senders):
            sender.send(bodies[batches + number])

        def work(which: int) -> list[float]:
            spent = []
            for body in bodies[which:batches:SENDERS]:
                began = time.perf_counter()
                if not senders[which].send(body):
                    raise ChildProcessError("the collector refused a batch")
                spent.append((time.perf_counter() - began) * 1000)
            return spent

        began = time.perf_counter()
        with ThreadPoolExecutor(SENDERS) as pool:
            spent = [ms for part in pool.map(work, range(SENDERS)) for ms in part]
        seconds = time.perf_counter() - began
        for sender in senders:
            sender.close()
    return {"events_per_s": batches * BATCH / seconds, "p95_ms": percentile(spent, 0.95) or 0.0}


def kill_trials(folder: Path, trials: int, seed: int) -> dict[str, int]:
    """Kill the collector at random while it takes batches, and send again what it did not answer.

    Lost is an event that was acknowledged and is not there after the kill, or that is not there
    in the end; duplicated, one that is there twice.
    """
    chance = random.Random(seed)
    acknowledged: set[int] = set()
    waiting: list[int] = []
    lost, number = 0, 0
    for _ in range(trials):
        with collector(folder) as running, closing(Sender(running)) as sender:
            # What an outbox does first: what was not acknowledged.
            for first in waiting:
                if sender.send(batch(first)):
                    acknowledged.add(first)
            waiting = [first for first in waiting if first not in acknowledged]
            until = time.monotonic() + chance.uniform(0.02, 0.7)
            with ThreadPoolExecutor(1) as pool:
                killing = pool.submit(_kill, running.process, until)
                while True:
                    if not sender.send(batch(number)):
                        waiting.append(number)
                        number += BATCH
                        break
                    acknowledged.add(number)
                    number += BATCH
                killing.result()
            running.process.wait()
        there = stored(folder / "collector.db")
        lost += sum(
            event not in there for first in acknowledged for event in range(first, first + BATCH)
        )
    with collector(folder) as running, closing(Sender(running)) as sender:
        for first in waiting:
            sender.send(batch(first))
    there = stored(folder / "collector.db")
    return {
        "collector_kill9_trials": trials,
        "collector_kill9_events": number,
        "collector_lost": lost + sum(event not in there for event in range(number)),
        "collector_duplicated": sum(count - 1 for count in there.values()),
    }


def _kill(process: subprocess.Popen[bytes], until: float) -> None:
    time.sleep(max(until - time.monotonic(), 0))
    process.send_signal(signal.SIGKILL)


def stored(path: Path) -> dict[int, int]:
    """How often each number is in the database."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("select request_id, count(*) from opportunities group by 1")
        return {int(name.removeprefix("event-")): count for name, count in rows}


def measure(folder: Path, *, trials: int, seed: int) -> dict[str, Any]:
    """All numbers, on SQLite; on PostgreSQL too where it is installed."""
    from benchmarks import postgres

    (folder / "speed").mkdir()
    (folder / "kill").mkdir()
    found = throughput(folder / "speed", 400)
    result: dict[str, Any] = {
        "collector_events_per_s": round(found["events_per_s"]),
        "collector_p95_ms": round(found["p95_ms"], 1),
        **kill_trials(folder / "kill", trials, seed),
    }
    if postgres.find() is not None:
        with postgres.running() as url:
            found = throughput(folder / "speed", 400, url)
        result["collector_postgres_events_per_s"] = round(found["events_per_s"])
        result["collector_postgres_p95_ms"] = round(found["p95_ms"], 1)
    return result
