from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from completion.types import (
    CompletionRequest,
    Hidden,
    HiddenReason,
    Outcome,
    Record,
    Source,
    Suggestion,
    Trigger,
)
from lsp_server.power import Power
from lsp_server.server import create_server
from lsp_server.session import Loaded, Session
from lsp_server.settings import OnBattery, Settings


@dataclass
class Gate:
    """An engine whose answers the test lets through."""

    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    seen: list[CompletionRequest] = field(default_factory=list)
    prepared: queue.SimpleQueue[CompletionRequest] = field(default_factory=queue.SimpleQueue)

    def complete(self, request: CompletionRequest) -> Outcome:
        self.seen.append(request)
        self.entered.set()
        while not self.open.wait(0.001):
            if request.cancel.is_set():
                return Hidden(HiddenReason.CANCELLED, "cancelled", Record())
        if request.text == "boom":
            raise RuntimeError("boom")
        record = Record(source=Source.MODEL)
        return Suggestion("id", request.text + "!", request.offset, request.offset, record)

    def prepare(self, request: CompletionRequest) -> None:
        self.prepared.put(request)
        if request.text == "long":
            request.cancel.wait()
        if request.text == "boom ahead":
            raise RuntimeError("the session must survive this")

    def accepted(self, suggestion_id: str) -> None:
        raise RuntimeError("the session must survive this")

    def dismissed(self, suggestion_id: str) -> None:
        raise RuntimeError("the session must survive this too")

    def forget(self, uri: str) -> None:
        self.seen = [request for request in self.seen if request.uri != uri]


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def session(gate: Gate) -> AsyncIterator[Session]:
    session = Session(lambda: Loaded(gate, lambda: 3_000_000), lambda error: None)
    session.start()
    yield session
    await asyncio.to_thread(session.close)


def ask(session: Session, text: str, **fields: object) -> asyncio.Task[Outcome | None]:
    request = CompletionRequest(text=text, offset=len(text), **fields)  # type: ignore[arg-type]
    return asyncio.create_task(session.complete(request))


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.wait)


async def test_answers_with_the_outcome(session: Session, gate: Gate) -> None:
    gate.open.set()
    outcome = await ask(session, "x")
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "x!"


async def test_a_newer_request_ends_a_running_one(session: Session, gate: Gate) -> None:
    older = ask(session, "old")
    await entered(gate)
    newer = ask(session, "new")
    assert await older is None
    assert gate.seen[0].cancel.is_set()
    gate.open.set()
    outcome = await newer
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "new!"


async def test_superseded_requests_never_reach_the_engine(session: Session, gate: Gate) -> None:
    first = ask(session, "0")
    await entered(gate)
    waiting = [ask(session, str(i)) for i in range(1, 6)]
    assert await asyncio.gather(first, *waiting[:-1]) == [None] * 5
    gate.open.set()
    assert isinstance(await waiting[-1], Suggestion)
    assert [request.text for request in gate.seen] == ["0", "5"]


async def test_a_cancelled_request_stops_its_decode(session: Session, gate: Gate) -> None:
    task = ask(session, "x")
    await entered(gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.seen[0].cancel.is_set()
    gate.open.set()
    assert isinstance(await ask(session, "y"), Suggestion)


async def test_errors_inside_are_hidden_and_survived(session: Session, gate: Gate) -> None:
    gate.open.set()
    outcome = await ask(session, "boom")
    assert isinstance(outcome, Hidden)
    assert outcome.reason is HiddenReason.ERROR
    await session.accepted("id")
    assert isinstance(await ask(session, "x"), Suggestion)


async def test_waiting_for_the_model_does_not_count_against_the_deadline() -> None:
    gate, may_load = Gate(), threading.Event()
    gate.open.set()

    def load() -> Loaded:
        may_load.wait()
        return Loaded(gate, lambda: 0)

    session = Session(load, lambda error: None)
    session.start()
    task = ask(session, "x", received=0.0)
    await asyncio.sleep(0)
    may_load.set()
    assert isinstance(await task, Suggestion)
    assert gate.seen[0].received is not None
    assert gate.seen[0].received > 0
    await asyncio.to_thread(session.close)


async def test_without_a_model_everything_is_hidden() -> None:
    def load() -> Loaded:
        raise OSError("no weights")

    failures: asyncio.Queue[Exception] = asyncio.Queue()
    session = Session(load, failures.put_nowait)
    session.start()
    outcome = await ask(session, "x")
    assert isinstance(outcome, Hidden)
    assert outcome.reason is HiddenReason.ERROR
    assert str(await failures.get()) == "no weights"
    await session.forget("file:///x")
    await asyncio.to_thread(session.close)


async def test_closing_forgets_and_stats_count(session: Session, gate: Gate) -> None:
    gate.open.set()
    await ask(session, "x", uri="untitled:1", received=1.5)
    await ask(session, "boom", uri="untitled:2", received=2.5)
    await session.forget("untitled:1")
    assert [request.uri for request in gate.seen] == ["untitled:2"]
    stats = session.stats()
    assert (stats["requests"], stats["model_calls"], stats["kv_mb"]) == (2, 1, 3.0)
    outcomes = [(row["outcome"], row["reason"]) for row in stats["last"]]
    assert outcomes == [("suggestion", None), ("hidden", "error")]


async def test_the_engine_works_ahead_once_the_user_rests(session: Session, gate: Gate) -> None:
    gate.open.set()
    await ask(session, "x", uri="untitled:1")
    ahead = await asyncio.to_thread(gate.prepared.get)
    assert (ahead.text, ahead.uri) == ("x", "untitled:1")
    assert gate.prepared.empty()


async def test_nothing_is_done_ahead_where_it_may_not(gate: Gate) -> None:
    may = [False, True]
    session = Session(lambda: Loaded(gate, int), lambda error: None, may_work_ahead=may.pop)
    session.start()
    gate.open.set()
    for text in ("may", "may not"):
        request = CompletionRequest(text=text, offset=0)
        assert isinstance(await session.complete(request), Suggestion)
        session.prepare(request)
    await asyncio.to_thread(session.close)
    assert not may, "it was asked both times"
    assert gate.prepared.get().text == "may"
    assert gate.prepared.empty()


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        (OnBattery.ALWAYS, []),
        (OnBattery.INVOKED, [Trigger.AUTOMATIC]),
        (OnBattery.NEVER, [Trigger.AUTOMATIC, Trigger.INVOKED]),
    ],
)
async def test_on_battery_nothing_is_done_ahead_and_suggested_what_the_user_wants(
    gate: Gate, setting: OnBattery, refused: list[Trigger]
) -> None:
    server = create_server(load=lambda model, threads: Loaded(gate, int))
    server.power, server.settings = Power(lambda: True), Settings(on_battery=setting)
    assert [one for one in Trigger if server.refusal("file:///a.py", one)] == refused
    server.session.start()
    gate.open.set()
    request = CompletionRequest("x", 1)
    assert isinstance(await server.session.complete(request), Suggestion)
    server.session.prepare(request)
    await asyncio.to_thread(server.close)
    assert gate.prepared.empty()


