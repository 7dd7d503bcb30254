"""Whatever comes in, a request is answered exactly once."""

from __future__ import annotations

import asyncio
import json
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsprotocol import types

from completion.types import CompletionRequest
from lsp_server.language_server import Loader
from lsp_server.server import SnowCoderServer, create_server
from lsp_server.session import Loaded
from tests.lsp_server.stub_server import StubEngine, load

URI = "file:///a.py"
METHODS = [
    types.TEXT_DOCUMENT_INLINE_COMPLETION,
    types.WORKSPACE_EXECUTE_COMMAND,
    types.TEXT_DOCUMENT_HOVER,
    "snowcoder/stats",
    "no/such",
    "",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def nearly(valid: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects like `valid` with some members missing or replaced by any JSON."""
    members = {
        name: (nearly(value) if isinstance(value, dict) else st.just(value)) | JSON
        for name, value in valid.items()
    }
    return st.fixed_dictionaries({}, optional=members)


PARAMS = nearly(
    {
        "textDocument": {"uri": URI},
        "position": {"line": 0, "character": 1},
        "context": {
            "triggerKind": 1,
            "selectedCompletionInfo": {
                "text": "ab",
                "range": {
                    "start": {"line": 0, "character": 0},
                    "end": {"line": 0, "character": 1},
                },
            },
        },
        "command": "snowcoder.accept",
        "arguments": ["id"],
    }
)


class Wire:
    """A server without a process: messages in, answers out."""

    def __init__(self, load: Loader = load) -> None:
        self.server: SnowCoderServer = create_server(load=load)
        self.answers: list[dict[str, Any]] = []
        self.server.protocol.set_writer(self, include_headers=False)
        asyncio.run(self.send(request(types.INITIALIZE, {"capabilities": {}})))
        item = {"uri": URI, "languageId": "python", "version": 0, "text": "a\n"}
        opened = {"jsonrpc": "2.0", "method": types.TEXT_DOCUMENT_DID_OPEN}
        asyncio.run(self.send(opened | {"params": {"textDocument": item}}))

    def write(self, data: bytes) -> None:
        self.answers.append(json.loads(data))

    def close(self) -> None:
        self.server.session.close()

    async def send(self, message: object) -> list[dict[str, Any]]:
        """Deliver a message; returns what was answered once nothing is left to do."""
        self.answers.clear()
        self.server.protocol.handle_message(message)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)
        return list(self.answers)


@pytest.fixture(scope="module")
def wire() -> Any:
    wire = Wire()
    yield wire
    wire.close()


def request(method: object, params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


@settings(deadline=None)
@given(st.sampled_from(METHODS) | JSON, PARAMS | JSON)
def test_every_request_is_answered_once(wire: Wire, method: object, params: object) -> None:
    (answer,) = asyncio.run(wire.send(request(method, params)))
    known = isinstance(method, str)
    assert answer["id"] == (7 if known else None)
    if "error" in answer:
        assert answer["error"]["code"] in (-32600, -32601, -32602)


@settings(deadline=None)
@given(PARAMS)
def test_valid_parts_of_a_request_survive(wire: Wire, params: dict[str, Any]) -> None:
    """A request is refused if and only if something LSP requires is missing or wrong."""
    (answer,) = asyncio.run(wire.send(request(types.TEXT_DOCUMENT_INLINE_COMPLETION, params)))
    complete = {"textDocument", "position", "context"} <= set(params)
    assert "error" in answer or complete


@settings(deadline=None)
@given(st.sampled_from(["$/cancelRequest", "textDocument/didChange", "no/such"]), PARAMS | JSON)
def test_notifications_are_never_answered(wire: Wire, method: str, params: object) -> None:
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    assert asyncio.run(wire.send(message)) == []


class Lingering(StubEngine):
    """Works ahead until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: SimpleQueue[CompletionRequest] = SimpleQueue()

    def prepare(self, request: CompletionRequest) -> None:
        self.begun.put(request)
        request.cancel.wait()


EDIT = {"textDocument": {"uri": URI, "version": 1}, "contentChanges": [{"text": "ab\n"}]}
CELLS = {"notebookDocument": {"uri": "file:///a.ipynb", "version": 1}, "change": {}}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (types.TEXT_DOCUMENT_DID_CHANGE, EDIT),
        (
            types.TEXT_DOCUMENT_DID_CHANGE,
            EDIT | {"textDocument": {"uri": "file:///b.py", "version": 1}},
        ),
        (types.NOTEBOOK_DOCUMENT_DID_CHANGE, CELLS),
    ],
)
def test_an_edit_ends_work_ahead_without_a_request(method: str, params: Any) -> None:
    engine = Lingering()
    wire = Wire(lambda model, threads: Loaded(engine, int))

    async def work_ahead() -> bool:
        session = wire.server.session
        session.prepare(CompletionRequest("a\n", 1))
        ahead = await asyncio.to_thread(engine.begun.get)
        assert not ahead.cancel.is_set()
        wire.server.protocol.handle_message({"jsonrpc": "2.0", "method": method, "params": params})
        ended = ahead.cancel.is_set()
        session.close()
        return ended

    assert asyncio.run(work_ahead())


WRONG: list[Any] = [None, [], 5, {}]


@pytest.mark.parametrize("params", WRONG)
@pytest.mark.parametrize(
    "method",
    [types.TEXT_DOCUMENT_INLINE_COMPLETION, types.WORKSPACE_EXECUTE_COMMAND],
)
def test_requests_with_malformed_params_are_refused(wire: Wire, method: str, params: Any) -> None:
    (answer,) = asyncio.run(wire.send(request(method, params)))
    assert answer["error"]["code"] == -32602


@pytest.mark.parametrize("params", WRONG)
def test_notifications_with_malformed_params_change_nothing(wire: Wire, params: Any) -> None:
    features = wire.server.protocol.fm
    names = set(features.builtin_features) | set(features.features)
    for method in sorted(names - {types.EXIT, types.SHUTDOWN, types.INITIALIZE}):
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        assert asyncio.run(wire.send(message)) == [], method
    place = {
        "textDocument": {"uri": URI},
        "position": {"line": 0, "character": 1},
        "context": {"triggerKind": 1},
    }
    sent = asyncio.run(wire.send(request(types.TEXT_DOCUMENT_INLINE_COMPLETION, place)))
    # The server's own messages, such as its status, may come along.
    (answer,) = [one for one in sent if one.get("id") == 7]
    assert "error" not in answer
