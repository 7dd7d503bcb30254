"""JSON-RPC as the specifications want it, on top of pygls.

pygls drops a message that it cannot read, and the client waits forever. Here every request
gets an answer: JSON-RPC 2.0 section 5.1, LSP 3.18 "Base Protocol" and "Lifecycle".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any

from cattrs import Converter, transform_error
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol, lsp_method
from pygls.protocol.json_rpc import JsonRPCNotification, JsonRPCRequestMessage

from lsp_server.documents import Documents, Encoding
from lsp_server.notebooks import Notebooks

logger = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
SERVER_NOT_INITIALIZED = -32002


def _nothing() -> None:
    """For servers that do not want to know."""


class Protocol(LanguageServerProtocol):
    """Answers what is malformed, follows documents itself, and knows its exit status."""

    def __init__(self, server: LanguageServer, converter: Converter) -> None:
        super().__init__(server, converter)
        for kind in (str, int):
            converter.register_structure_hook(kind, self._read_plain)
        self.documents = Documents()
        self.notebooks = Notebooks(self.documents)
        self.exit_status = 1
        """What the process ends with: 1 unless `shutdown` came before `exit`."""
        self.on_edit: Callable[[], None] = _nothing
        """Called as soon as the client has edited something, before the edit is applied."""
        self._initialized = False

    # Reading ---------------------------------------------------------------------------

    def structure_message(self, data: dict[str, Any]) -> dict[str, Any]:
        """Leave objects as they are: pygls calls this for every nested one as well."""
        return data

    def _read_plain(self, value: object, kind: type[Any]) -> Any:  # noqa: ANN401 - whatever `kind` is
        """A text, a number, a truth value or an enum of those, as it is.

        cattrs would make a text of anything: null in an edit became the text "None". What a client
        says of itself is still read so; better a wrong capability than no server.

        Raises:
            TypeError: `value` is not of the JSON type that `kind` is written in.
        """
        if self._initialized and not issubclass(kind, bool):
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # JSON knows no difference
            json_type = str if issubclass(kind, str) else int
            if isinstance(value, bool) or not isinstance(value, json_type):
                raise TypeError(f"{value!r:.40} is not a {json_type.__name__}")
        return kind(value)

    def handle_message(self, message: object) -> None:
        """Check one decoded message and hand it to its feature."""
        if not isinstance(message, dict) or message.get("jsonrpc") != self.VERSION:
            msg_id = message.get("id") if isinstance(message, dict) else None
            self._refuse(msg_id, INVALID_REQUEST, "not a JSON-RPC 2.0 message")
        elif "method" not in message:
            self._handle_reply(message)
        elif "id" in message:
            self._handle_incoming_request(message)
        else:
            self._handle_incoming_notification(message)

    def _handle_reply(self, message: dict[str, Any]) -> None:
        """Hand a reply to whoever asked, as plain JSON: what it must look like is theirs to say.

        Replies to questions nobody asked are dropped; their ids may be those of the client's own
        requests.
        """
        msg_id = message.get("id")
        future = None
        if isinstance(msg_id, str) and self._result_types.pop(msg_id, None) is not None:
            future = self._request_futures.pop(msg_id, None)
        if future is None or future.done():
            logger.warning("ignoring a reply to nothing")
        elif "error" in message:
            future.set_exception(JsonRpcException(f"the client refused: {message['error']}"))
        else:
            future.set_result(message.get("result"))

    def _handle_incoming_request(self, message: dict[str, Any]) -> None:
        msg_id, method = message["id"], message["method"]
        if not isinstance(msg_id, str | int) or not isinstance(method, str):
            self._refuse(None, INVALID_REQUEST, "id or method has the wrong type")
        elif self._shutdown or (self._initialized and method == types.INITIALIZE):
            self._refuse(msg_id, INVALID_REQUEST, f"{method} is not expected now")
        elif not self._initialized and method != types.INITIALIZE:
            self._refuse(msg_id, SERVER_NOT_INITIALIZED, "initialize comes first")
        elif not self._knows(method):
            self._refuse(msg_id, METHOD_NOT_FOUND, f"unknown method {method}")
        elif (request := self._read(message, JsonRPCRequestMessage)) is not None:
            super().handle_message(request)

    def _handle_incoming_notification(self, message: dict[str, Any]) -> None:
        method = message["method"]
        if not isinstance(method, str) or not self._knows(method):
            logger.debug("ignoring the notification %r", method)
        elif method != types.EXIT and not self._initialized:
            logger.warning("ignoring %s before initialize", method)
        elif (notification := self._read(message, JsonRPCNotification)) is not None:
            super().handle_message(notification)

    def _knows(self, method: str) -> bool:
        known = (self.fm.builtin_features, self.fm.features, (types.CANCEL_REQUEST,))
        return any(method in names for names in known)

    def _read(self, message: dict[str, Any], custom: type[Any]) -> Any:  # noqa: ANN401 - pygls's message types share no base
        """The typed message, or None if its params are malformed and were answered so.

        Params of methods that LSP does not define stay plain JSON values.
        """
        method, params = message["method"], message.get("params")
        message_type = self.get_message_type(method)
        if message_type is None:
            header = {"id": message["id"]} if "id" in message else {}
            return custom(**header, method=method, jsonrpc=self.VERSION, params=params)
        if method == types.TEXT_DOCUMENT_INLINE_COMPLETION:
            _accept_editor_trigger(params)
        try:
            return self._converter.structure(message, message_type)
        except Exception as error:
            detail = "; ".join(transform_error(error, path="message"))
            self._refuse(message.get("id"), INVALID_PARAMS, f"{method}: {detail}")
            return None

    def _refuse(self, msg_id: str | int | None, code: int, reason: str) -> None:
        """Answer with an error; a notification (no id) is only logged unless it is unreadable."""
        logger.warning("refused a message: %s", reason)
        if msg_id is not None or code in (PARSE_ERROR, INVALID_REQUEST):
            # Not the typed message: it would leave out an id of null, which JSON-RPC wants.
            error = {"code": code, "message": reason}
            self._send_data({"jsonrpc": self.VERSION, "id": msg_id, "error": error})

    def refuse_unreadable(self, error: Exception) -> None:
        """Answer bytes that are no JSON."""
        self._refuse(None, PARSE_ERROR, f"unreadable message: {error}")

    # Lifecycle -------------------------------------------------------------------------

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(
        self, params: types.InitializeParams
    ) -> Generator[Any, Any, types.InitializeResult]:
        """Negotiate; requests are served from now on."""
        result = yield from super().lsp_initialize(params)
        encoding = result.capabilities.position_encoding
        self.documents = Documents(Encoding(encoding or types.PositionEncodingKind.Utf16))
        self.notebooks = Notebooks(self.documents)
        self._initialized = True
        return result

    @lsp_method(types.EXIT)
    def lsp_exit(self, *args: object) -> Generator[Any, Any, None]:
        """End the process, with 0 only after `shutdown`."""
        self.exit_status = 0 if self._shutdown else 1
        yield from super().lsp_exit(*args)

    # Documents: pygls would split lines at form feeds and read files that are not open ----

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Follow a document."""
        item = params.text_document
        self.documents.open(item.uri, item.text, item.language_id)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Tell `on_edit`, then apply changes in order.

        Raises:
            DocumentError: the document is not open.
        """
        self.on_edit()
        self.documents.change(params.text_document.uri, params.content_changes)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(
        self, params: types.DidCloseTextDocumentParams
    ) -> Generator[Any, Any, None]:
        """Stop following a document, then tell the feature."""
        self.documents.close(params.text_document.uri)
        if (handler := self.fm.features.get(types.TEXT_DOCUMENT_DID_CLOSE)) is not None:
            yield handler, (params,), None

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def lsp_notebook_document__did_open(self, params: types.DidOpenNotebookDocumentParams) -> None:
        """Follow a notebook's cells."""
        self.notebooks.open(params)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def lsp_notebook_document__did_change(
        self, params: types.DidChangeNotebookDocumentParams
    ) -> None:
        """Tell `on_edit`, then apply a change of cells.

        Raises:
            DocumentError: a changed cell is not open.
        """
        self.on_edit()
        self.notebooks.change(params)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def lsp_notebook_document__did_close(
        self, params: types.DidCloseNotebookDocumentParams
    ) -> Generator[Any, Any, None]:
        """Stop following a notebook, then tell the feature."""
        self.notebooks.close(params)
        if (handler := self.fm.features.get(types.NOTEBOOK_DOCUMENT_DID_CLOSE)) is not None:
            yield handler, (params,), None


def _accept_editor_trigger(params: object) -> None:
    """Read trigger kind 0 as Invoked: clients of older libraries send the editor's own 0 and 1."""
    context = params.get("context") if isinstance(params, dict) else None
    if isinstance(context, dict) and context.get("triggerKind") == 0:
        context["triggerKind"] = types.InlineCompletionTriggerKind.Invoked.value
