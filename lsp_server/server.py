"""The language server: wires LSP methods to documents and the session."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from completion.types import Suggestion
from lsp_server.inline import ACCEPT, Place, build_item, build_request, find_place
from lsp_server.loading import load_engine
from lsp_server.measure import start_measure
from lsp_server.protocol import Protocol
from lsp_server.session import Loaded, Session
from lsp_server.settings import Settings, read_settings

logger = logging.getLogger(__name__)

STATS = "snowcoder/stats"
"""Custom request: what the last requests did, for the latency benchmark."""

REPORT = "snowcoder/suggestion"
"""Custom notification: `id` and `event` of a suggestion, which is shown, dismissed or
partiallyAccepted (with `chars`). LSP has none."""

_ANY_FILE = types.FileOperationRegistrationOptions(
    filters=[types.FileOperationFilter(types.FileOperationPattern("**"), scheme="file")]
)

Loader = Callable[[str | None, int], Loaded]


class AddressError(ValueError):
    """`--tcp` was not HOST:PORT on the loopback interface."""


class SnowCoderServer(LanguageServer):
    """A pygls server with one engine behind it.

    Args:
        model: weights to load if the client names none; None for the packaged ones.
        threads: threads of one decode if the client gives no number.
        load: makes the engine of a model and a number of threads.
    """

    protocol: Protocol

    def __init__(self, model: str | None, threads: int, load: Loader = load_engine) -> None:
        super().__init__("snowcoder", _version(), protocol_cls=Protocol)
        self.settings = Settings()
        self.policies = self.settings.policies()
        self._model = model
        self._threads = threads
        self._loader = load
        self.session = Session(self._load, self._report_failure)

    def start_session(self, options: object) -> None:
        """Take over the client's settings; loading begins once `initialize` is answered."""
        self.settings, problems = read_settings(options)
        self.policies = self.settings.policies()
        loop = asyncio.get_running_loop()

        def warn(message: str) -> None:
            loop.call_soon(self._show, types.MessageType.Warning, message)

        self.protocol.measure = start_measure(self.settings, self._read, warn)
        loop.call_soon(self.session.start)
        if problems:
            message = "SnowCoder ignores invalid settings: " + "; ".join(problems)
            loop.call_soon(self._show, types.MessageType.Warning, message)

    def report_server_error(self, error: Exception, source: type[Exception]) -> None:
        """Log what went wrong; unreadable input is answered. No message pops up in the editor."""
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            self.protocol.refuse_unreadable(error)
        else:
            logger.error("%s: %s", source.__name__, error)

    def _load(self) -> Loaded:
        settings = self.settings
        return self._loader(settings.model or self._model, settings.threads or self._threads)

    def _report_failure(self, error: Exception) -> None:
        self._show(types.MessageType.Error, f"SnowCoder cannot suggest anything: {error}")

    def _read(self, uri: str) -> str | None:
        document = self.protocol.documents.get(uri)
        return None if document is None else document.text

    def _show(self, kind: types.MessageType, message: str) -> None:
        self.window_show_message(types.ShowMessageParams(type=kind, message=message))


async def inline_completion(
    ls: SnowCoderServer, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """`textDocument/inlineCompletion`: one item, or none.

    Null, unlike the empty list, leaves on screen what is there (Neovim): the answer to a
    request that a newer one superseded.
    """
    uri = params.text_document.uri
    if (document := ls.protocol.documents.get(uri)) is None:
        logger.debug("%s is not open", uri)
        return []
    place = find_place(document, params)
    kind = params.context.trigger_kind
    policies = ls.protocol.measure.policies(ls.policies)
    request = build_request(place, uri, document.language, kind, policies)
    try:
        outcome = await ls.session.complete(request)
    except asyncio.CancelledError:
        ls.protocol.measure.asked(request, place, None, None)
        raise
    item = _item(place, outcome) if isinstance(outcome, Suggestion) else None
    ls.protocol.measure.asked(request, place, outcome, item)
    if outcome is None:
        return None
    return [] if item is None else [item]


def _item(place: Place, suggestion: Suggestion) -> types.InlineCompletionItem | None:
    try:
        return build_item(place, suggestion)
    except ValueError:
        logger.exception("the suggestion %s cannot be shown", suggestion.suggestion_id)
        return None


def create_server(
    model: str | None = None, threads: int = 2, load: Loader = load_engine
) -> SnowCoderServer:
    """A server with all features registered, not yet started."""
    server = SnowCoderServer(model, threads, load)

    @server.feature(types.INITIALIZE)
    def initialize(ls: SnowCoderServer, params: types.InitializeParams) -> None:
        ls.start_session(params.initialization_options)

    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(
        inline_completion
    )

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    async def did_close(ls: SnowCoderServer, params: types.DidCloseTextDocumentParams) -> None:
        await ls.session.forget(params.text_document.uri)

    @server.command(ACCEPT)
    async def accept(ls: SnowCoderServer, suggestion_id: str = "") -> None:
        ls.protocol.measure.accepted(suggestion_id)
        await ls.session.accepted(suggestion_id)

    @server.feature(STATS)
    def stats(ls: SnowCoderServer, params: object) -> dict[str, Any]:
        return ls.session.stats() | ls.protocol.measure.status()

    @server.feature(REPORT)
    def report(ls: SnowCoderServer, params: object) -> None:
        ls.protocol.measure.reported(params)

    @server.feature(types.WORKSPACE_DID_RENAME_FILES, _ANY_FILE)
    def did_rename(ls: SnowCoderServer, params: types.RenameFilesParams) -> None:
        for file in params.files:
            ls.protocol.measure.renamed(file.old_uri, file.new_uri)

    return server


def serve(server: SnowCoderServer, tcp: str | None = None) -> int:
    """Serve one client until it leaves; returns the exit status that LSP prescribes.

    Args:
        tcp: HOST:PORT on the loopback interface; None for standard input and output.

    Raises:
        AddressError: `tcp` is something else.
    """
    try:
        if tcp is None:
            server.start_io(*_standard_streams())
        else:
            server.start_tcp(*parse_address(tcp))
    except SystemExit:
        # How pygls leaves its loop over TCP at `exit`.
        pass
    finally:
        server.session.close()
        server.protocol.measure.close()
    return server.protocol.exit_status


def run(*, tcp: str | None, model: str | None, threads: int, log_level: str) -> None:
    """Serve, then end the process; what `snowcoder serve` does.

    Args:
        tcp: HOST:PORT on the loopback interface; None for standard input and output.
        model: name or folder of weights; None for the packaged ones.
        threads: threads of one decode.
        log_level: lowest level written to standard error, a name that `logging` knows.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for package in ("lsp_server", "completion", "models", "telemetry"):
        logging.getLogger(package).setLevel(log_level.upper())
    try:
        sys.exit(serve(create_server(model, threads), tcp))
    except AddressError as error:
        print(f"snowcoder: {error}", file=sys.stderr)
        sys.exit(2)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
        AddressError: it is not of that form, or other machines could reach it.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(port)
    except ValueError:
        raise AddressError(f"--tcp wants HOST:PORT, not {address!r}") from None
    if not loopback:
        raise AddressError(f"--tcp serves without a password, so only on loopback, not on {host}")
    return host, number


def _standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for the protocol alone.

    Whatever else reads or prints, native libraries included, gets an empty input and
    standard error from now on.
    """
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return stdin, stdout


def _version() -> str:
    try:
        return version("snowcoder")
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "0"