async def test_work_ahead_yields_to_a_request(session: Session, gate: Gate) -> None:
    gate.open.set()
    for text in ("long", "boom ahead", "long"):
        await ask(session, text)
        ahead = await asyncio.to_thread(gate.prepared.get)
        assert ahead.text == text
    outcome = await ask(session, "x")
    assert ahead.cancel.is_set()
    assert isinstance(outcome, Suggestion)


async def test_without_a_rest_nothing_is_done_ahead(session: Session, gate: Gate) -> None:
    gate.open.set()
    for text in "abc":
        await ask(session, text)
    session.close()
    assert gate.prepared.empty()


async def test_closing_ends_work_ahead(session: Session, gate: Gate) -> None:
    gate.open.set()
    await ask(session, "long")
    await asyncio.to_thread(gate.prepared.get)
    await asyncio.to_thread(session.close)


# Faults ------------------------------------------------------------------------------------


class Faulty(Gate):
    """Ends its thread, or hangs, when the text says so."""

    release = threading.Event()

    def complete(self, request: CompletionRequest) -> Outcome:
        if request.text == "die":
            raise SystemExit
        if request.text == "hang":
            self.release.wait()
        return super().complete(request)


@pytest.mark.parametrize("fault", ["die", "hang"])
async def test_an_engine_that_is_lost_is_replaced_and_told_once(fault: str) -> None:
    engines: list[Faulty] = []
    failures: list[str] = []
    Faulty.release.clear()

    def load() -> Loaded:
        engines.append(Faulty())
        engines[-1].open.set()
        return Loaded(engines[-1], lambda: 0)

    session = Session(load, lambda error: failures.append(str(error)), answer_s=0.5, retry_s=0.0)
    session.start()
    assert isinstance(await ask(session, "before"), Suggestion)
    outcome = await ask(session, fault)
    assert isinstance(outcome, Hidden)
    assert outcome.reason is HiddenReason.ERROR
    assert isinstance(await ask(session, "after"), Suggestion)
    assert len(engines) == 2
    assert len(failures) == 1
    Faulty.release.set()
    await asyncio.to_thread(session.close)


async def test_what_failed_to_load_is_tried_again() -> None:
    gate, weights = Gate(), list[str]()
    gate.open.set()

    def load() -> Loaded:
        if not weights:
            raise OSError("the weights are gone")
        return Loaded(gate, lambda: 0)

    failures: list[Exception] = []
    session = Session(load, failures.append, retry_s=0.0)
    session.start()
    assert isinstance(await ask(session, "x"), Hidden)
    weights.append("there")
    assert isinstance(await ask(session, "x"), Suggestion)
    assert len(failures) == 1
    assert session.ready
    assert not session.loading
    await asyncio.to_thread(session.close)


async def test_an_engine_stays_while_another_cannot_be_loaded(session: Session, gate: Gate) -> None:
    gate.open.set()
    await ask(session, "x")
    session._load = lambda: (_ for _ in ()).throw(OSError("gone"))  # type: ignore[assignment]
    session.start()
    assert isinstance(await ask(session, "y"), Suggestion)


async def test_loading_that_never_ends_does_not_keep_requests_waiting() -> None:
    mounted = threading.Event()

    def load() -> Loaded:
        mounted.wait()
        raise OSError("gone")

    session = Session(load, lambda error: None, answer_s=0.05)
    session.start()
    outcome = await ask(session, "x")
    assert isinstance(outcome, Hidden)
    assert "still being loaded" in outcome.detail
    mounted.set()
    await asyncio.to_thread(session.close)


async def test_accepting_does_not_wait_for_a_long_decode(
    session: Session, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsp_server.session._CALL_S", 0.01)
    task = ask(session, "x")
    await entered(gate)
    await session.accepted("id")
    await session.dismissed("id")
    assert not task.done()
    gate.open.set()
    await task
