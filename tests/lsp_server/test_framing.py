from __future__ import annotations

import asyncio
import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.framing import FrameReader, Stream, read_body
from tests.lsp_server.client import Client, RpcError

GOOD = b"Content-Length: 2\r\n\r\n{}"


def bodies(data: bytes) -> list[bytes]:
    stream, found = io.BytesIO(data), []
    while body := read_body(stream):
        found.append(body)
    return found


async def through_pygls(stream: Stream, most: int = 1000) -> list[bytes]:
    """What pygls's own loop reads through a `FrameReader`."""
    reader, found = FrameReader(stream), []
    reader.start()
    while len(found) < most and (header := await reader.readline()):
        name, _, length = header.partition(b": ")
        assert name == b"Content-Length"
        assert await reader.readline() == b"\r\n"
        found.append(await reader.readexactly(int(length)))
        assert len(found[-1]) == int(length)
    return found


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 4\r\n",
        b"content-length:4\r\n",
        b"CONTENT-LENGTH : 4\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Type: x\r\n",
        b"rubbish\r\n\r\nContent-Length: 4\r\n",
        b'{"half a message": Content-Length: 4\r\n',
        b"Content-Length: -5\r\n\r\nContent-Length: 4\r\n",
        b"Content-Length: many\r\nContent-Length: 4\r\n",
        b"Content-Length: 9999999999\r\n\r\nContent-Length: 4\r\n",
        b"Content-Length: 0\r\n\r\nContent-Length: 4\r\n",
    ],
)
def test_spellings_and_rubbish(header: bytes) -> None:
    end = b"\n" if header.endswith(b"4\n") else b"\r\n"
    assert bodies(header + end + b"null" + GOOD)[-2:] == [b"null", b"{}"]


@given(st.binary(max_size=60).filter(lambda data: b":" not in data))
def test_after_any_rubbish_the_next_messages_are_found(rubbish: bytes) -> None:
    assert bodies(rubbish + b"\n" + GOOD + GOOD) == [b"{}", b"{}"]


async def test_messages_come_in_their_order_however_many() -> None:
    sent = [b"%d" % number for number in range(1, 500)]
    frames = b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in sent)
    assert await through_pygls(io.BytesIO(frames)) == sent


class Slow:
    """A stream that ends, or breaks, when the test says so."""

    def __init__(self, error: OSError | None) -> None:
        self.more = threading.Event()
        self._first = io.BytesIO(GOOD)
        self._error = error

    def readline(self) -> bytes:
        if line := self._first.readline():
            return line
        self.more.wait()
        if self._error is not None:
            raise self._error
        return b""

    def read(self, size: int, /) -> bytes:
        return self._first.read(size)


@pytest.mark.parametrize("error", [None, OSError(5, "the terminal is gone")])
async def test_waiting_for_a_message_holds_nothing_up(error: OSError | None) -> None:
    stream = Slow(error)
    reading = asyncio.create_task(through_pygls(stream))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not reading.done()
    stream.more.set()
    assert await reading == [b"{}"]


def test_an_editor_that_sends_faster_than_is_handled_waits() -> None:
    stream = io.BytesIO(GOOD * 1000)

    async def read_one() -> None:
        assert await through_pygls(stream, 1) == [b"{}"]

    asyncio.run(read_one())
    assert stream.tell() < 100 * len(GOOD)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"id": ' + b"1" * 5000 + b"}", b'"\xff"', b"\x00", b'{"a": }']
)
def test_unreadable_bodies_are_answered(running: Client, body: bytes) -> None:
    running.send_bytes(body)
    with pytest.raises(RpcError) as error:
        running.result(None)
    assert error.value.code == -32700
    assert running.request("snowcoder/stats", None)["requests"] >= 0
