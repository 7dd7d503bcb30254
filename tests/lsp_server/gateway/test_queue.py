from __future__ import annotations

import asyncio
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.gateway.clients import Client, Documents
from lsp_server.gateway.config import GatewayConfig
from lsp_server.gateway.fair_queue import FairQueue, QueueFullError
from lsp_server.gateway.runner import Runner


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers()), max_size=40))
def test_everything_comes_out_once_and_in_turn(items: list[tuple[str, int]]) -> None:
    queue = FairQueue[tuple[str, int, int]](1000, 1000)
    for number, (client, value) in enumerate(items):
        queue.put(client, (client, value, number))
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
    assert len(queue) == 0
    assert sorted(item[2] for item in taken) == list(range(len(items)))
    left = Counter(client for client, _ in items)
    served = Counter[str]()
    for client, _, _ in taken:
        # Nobody is served a second time while somebody who waits was served less often.
        assert all(served[client] <= served[other] for other in left if left[other] > served[other])
        served[client] += 1
    for client in left:
        mine = [item[2] for item in taken if item[0] == client]
        assert mine == sorted(mine)


def test_limits_for_one_and_for_all() -> None:
    queue = FairQueue[int](3, 2)
    queue.put("a", 1)
    queue.put("a", 2)
    with pytest.raises(QueueFullError, match="of this client"):
        queue.put("a", 3)
    queue.put("b", 4)
    with pytest.raises(QueueFullError, match="3 requests wait"):
        queue.put("c", 5)
    assert queue.remove("a", 1)
    assert not queue.remove("a", 1)
    assert [queue.take(), queue.take(), queue.take()] == [2, 4, None]


def test_a_newer_item_takes_the_turn_of_the_older_one() -> None:
    queue = FairQueue[int](9, 9)
    for client, item in (("a", 1), ("b", 2), ("a", 3)):
        queue.put(client, item)
    assert queue.replace("a", 1, 4)
    assert not queue.replace("a", 1, 5)
    assert not queue.replace("c", 1, 5)
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == [4, 2, 3, None]


def test_documents_are_told_apart_by_their_text() -> None:
    gone: list[str] = []
    documents = Documents(gone.append)
    one = documents.find("x", "import os\n" * 20 + "a = ", "\nprint(a)\n" * 10)
    assert documents.find("x", "import os\n" * 20 + "a = os", "\nprint(a)\n" * 10) == one
    assert documents.find("y", "import os\n" * 20 + "a = ", "\nprint(a)\n" * 10) != one
    other = documents.find("x", "class A:\n" * 20, "")
    assert other != one
    for number in range(7):
        documents.find("x", f"{number}" * 50, "")
    assert gone == [one], "the least recently used one is given up"


def test_clients_without_a_name() -> None:
    first, second = Client("", "h:1", "h"), Client("", "h:2", "h")
    assert first.turn != second.turn
    assert first.owner == second.owner


class Forgetful:
    """In place of all that holds something for a document."""

    def __init__(self) -> None:
        self.forgot: list[str] = []
        self.event = threading.Event()

    def forget(self, uri: str) -> None:
        self.forgot.append(uri)
        self.event.set()


class Waiting:
    """A request whose client stays."""

    async def receive(self) -> None:
        await asyncio.Event().wait()


def test_memory_of_unused_documents_is_given_back_when_nobody_asks() -> None:
    engine, client = Forgetful(), Client("x", "h:1", "h")
    nothing = SimpleNamespace(forget=lambda uri: None)
    engines: Any = SimpleNamespace(suggest=engine, sent=nothing, continuer=nothing)
    request: Any = Waiting()

    async def ask(runner: Runner) -> None:
        uris = [runner.document(client, f"{number}" * 50, "") for number in range(10)]
        found = await runner.run(request, client, lambda cancel: list(engine.forgot))
        assert found.value == [], "the request that comes first does not wait for it"
        assert await asyncio.to_thread(engine.event.wait, 30)
        await runner.run(request, client, lambda cancel: None)
        assert engine.forgot == uris[:2]
        many = [runner.document(client, f"{number}" * 50, "") for number in range(10, 40)]
        found = await runner.run(request, client, lambda cancel: list(engine.forgot))
        assert found.value[2:] == [*uris[2:], *many][:14], "but not without end"

    runner = Runner(engines, GatewayConfig())
    try:
        asyncio.run(ask(runner))
    finally:
        runner.close()
