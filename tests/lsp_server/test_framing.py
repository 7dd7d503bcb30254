from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.framing import FrameReader
from tests.lsp_server.client import Client, RpcError

GOOD = b"Content-Length: 2\r\n\r\n{}"


def bodies(data: bytes) -> list[bytes]:
    """What pygls's own loop reads through a `FrameReader`."""
    reader, found = FrameReader(io.BytesIO(data)), []
    while header := reader.readline():
        name, _, length = header.partition(b": ")
        assert name == b"Content-Length"
        assert reader.readline() == b"\r\n"
        found.append(reader.read(int(length)))
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


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"id": ' + b"1" * 5000 + b"}", b'"\xff"', b"\x00", b'{"a": }']
)
def test_unreadable_bodies_are_answered(running: Client, body: bytes) -> None:
    running.send_bytes(body)
    with pytest.raises(RpcError) as error:
        running.result(None)
    assert error.value.code == -32700
    assert running.request("snowcoder/stats", None)["requests"] >= 0
