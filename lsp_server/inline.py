"""From `textDocument/inlineCompletion` to a completion request, and back (LSP 3.18).

Plain functions over plain values: what the editor sees of a suggestion is decided here.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeGuard

from lsprotocol import types

from completion.types import CompletionRequest, Outcome, Policies, Suggestion, Trigger
from lsp_server.documents import Cursor, Document, Encoding, to_column

ACCEPT = "snowcoder.accept"
"""Command that an editor runs when the user takes a suggestion; its argument is the id."""


_WORD = "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a completion is asked for.

    Attributes:
        cursor: the place in the document as the client has it.
        selected: entry of the completion menu that the editor previews, put in the
            document for the request; the item has to begin with it. Empty for none.
        replaced: code points left of the cursor that `selected` replaces.
        origin: code points of `cursor.text` before the client's document, which may be a part.
    """

    cursor: Cursor
    selected: str = ""
    replaced: int = 0
    origin: int = 0

    @property
    def shift(self) -> int:
        """Code points that the request's document is longer than the client's."""
        return len(self.selected) - self.replaced

    def inside(self, cursor: Cursor) -> Place:
        """The same place, `cursor` being its cursor in a larger document."""
        return replace(self, cursor=cursor, origin=cursor.offset - self.cursor.offset)


def find_place(document: Document, params: types.InlineCompletionParams) -> Place:
    """The place of a request. A menu entry that reaches beyond the cursor is left out."""
    cursor = document.cursor(params.position.line, params.position.character)
    info = params.context.selected_completion_info
    if info is None or "\n" in info.text or "\r" in info.text:
        return Place(cursor)
    start, end = info.range.start, info.range.end
    column = cursor.offset - cursor.line_start
    first = to_column(cursor.line_text, start.character, cursor.encoding)
    last = to_column(cursor.line_text, end.character, cursor.encoding)
    if start.line != cursor.line or end.line != cursor.line or first > last or last != column:
        return Place(cursor)
    return Place(cursor, info.text, last - first)


def build_request(
    place: Place, uri: str, language: str, trigger_kind: int, policies: Policies
) -> CompletionRequest:
    """The engine's request for a place, received now."""
    cursor = place.cursor
    before = cursor.text[: cursor.offset - place.replaced]
    invoked = trigger_kind == types.InlineCompletionTriggerKind.Invoked
    return CompletionRequest(
        text=before + place.selected + cursor.text[cursor.offset :],
        offset=cursor.offset + place.shift,
        uri=uri,
        language=language,
        trigger=Trigger.INVOKED if invoked else Trigger.AUTOMATIC,
        policies=policies,
        received=time.perf_counter(),
    )


def build_item(place: Place, suggestion: Suggestion) -> types.InlineCompletionItem:
    """The item that shows a suggestion: a range on the cursor's line around the cursor.

    Raises:
        ValueError: the suggestion replaces text on another line.
    """
    cursor = place.cursor
    start, end, insert = suggestion.start, suggestion.end - place.shift, suggestion.insert
    selected_start = cursor.offset - place.replaced
    if place.selected:
        kept = cursor.text[:selected_start] + place.selected
        insert = kept[min(selected_start, start) : start] + insert
        start = min(selected_start, start)
    return types.InlineCompletionItem(
        insert_text=insert,
        range=types.Range(
            start=types.Position(cursor.line, cursor.character(start)),
            end=types.Position(cursor.line, cursor.character(end)),
        ),
        command=types.Command(
            title="Accept suggestion", command=ACCEPT, arguments=[suggestion.suggestion_id]
        ),
    )


def suggestion_of(params: object) -> str:
    """Id of the suggestion that a notification's `item` is about; empty where there is none."""
    for step in ("item", "command", "arguments"):
        params = params.get(step) if isinstance(params, dict) else None
    first = params[0] if isinstance(params, list) and params else None
    return first if isinstance(first, str) else ""


def taken_chars(params: object) -> int:
    """Code points of the item's text that a notification's `acceptedLength` covers; 0 if none."""
    if not isinstance(params, dict) or not _is_count(length := params.get("acceptedLength")):
        return 0
    text = item.get("insertText") if isinstance(item := params.get("item"), dict) else None
    if not isinstance(text, str):
        return 0
    return to_column(text, length, Encoding.UTF16)


def describe(outcome: Outcome | str | None) -> dict[str, Any]:
    """The part of a decision that an outcome says; None was superseded, a text says itself."""
    if outcome is None:
        outcome = "superseded"
    if isinstance(outcome, str):
        return {"outcome": outcome, "rule": outcome, "detail": f"the request was {outcome}"}
    stages = asdict(outcome.record)
    if isinstance(outcome, Suggestion):
        source = outcome.record.source
        return {
            "outcome": "suggestion",
            "rule": source.value if source else "suggestion",
            "detail": f"{len(outcome.insert)} characters",
            "suggestion": outcome.suggestion_id,
            "stages": stages,
        }
    return {
        "outcome": "hidden",
        "rule": outcome.reason.value,
        "detail": outcome.detail,
        "stages": stages,
    }


def build_menu_item(place: Place, item: types.InlineCompletionItem) -> types.CompletionItem | None:
    """The same suggestion for a completion menu: it replaces the word left of the cursor too.

    Menus filter by the text between the edit's start and the cursor, and show one line.
    """
    cursor = place.cursor
    left = cursor.text[cursor.line_start : cursor.offset]
    word = left[len(left.rstrip(_WORD)) :] if left else ""
    if item.range is None or not isinstance(item.insert_text, str):
        return None
    start = types.Position(cursor.line, cursor.character(cursor.offset - len(word)))
    text = word + item.insert_text
    return types.CompletionItem(
        label=text.strip().partition("\n")[0].rstrip("\r"),
        kind=types.CompletionItemKind.Snippet,
        filter_text=text,
        text_edit=types.TextEdit(types.Range(start, item.range.end), text),
        command=item.command,
    )


def rested_at(params: object) -> types.InlineCompletionParams | None:
    """Where `snowcoder/didRestCursor` says the cursor is, as a request; None if it does not."""
    if not isinstance(params, dict):
        return None
    document, position = params.get("textDocument"), params.get("position")
    if not isinstance(document, dict) or not isinstance(position, dict):
        return None
    uri, line, character = document.get("uri"), position.get("line"), position.get("character")
    if not isinstance(uri, str) or not _is_count(line) or not _is_count(character):
        return None
    return types.InlineCompletionParams(
        types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
        types.TextDocumentIdentifier(uri),
        types.Position(line, character),
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
