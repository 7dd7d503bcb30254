"""A remote engine that is killed in the middle of every answer; the local model is beside it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gateway_clients import bodies
from benchmarks.trace import Session
from completion.engine import CompletionEngine
from completion.remote_engine import Order, RemoteEngine
from completion.types import CompletionRequest, DecodePolicy, HiddenReason, Policies, Suggestion
from models.backend import Backend
from models.circuit import CircuitBreaker
from models.remote import RemoteClient, RemoteConfig

DEADLINE_MS = 400.0
_SERVER = """
import socket, time
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
connection, _ = listening.accept()
connection.recv(65536)
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\n")
for _ in range(100):
    connection.sendall(b'data: {"id": "1", "choices": [{"text": "x"}]}\\n\\n')
    time.sleep(0.02)
"""
"""Streams a line that does not end, in a process of its own."""


@dataclass(frozen=True, slots=True)
class Killed:
    """What one request got.

    Attributes:
        lost: the local model alone suggests something here, and nobody said why nothing came.
        hidden: it came to nothing for the deadline.
        milliseconds: until there was an answer.
    """

    lost: bool
    hidden: bool
    milliseconds: float


def kill_often(backend: Backend, files: Sequence[Session], times: int, seed: int) -> dict[str, Any]:
    """Ask at drawn places of the trace, killing the remote engine at a drawn moment each time."""
    draw = random.Random(seed)
    places = [(session, place) for session in files for place in session.places]
    found = []
    for number in range(times):
        session, place = draw.choice(places)
        body, _ = draw.choice(list(bodies(session, place)))
        prefix = body["input_prefix"] + body["prompt"]
        found.append(_kill(backend, prefix, body["input_suffix"], str(number), draw))
    late = [one.milliseconds - DEADLINE_MS for one in found]
    return {
        "killed": times,
        "lost_silently": sum(one.lost for one in found),
        "hidden_by_deadline": sum(one.hidden for one in found),
        "late": sum(one > 0 for one in late),
        "latest_ms": round(max(one.milliseconds for one in found), 1),
    }


def _kill(backend: Backend, prefix: str, suffix: str, uri: str, draw: random.Random) -> Killed:
    policies = Policies(decode=DecodePolicy(deadline_ms=None))
    text, offset = prefix + suffix, len(prefix)
    # Another document: what it reads is not in the caches of the request that is measured.
    request = CompletionRequest(text, offset, f"alone-{uri}", policies=policies)
    local = CompletionEngine(backend)
    alone = local.complete(request)
    local.forget(request.uri)
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        # A breaker that never opens: every request shall reach the engine that is killed.
        client = RemoteClient(
            RemoteConfig(f"http://127.0.0.1:{port}", ""), CircuitBreaker(sys.maxsize)
        )
        engine = RemoteEngine(client, Order.REMOTE, local)
        killer = threading.Timer(draw.uniform(0.0, 0.6 * DEADLINE_MS / 1000), process.kill)
        policies = Policies(decode=DecodePolicy(deadline_ms=DEADLINE_MS))
        killer.start()
        began = time.perf_counter()
        outcome = engine.complete(
            CompletionRequest(text, offset, uri, policies=policies, received=began)
        )
        elapsed = (time.perf_counter() - began) * 1e3
        killer.cancel()
        process.kill()
        client.close()
        local.forget(uri)
    shown = isinstance(outcome, Suggestion)
    hidden = not isinstance(outcome, Suggestion) and outcome.reason is HiddenReason.DEADLINE
    silent = not shown and not hidden and not engine.trouble
    return Killed(isinstance(alone, Suggestion) and silent, hidden, elapsed)
