"""The server as a process, seen from the other end of its streams."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from lsp_server.server import AddressError, parse_address
from tests.lsp_server.client import TIMEOUT, Client, RpcError, read_message, stub_command
from tests.lsp_server.client import write_message as write

URI = "file:///project/a.py"
COMMANDS = ["snowcoder.accept", "snowcoder.why", "snowcoder.pause", "snowcoder.resume"]


def inserted(items: list[dict[str, Any]]) -> str:
    (item,) = items
    text: str = item["insertText"]
    return text


def code_of(client: Client, method: str, **fields: Any) -> int:
    with pytest.raises(RpcError) as error:
        client.result(client.begin(method, **fields))
    return error.value.code


# Handshake -----------------------------------------------------------------------------


def test_capabilities() -> None:
    with Client(stub_command()) as client:
        capabilities = client.initialize()
        assert capabilities["inlineCompletionProvider"] == {}
        assert capabilities["executeCommandProvider"]["commands"] == COMMANDS
        assert capabilities["textDocumentSync"]["openClose"] is True
        assert capabilities["textDocumentSync"]["change"] == 2
        assert client.leave() == 0


@pytest.mark.parametrize(
    ("encodings", "chosen", "character"),
    [
        (["utf-8", "utf-16"], "utf-8", 4 + 4 + 2 + 3 + 1),
        (["utf-16"], "utf-16", 4 + 2 + 1 + 1 + 1),
        (["utf-32"], "utf-32", 4 + 1 + 1 + 1 + 1),
        (["ebcdic"], "utf-16", 4 + 2 + 1 + 1 + 1),
    ],
)
def test_positions_in_the_negotiated_encoding(
    encodings: list[str], chosen: str, character: int
) -> None:
    with Client(stub_command()) as client:
        assert client.initialize(encodings=encodings)["positionEncoding"] == chosen
        client.open(URI, "😀é\ns = 😀é漢xrest\n")
        (item,) = client.complete(URI, 1, character)
        assert item["insertText"] == "S = 😀É漢X"
        place = {"line": 1, "character": character}
        assert item["range"] == {"start": place, "end": place}


def test_exit_without_shutdown_is_an_error(client: Client) -> None:
    client.notify("exit", None)
    assert client.process.wait(TIMEOUT) == 1


def test_a_lost_client_ends_the_server_even_while_it_decodes(client: Client) -> None:
    client.open(URI, "slow")
    client.begin_complete(URI, 0, 4)
    assert client.process.stdin is not None
    client.process.stdin.close()
    assert client.process.wait(TIMEOUT) == 1


@pytest.mark.parametrize("attempt", range(5))
def test_a_server_that_is_still_loading_its_model_ends_in_order(attempt: int) -> None:
    command = [sys.executable, "-I", "-m", "lsp_server", "serve"]
    with Client(command) as client:
        client.request("initialize", {"processId": None, "capabilities": {}})
        client.notify("initialized", {})
        client.request("shutdown", None)
        client.notify("exit", None)
        assert client.process.wait(TIMEOUT) == 0


# Typing and asking ---------------------------------------------------------------------


def test_typing_then_accepting(client: Client) -> None:
    client.open(URI, "x = 1\ny = ")
    client.insert(URI, 1, 4, "foo")
    (item,) = client.complete(URI, 1, 7)
    assert item["insertText"] == "Y = FOO"
    command = item["command"]
    assert command["command"] == "snowcoder.accept"
    client.request(
        "workspace/executeCommand",
        {"command": command["command"], "arguments": command["arguments"]},
    )
    client.insert(URI, 1, 7, "\ntold")
    assert inserted(client.complete(URI, 2, 4)) == "['id-1'] [] automatic"


@pytest.mark.parametrize(("kind", "trigger"), [(0, "invoked"), (1, "invoked"), (2, "automatic")])
def test_trigger_kinds(running: Client, kind: int, trigger: str) -> None:
    running.open(URI, "told")
    assert inserted(running.complete(URI, 0, 4, kind)).endswith(trigger)


@pytest.mark.parametrize("uri", ["untitled:Untitled-1", "git:/a.py?ref", "file:///ä%20b/c.py"])
def test_any_uri(running: Client, uri: str) -> None:
    running.open(uri, "ab")
    assert inserted(running.complete(uri, 0, 2)) == "AB"


def test_crlf_empty_and_past_the_end(running: Client) -> None:
    running.open(URI, "a\r\nbc\r\n")
    assert inserted(running.complete(URI, 1, 99)) == "BC"
    assert running.complete(URI, 99, 0) == []
    running.open("file:///empty.py", "")
    assert running.complete("file:///empty.py", 0, 0) == []


def test_a_document_that_is_not_open(client: Client) -> None:
    assert client.complete("file:///nowhere.py", 0, 0) == []
    client.insert("file:///nowhere.py", 0, 0, "x")
    client.open(URI, "ab")
    client.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert client.complete(URI, 0, 2) == []
    client.open(URI, "told")
    assert inserted(client.complete(URI, 0, 4)) == f"[] ['{URI}'] automatic"


def test_a_file_that_is_too_large(running: Client) -> None:
    running.open(URI, "x = 1\n" * 1_000_000)
    assert running.complete(URI, 500_000, 5) == []
    running.insert(URI, 500_000, 5, "2")
    assert running.complete(URI, 500_000, 6) == []


def test_an_item_extends_the_selected_menu_entry(running: Client) -> None:
    running.open(URI, "os.pa(1)")
    place = {"line": 0, "character": 5}
    selected = {"range": {"start": {"line": 0, "character": 3}, "end": place}, "text": "path"}
    (item,) = running.request(
        "textDocument/inlineCompletion",
        {
            "textDocument": {"uri": URI},
            "position": place,
            "context": {"triggerKind": 2, "selectedCompletionInfo": selected},
        },
    )
    assert item["insertText"] == "pathOS.PATH"
    assert item["range"] == selected["range"]


# One at a time -------------------------------------------------------------------------


def test_a_newer_request_supersedes(running: Client) -> None:
    running.open(URI, "slow\nquick")
    older = [running.begin_complete(URI, 0, 4) for _ in range(5)]
    newer = running.begin_complete(URI, 1, 5)
    assert [running.result(msg_id) for msg_id in older] == [None] * 5
    assert inserted(running.result(newer)) == "QUICK"


def test_cancelling(running: Client) -> None:
    running.open(URI, "slow\nquick")
    msg_id = running.begin_complete(URI, 0, 4)
    running.notify("$/cancelRequest", {"id": msg_id})
    with pytest.raises(RpcError) as error:
        running.result(msg_id)
    assert error.value.code == -32800
    assert inserted(running.complete(URI, 1, 5)) == "QUICK"


def test_shutdown_while_decoding(client: Client) -> None:
    client.open(URI, "slow")
    client.begin_complete(URI, 0, 4)
    assert client.leave() == 0


# Bad input -----------------------------------------------------------------------------

INLINE = "textDocument/inlineCompletion"
PLACE = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 0}}
ASKED = PLACE | {"context": {"triggerKind": 1}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"params": None},
        {"params": []},
        {"params": PLACE},
        {"params": PLACE | {"context": {"triggerKind": 9}}},
        {"params": PLACE | {"context": {"triggerKind": "x"}}},
        {"params": {"textDocument": {"uri": URI}, "context": {"triggerKind": 1}}},
        {
            "params": PLACE
            | {"context": {"triggerKind": 1}, "position": {"line": -1, "character": 0}}
        },
        {"params": ASKED | {"position": {"line": "0", "character": 0}}},
        {"params": ASKED | {"position": {"line": 0.5, "character": 0}}},
        {"params": ASKED | {"position": {"line": 0, "character": True}}},
        {"params": ASKED | {"textDocument": {"uri": None}}},
        {"params": ASKED | {"context": {"triggerKind": "1"}}},
    ],
)
def test_malformed_params_are_answered(running: Client, fields: dict[str, Any]) -> None:
    running.open(URI, "ab")
    assert code_of(running, INLINE, **fields) == -32602
    assert inserted(running.complete(URI, 0, 2)) == "AB"


@pytest.mark.parametrize("text", [None, 5, [], {}])
def test_an_edit_without_text_changes_nothing(running: Client, text: Any) -> None:
    running.open(URI, "ab")
    before = running.request("snowcoder/documents", None)[URI]
    document = {"uri": URI, "version": 1}
    params = {"textDocument": document, "contentChanges": [{"text": text}]}
    running.notify("textDocument/didChange", params)
    assert running.request("snowcoder/documents", None)[URI] == before


def test_whole_numbers_may_have_a_point(running: Client) -> None:
    running.open(URI, "ab")
    position = {"position": {"line": 0.0, "character": 2.0}}
    assert inserted(running.request(INLINE, ASKED | position)) == "AB"


@pytest.mark.parametrize("fields", [{}, {"params": {}}, {"params": {"class": 1}}])
def test_custom_requests_take_any_params(running: Client, fields: dict[str, Any]) -> None:
    running.open(URI, "ab")
    before = running.request("snowcoder/stats", None)["requests"]
    running.complete(URI, 0, 2)
    stats = running.result(running.begin("snowcoder/stats", **fields))
    assert stats["requests"] == before + 1
    assert stats["kv_mb"] == 1.5
    row = stats["last"][-1]
    assert row["outcome"] == "suggestion"
    assert row["received_ms"] > 0
    assert {"prefill_ms", "decode_ms", "total_ms", "prompt_tokens", "reused_tokens"} <= set(row)


def test_unknown_methods_and_commands(running: Client) -> None:
    assert code_of(running, "textDocument/hover", params=PLACE) == -32601
    assert code_of(running, "no/such", params={}) == -32601
    assert code_of(running, "workspace/executeCommand", params={"command": "nope"}) == -32602
    running.notify("$/unknown", {})
    running.notify("textDocument/didChange", {"nonsense": 1})
    running.open(URI, "ab")
    assert inserted(running.complete(URI, 0, 2)) == "AB"


@pytest.mark.parametrize(
    ("body", "msg_id", "code"),
    [
        (b"{nonsense", None, -32700),
        (b"\xff\xfe\x00", None, -32700),
        (b"[]", None, -32600),
        (b"17", None, -32600),
        (b'{"id": "odd"}', "odd", -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "shutdown"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "shutdown"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": "x", "method": 5}', None, -32600),
    ],
)
def test_messages_that_are_none(
    running: Client, body: bytes, msg_id: str | None, code: int
) -> None:
    running.open(URI, "ab")
    running.send_bytes(body)
    with pytest.raises(RpcError) as error:
        running.result(msg_id)
    assert error.value.code == code
    assert inserted(running.complete(URI, 0, 2)) == "AB"


def test_requests_out_of_order() -> None:
    with Client(stub_command()) as client:
        assert code_of(client, INLINE, params=PLACE) == -32002
        assert code_of(client, "initialize", params={}) == -32602
        client.initialize()
        assert code_of(client, "initialize", params={"capabilities": {}}) == -32600
        client.request("shutdown", None)
        assert code_of(client, INLINE, params=PLACE) == -32600


def test_errors_and_noise_inside_stay_inside(client: Client) -> None:
    client.open(URI, "boom\nshout\n")
    assert client.complete(URI, 0, 4) == []
    assert inserted(client.complete(URI, 1, 5)) == "SHOUT"
    assert client.leave() == 0


# Settings and weights ------------------------------------------------------------------


def test_a_model_that_does_not_load_gives_one_message() -> None:
    with Client(stub_command()) as client:
        client.initialize({"model": "broken"})
        message = client.notifications.get(timeout=TIMEOUT)
        assert message["method"] == "window/showMessage"
        assert message["params"]["type"] == 1
        assert "the weights are broken" in message["params"]["message"]
        client.open(URI, "ab")
        assert client.complete(URI, 0, 2) == []
        assert client.complete(URI, 0, 2) == []
        assert client.notifications.empty()
        assert client.leave() == 0


def test_invalid_settings_give_one_message() -> None:
    with Client(stub_command()) as client:
        client.initialize({"deadlineMs": "soon", "threads": 0})
        message = client.notifications.get(timeout=TIMEOUT)["params"]
        assert message["type"] == 2
        assert "deadlineMs" in message["message"]
        assert "threads" in message["message"]
        client.open(URI, "ab")
        assert inserted(client.complete(URI, 0, 2)) == "AB"
        assert client.notifications.empty()


# TCP -----------------------------------------------------------------------------------


def test_one_client_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(stub_command(f"127.0.0.1:{port}"), stdout=subprocess.PIPE)
    with process, _connect(port, process) as connection, connection.makefile("rwb") as stream:
        for body in (
            b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{}}}',
            b'{"jsonrpc":"2.0","id":2,"method":"shutdown"}',
            b'{"jsonrpc":"2.0","method":"exit"}',
        ):
            write(stream, body)
        messages = iter(lambda: read_message(stream), None)
        answers = [message["id"] for message in messages if "id" in message]
        assert answers == [1, 2]
        assert process.wait(TIMEOUT) == 0


def _connect(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    while process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        except ConnectionRefusedError:
            continue
    raise AssertionError("the server ended early")


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1:80", "127.0.0.1"), ("localhost:80", "localhost"), ("[::1]:80", "::1")],
)
def test_loopback_addresses(address: str, host: str) -> None:
    assert parse_address(address) == (host, 80)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0:80", "only on loopback"),
        ("[::]:80", "only on loopback"),
        ("example.org:80", "HOST:PORT"),
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:x", "HOST:PORT"),
        (":80", "HOST:PORT"),
        ("127.0.0.1:70000", "HOST:PORT"),
    ],
)
def test_other_addresses_are_refused(address: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        parse_address(address)


def test_a_wrong_address_ends_the_command() -> None:
    command = [sys.executable, "-I", "-m", "lsp_server", "serve", "--tcp", "0.0.0.0:80"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("snowcoder: --tcp serves without a password")
