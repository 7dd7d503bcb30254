"""A remote engine that is killed in the middle of its answers; the local model is beside it."""

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
from benchmarks.servers import gateway
from benchmarks.trace import Session
from completion.engine import CompletionEngine
from completion.remote_engine import Order, RemoteEngine
from completion.types import CompletionRequest, DecodePolicy, HiddenReason, Policies, Suggestion
from models.backend import Backend
from models.circuit import CircuitBreaker
from models.remote import RemoteClient, RemoteConfig, RemoteRequest, RemoteText, _Answer

DEADLINE_MS = 400.0
_TRIES = 20
"""For each kill: most answers are short, and some end before the process does."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What the gateway that is killed runs: `model` as for `--model`."""

    model: str | None
    threads: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request got.

    Attributes:
        killed: the process ended while its answer was under way and not at its end.
        suggested: the local model alone suggests something here.
        shown: something was suggested.
        told: somebody said why nothing came.
        by_deadline: that the time was over is why.
        milliseconds: until there was an answer.
    """

    killed: bool
    suggested: bool
    shown: bool
    told: bool
    by_deadline: bool
    milliseconds: float


class _Doomed(RemoteClient):
    """Kills the process behind it so long after the first piece of its answer.

    It looks at what the client takes, since only that tells an answer that broke off from one
    that the client had whole.
    """

    def __init__(self, address: str, process: subprocess.Popen[bytes], seconds: float) -> None:
        # A breaker that never opens: every request shall reach the engine that is killed.
        super().__init__(RemoteConfig(address, ""), CircuitBreaker(sys.maxsize))
        self.killed = False
        self._process = process
        self._timer = threading.Timer(seconds, self._kill)
        self._under_way = self._began = self._ended = False
        self._lock = threading.Lock()

    def complete(self, request: RemoteRequest) -> RemoteText:
        """As of any client."""
        self._under_way = True
        try:
            return super().complete(request)
        finally:
            with self._lock:
                self._under_way = False
            self._timer.cancel()

    def _take(self, event: str, answer: _Answer) -> None:
        super()._take(event, answer)
        if answer.stop is not None:
            with self._lock:
                # Also if it was on its way when the process ended.
                self._ended, self.killed = True, False
        elif answer.text and not self._began:
            self._began = True
            self._timer.start()

    def _kill(self) -> None:
        with self._lock:
            if self._under_way and not self._ended:
                self._process.kill()
                self.killed = True


def kill_often(
    remote: Remote, backend: Backend, files: Sequence[Session], times: int, seed: int
) -> dict[str, Any]:
    """Ask at drawn places of the trace until the remote engine was killed so often.

    Raises:
        GatewayFailedError: the remote engine did not start.
    """
    draw = random.Random(seed)
    places = [(session, place) for session in files for place in session.places]
    asked: list[Asked] = []
    tried, give_up = 0, _TRIES * times
    while len(asked) < times and tried < give_up:
        with gateway(remote.model, remote.threads) as (address, process):
            while process.poll() is None and tried < give_up:
                tried += 1
                session, place = draw.choice(places)
                body, _ = draw.choice(list(bodies(session, place)))
                prefix, suffix = body["input_prefix"] + body["prompt"], body["input_suffix"]
                request = CompletionRequest(prefix + suffix, len(prefix), uri=f"file:{tried}")
                one = _ask(backend, request, address, process, draw)
                if one is not None and one.killed:
                    asked.append(one)
                    process.wait()
    lost = [one for one in asked if one.suggested and not one.shown]
    return {
        "tried": tried,
        "killed": len(asked),
        "lost": sum(one.told for one in lost),
        "lost_silently": sum(not one.told for one in lost),
        "hidden_by_deadline": sum(one.by_deadline for one in asked),
        "late": sum(one.milliseconds > DEADLINE_MS for one in asked),
        "latest_ms": round(max((one.milliseconds for one in asked), default=0.0), 1),
    }


def _ask(
    backend: Backend,
    request: CompletionRequest,
    address: str,
    process: subprocess.Popen[bytes],
    draw: random.Random,
) -> Asked | None:
    """Ask with the process dying; None where its answer has no middle to die in."""
    seconds = _length(request, address)
    if not seconds:
        return None
    local = CompletionEngine(backend)
    # Another document: what it reads is not in the caches of the request that is measured.
    alone = local.complete(_by(request, None, f"{request.uri}-alone"))
    local.forget(f"{request.uri}-alone")
    client = _Doomed(address, process, draw.uniform(0.0, seconds))
    engine = RemoteEngine(client, Order.REMOTE, local)
    began = time.perf_counter()
    outcome = engine.complete(_by(request, DEADLINE_MS, request.uri, began))
    milliseconds = (time.perf_counter() - began) * 1e3
    client.close()
    local.forget(request.uri)
    shown = isinstance(outcome, Suggestion)
    by_deadline = not isinstance(outcome, Suggestion) and outcome.reason is HiddenReason.DEADLINE
    return Asked(
        client.killed,
        isinstance(alone, Suggestion),
        shown,
        by_deadline or bool(engine.trouble),
        by_deadline,
        milliseconds,
    )


def _length(request: CompletionRequest, address: str) -> float | None:
    """Seconds from the first piece of the remote answer to its last; None where there is none.

    The remote engine has then read the document, as one has that was asked at the last key.
    """
    client = RemoteClient(RemoteConfig(address, ""))
    outcome = RemoteEngine(client, Order.REMOTE, None).complete(_by(request, None, request.uri))
    client.close()
    return outcome.record.decode_ms / 1e3 if outcome.record.generated_tokens > 1 else None


def _by(
    request: CompletionRequest,
    deadline_ms: float | None,
    uri: str,
    received: float | None = None,
) -> CompletionRequest:
    """The request with a deadline."""
    policies = Policies(decode=DecodePolicy(deadline_ms=deadline_ms))
    return CompletionRequest(
        request.text, request.offset, uri, policies=policies, received=received
    )
