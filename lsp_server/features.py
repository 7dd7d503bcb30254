"""The LSP methods served, each a thin handler; `docs/protocol.md` documents our own names."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from lsprotocol import types

from completion.types import CompletionRequest, Suggestion
from lsp_server import client_setup
from lsp_server.decisions import KEPT
from lsp_server.indexing import WATCHED
from lsp_server.inline import (
    ACCEPT,
    Place,
    build_item,
    build_menu_item,
    build_request,
    find_place,
    rested_at,
    suggestion_of,
    taken_chars,
)
from lsp_server.language_server import SnowCoderServer
from lsp_server.settings import section

logger = logging.getLogger(__name__)

STATS = "snowcoder/stats"
"""Custom request: what the last requests did, for the latency benchmark."""
DOCUMENTS = "snowcoder/documents"
"""Custom request: SHA-256 of every open document, to compare with what the client has."""
WHY = "snowcoder.why"
PAUSE = "snowcoder.pause"
RESUME = "snowcoder.resume"
VISIBILITY = "snowcoder/didChangeVisibility"
DID_SHOW = "textDocument/didShowCompletion"
DID_PARTIALLY_ACCEPT = "textDocument/didPartiallyAcceptCompletion"
DID_DISMISS = "textDocument/didDismissCompletion"


REST = "snowcoder/didRestCursor"
MENU_TRIGGERS = [".", "(", "[", ",", " ", "="]


async def inline_completion(
    ls: SnowCoderServer, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """`textDocument/inlineCompletion`: one item, several if invoked, or none.

    Null, unlike the empty list, leaves on screen what is there (Neovim): the answer to a
    request that a newer one superseded.
    """
    found = await _suggest(ls, params)
    return [] if found is None else found[1]


def _items(place: Place, suggestion: Suggestion) -> list[types.InlineCompletionItem]:
    items = []
    for one in (suggestion, *suggestion.alternatives):
        try:
            items.append(build_item(place, one))
        except ValueError:
            logger.exception("the suggestion %s cannot be shown", one.suggestion_id)
    return items


async def completion(ls: SnowCoderServer, params: types.CompletionParams) -> types.CompletionList:
    """`textDocument/completion`, for clients without inline completion that opted in."""
    context = types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic)
    inline = types.InlineCompletionParams(context, params.text_document, params.position)
    found = await _suggest(ls, inline)
    items: list[types.CompletionItem] = []
    if found is not None and found[1] is not None:
        menu = [build_menu_item(found[0], item) for item in found[1]]
        items = [item for item in menu if item is not None]
    # Incomplete: the next key may change what is suggested.
    return types.CompletionList(is_incomplete=True, items=items)


async def _suggest(
    ls: SnowCoderServer, params: types.InlineCompletionParams
) -> tuple[Place, list[types.InlineCompletionItem] | None] | None:
    """Items and their place; without items the request was superseded. None: hidden."""
    if (found := _find(ls, params)) is None:
        return None
    place, request = found
    uri = params.text_document.uri
    try:
        outcome = await ls.complete(request, place)
    except asyncio.CancelledError:
        ls.measure.asked(request, place, uri, None, [])
        raise
    items = _items(place, outcome) if isinstance(outcome, Suggestion) else []
    ls.measure.asked(request, place, uri, outcome, items)
    if outcome is None:
        return place, None
    return (place, items) if isinstance(outcome, Suggestion) else None


def _find(
    ls: SnowCoderServer, params: types.InlineCompletionParams
) -> tuple[Place, CompletionRequest] | None:
    """The place of a request and the engine's request; None where the document is not open."""
    uri = params.text_document.uri
    if (document := ls.protocol.documents.get(uri)) is None:
        logger.debug("%s is not open", uri)
        return None
    place = find_place(document, params)
    notebooks = ls.protocol.notebooks
    if (notebook := notebooks.notebook_of(uri)) is not None:
        place = place.inside(notebooks.widen(uri, place.cursor))
        uri = notebook
    kind = params.context.trigger_kind
    policies = ls.measure.policies(ls.policies)
    return place, build_request(place, uri, document.language, kind, policies)


def register(server: SnowCoderServer) -> None:
    """Register all features with a server that is not yet started."""
    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(
        inline_completion
    )
    _register_life(server)
    _register_settings(server)
    _register_files(server)
    _register_feedback(server)
    _register_commands(server)


