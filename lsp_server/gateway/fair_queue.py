"""Turns: clients are served one after the other, however many requests each of them has."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """There is no place for another request; the message says whose limit it is."""


class FairQueue(Generic[T]):
    """A first-in-first-out queue per client, taken from in turn."""

    def __init__(self, most: int, most_per_client: int) -> None:
        """Hold at most so many items in all, and of one client."""
        self._most = most
        self._most_per_client = most_per_client
        self._by_client: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, client: str, item: T) -> None:
        """Add `item` behind the client's others.

        Raises:
            QueueFullError: there are too many of them already.
        """
        if self._length >= self._most:
            raise QueueFullError(f"{self._length} requests wait already")
        mine = self._by_client.get(client)
        if mine is not None and len(mine) >= self._most_per_client:
            raise QueueFullError(f"{len(mine)} requests of this client wait already")
        self._by_client.setdefault(client, deque()).append(item)
        self._length += 1

    def take(self) -> T | None:
        """The first item of the client whose turn it is; None where nothing waits."""
        if not self._by_client:
            return None
        client, mine = self._by_client.popitem(last=False)
        item = mine.popleft()
        if mine:
            self._by_client[client] = mine
        self._length -= 1
        return item

    def replace(self, client: str, item: T, newer: T) -> bool:
        """Put `newer` where `item` waits, the turn is kept; whether it was still there."""
        mine = self._by_client.get(client)
        if mine is None or item not in mine:
            return False
        mine[mine.index(item)] = newer
        return True

    def remove(self, client: str, item: T) -> bool:
        """Take `item` out; whether it was still there."""
        mine = self._by_client.get(client)
        if mine is None or item not in mine:
            return False
        mine.remove(item)
        if not mine:
            del self._by_client[client]
        self._length -= 1
        return True
