"""Who sent a request, and which of its documents it is about; neither protocol says the latter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from starlette.requests import Request

CLIENT_HEADER = "x-client-id"
_NAME_LENGTH = 128
_DOCUMENTS = 8
_CLIENTS = 256
_COMPARED = 4096
"""Characters at each side of the cursor that tell documents apart."""


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from.

    Attributes:
        name: what the client calls itself (`X-Client-Id`, or `user` of the OpenAI protocol); only
            such a client has its older request superseded by its newer one.
        connection: the TCP connection.
        host: address of the machine.
    """

    name: str
    connection: str
    host: str

    @property
    def turn(self) -> str:
        """Who takes turns: clients without a name by connection."""
        return f"name {self.name}" if self.name else f"connection {self.connection}"

    @property
    def owner(self) -> str:
        """Whose documents are told apart by text: curl opens a connection for every request."""
        return f"name {self.name}" if self.name else f"host {self.host}"


def client_of(request: Request, user: str | None = None) -> Client:
    """The client of a request whose body names `user`."""
    host, port = request.client or ("?", 0)
    name = (request.headers.get(CLIENT_HEADER) or user or "")[:_NAME_LENGTH]
    return Client(name, f"{host}:{port}", host)


def _shared(a: str, b: str) -> int:
    """Length of the common beginning, by bisection: comparing slices is fast."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


@dataclass(slots=True)
class _Document:
    uri: str
    before: str
    after: str
    """Backwards: its end comes first."""

    def likeness(self, before: str, after: str) -> float:
        """Share of what can be compared that is the same; `after` is backwards, too.

        Compared are the beginnings: editors send a fixed number of lines around the cursor, so
        while one line is typed the text differs only at the cursor.
        """
        most = min(len(self.before), len(before)) + min(len(self.after), len(after))
        same = _shared(self.before, before) + _shared(self.after, after)
        return same / most if most else 0.0


class Documents:
    """Names the documents of clients, so that each has its KV cache.

    A wrong guess costs time, never correctness: a cache is used as far as its tokens are the
    prompt's.
    """

    def __init__(self, forget: Callable[[str], None]) -> None:
        """`forget` is told the URIs that are given up, the least recently used ones."""
        self._forget = forget
        self._by_owner: OrderedDict[str, list[_Document]] = OrderedDict()
        self._numbers = count()

    def find(self, owner: str, prefix: str, suffix: str) -> str:
        """URI of the owner's document that holds this text, a new one where none is like it."""
        before, after = prefix[:_COMPARED], suffix[-_COMPARED:][::-1]
        known = self._by_owner.setdefault(owner, [])
        self._by_owner.move_to_end(owner)
        likenesses = [one.likeness(before, after) for one in known]
        most = max(likenesses, default=0.0)
        if most >= 0.5:
            best = known.pop(likenesses.index(most))
            best.before, best.after = before, after
        else:
            best = _Document(f"gateway:{next(self._numbers)}", before, after)
        known.insert(0, best)
        while len(known) > _DOCUMENTS:
            self._forget(known.pop().uri)
        while len(self._by_owner) > _CLIENTS:
            for document in self._by_owner.popitem(last=False)[1]:
                self._forget(document.uri)
        return best.uri