def _register_life(server: SnowCoderServer) -> None:
    @server.feature(types.INITIALIZE)
    def initialize(ls: SnowCoderServer, params: types.InitializeParams) -> None:
        ls.begin(params)
        if ls.settings.completion:
            options = types.CompletionOptions(trigger_characters=MENU_TRIGGERS)
            ls.feature(types.TEXT_DOCUMENT_COMPLETION, options)(completion)

    @server.feature(types.INITIALIZED)
    async def initialized(ls: SnowCoderServer, params: types.InitializedParams) -> None:
        await ls.pull_settings()
        ls.begin_measure()
        ls.follow_folders()
        await client_setup.register(ls, *([WATCHED] if ls.settings.context == "on" else []))

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    async def did_close(ls: SnowCoderServer, params: types.DidCloseTextDocumentParams) -> None:
        await ls.session.forget(params.text_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    async def notebook_closed(
        ls: SnowCoderServer, params: types.DidCloseNotebookDocumentParams
    ) -> None:
        await ls.session.forget(params.notebook_document.uri)


def _register_settings(server: SnowCoderServer) -> None:
    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def settings(ls: SnowCoderServer, params: types.DidChangeConfigurationParams) -> None:
        # Clients send what changed, everything, or nothing at all and want to be asked.
        if (given := section(params.settings)) is not None:
            ls.configure(given)
        await ls.pull_settings()

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def watched(ls: SnowCoderServer, params: types.DidChangeWatchedFilesParams) -> None:
        ls.touched([change.uri for change in params.changes])

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def saved(ls: SnowCoderServer, params: types.DidSaveTextDocumentParams) -> None:
        ls.touched([params.text_document.uri])


def _register_files(server: SnowCoderServer) -> None:
    anything = types.FileOperationPattern(glob="**/*")
    options = types.FileOperationRegistrationOptions(
        filters=[types.FileOperationFilter(pattern=anything, scheme="file")]
    )

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    def folders(ls: SnowCoderServer, params: types.DidChangeWorkspaceFoldersParams) -> None:
        for folder in params.event.removed:
            ls.folders.remove(folder.uri)
        for folder in params.event.added:
            ls.folders.add(folder.uri)
        ls.follow_folders()

    @server.feature(types.WORKSPACE_DID_CREATE_FILES, options)
    def created(ls: SnowCoderServer, params: types.CreateFilesParams) -> None:
        ls.touched([file.uri for file in params.files])

    @server.feature(types.WORKSPACE_DID_RENAME_FILES, options)
    async def renamed(ls: SnowCoderServer, params: types.RenameFilesParams) -> None:
        # An editor closes a renamed document and opens it again; only caches are left here.
        ls.touched([uri for file in params.files for uri in (file.old_uri, file.new_uri)])
        for file in params.files:
            ls.measure.renamed(file.old_uri, file.new_uri)
            await ls.session.forget(file.old_uri)

    @server.feature(types.WORKSPACE_DID_DELETE_FILES, options)
    async def deleted(ls: SnowCoderServer, params: types.DeleteFilesParams) -> None:
        ls.touched([file.uri for file in params.files])
        for file in params.files:
            await ls.session.forget(file.uri)


def _register_feedback(server: SnowCoderServer) -> None:
    def note(ls: SnowCoderServer, params: object, event: str) -> str:
        if suggestion := suggestion_of(params):
            ls.decisions.mark(suggestion, event)
        return suggestion

    @server.feature(DID_SHOW)
    def did_show(ls: SnowCoderServer, params: object) -> None:
        ls.measure.shown(note(ls, params, "shown"))

    @server.feature(DID_PARTIALLY_ACCEPT)
    def did_partially_accept(ls: SnowCoderServer, params: object) -> None:
        suggestion = note(ls, params, "partially_accepted")
        ls.measure.partially_accepted(suggestion, taken_chars(params))

    @server.feature(DID_DISMISS)
    async def did_dismiss(ls: SnowCoderServer, params: object) -> None:
        if suggestion := note(ls, params, "dismissed"):
            ls.measure.dismissed(suggestion)
            await ls.session.dismissed(suggestion)

    @server.feature(REST)
    def rest(ls: SnowCoderServer, params: object) -> None:
        if (place := rested_at(params)) is None:
            return
        asked = _find(ls, place)
        if asked is not None and ls.refusal(asked[1].uri, asked[1].trigger) is None:
            ls.session.prepare(asked[1])

    @server.feature(VISIBILITY)
    def visibility(ls: SnowCoderServer, params: object) -> None:
        visible = params.get("visible") if isinstance(params, dict) else None
        if isinstance(visible, bool):
            ls.visible = visible
            ls.session.end_rest()
            ls.publish()


def _register_commands(server: SnowCoderServer) -> None:
    # Arguments are taken as they come: pygls would refuse an empty list where one is optional.

    @server.command(ACCEPT)
    async def accept(ls: SnowCoderServer, *arguments: object) -> None:
        if arguments and isinstance(arguments[0], str):
            ls.decisions.mark(arguments[0], "accepted")
            ls.measure.accepted(arguments[0])
            await ls.session.accepted(arguments[0])

    @server.command(WHY)
    def why(ls: SnowCoderServer, *arguments: object) -> list[dict[str, Any]]:
        last = arguments[0] if arguments else None
        return ls.decisions.last(last if isinstance(last, int) else KEPT)

    @server.command(PAUSE)
    def pause(ls: SnowCoderServer, *_: object) -> None:
        ls.paused = True
        ls.session.end_rest()
        ls.publish()

    @server.command(RESUME)
    def resume(ls: SnowCoderServer, *_: object) -> None:
        ls.paused = False
        ls.publish()

    @server.feature(DOCUMENTS)
    def documents(ls: SnowCoderServer, params: object) -> dict[str, str]:
        return ls.protocol.documents.fingerprints()

    @server.feature(STATS)
    def stats(ls: SnowCoderServer, params: object) -> dict[str, Any]:
        return ls.session.stats() | ls.measure.status() | ls.indexing.status()
