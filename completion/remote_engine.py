"""Suggestions from a remote engine, with the local one beside it: the same calls as
`completion.engine.CompletionEngine`.

A remote engine works on text: there are no token ids, hence no token healing and no
log-probabilities, and whatever fits the document is shown. Trigger, shape and filters are the
local engine's, typed-through as well.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace
from enum import StrEnum
from typing import Protocol

from completion.filters import reject
from completion.reuse import Offer, Offers
from completion.shape import Shaped, line_around, shape
from completion.text import CursorError, Normalised, normalise
from completion.trigger import Skip, skip_document, skip_position
from completion.types import (
    CompletionRequest,
    Hidden,
    HiddenReason,
    Outcome,
    Record,
    Source,
    Suggestion,
    Trigger,
)
from models.backend import StopReason
from models.errors import ModelError
from models.remote import RemoteClient, RemoteRequest

logger = logging.getLogger(__name__)

REMOTE_SHARE = 0.6
"""Of the time until the deadline; the rest is the local model's, should the remote one fail."""
_RESERVE_SHARE, _RESERVE_MS = 0.1, 40.0
"""Of the time until the deadline, and at most: engines end after the deadline that they are given,
by what they are in the middle of (a step, a prefill) when it passes."""
_PREFIX_CHARACTERS = 6000
_SUFFIX_CHARACTERS = 1800
"""What `WindowPolicy` means in tokens, at four characters each."""
_STEP_CHARACTERS = 2048
"""The window moves in steps, so that the server's prefix cache finds the prompt's beginning."""
_ENDED = frozenset({StopReason.NEWLINE, StopReason.END_OF_MIDDLE})
_ASK_REMOTE = frozenset(
    {HiddenReason.LOW_CONFIDENCE, HiddenReason.EMPTY, HiddenReason.LANGUAGE, HiddenReason.ERROR}
)
"""Why the local model showed nothing, where a larger one may know more."""


class Order(StrEnum):
    """Who is asked first."""

    REMOTE = "remote"
    """The remote engine; the local model where it fails."""
    LOCAL_THEN_REMOTE = "local-then-remote"
    """The local model; the remote engine where that has nothing to show."""


class LocalEngine(Protocol):
    """What is needed of `completion.engine.CompletionEngine`."""

    def complete(self, request: CompletionRequest) -> Outcome:
        """See there."""
        ...

    def prepare(self, request: CompletionRequest) -> None:
        """See there."""
        ...

    def accepted(self, suggestion_id: str) -> None:
        """See there."""
        ...

    def dismissed(self, suggestion_id: str) -> None:
        """See there."""
        ...

    def forget(self, uri: str) -> None:
        """See there."""
        ...


class RemoteEngine:
    """Completes documents with a remote engine and, if there is one, a local one.

    Confined to one thread at a time, as the local engine is; `trouble` may be read from another.

    Attributes:
        trouble: why the remote engine is not used at the moment, a sentence; empty if it is.
    """

    def __init__(self, client: RemoteClient, order: Order, local: LocalEngine | None) -> None:
        """Both stay the caller's."""
        self.trouble = ""
        self._client = client
        self._order = order
        self._local = local
        self._offers = Offers()

    def complete(self, request: CompletionRequest) -> Outcome:
        """Suggest text at the cursor, or say why not. Blocks; never raises for bad input."""
        if request.received is None:
            request = replace(request, received=time.perf_counter())
        request = _with_reserve(request)
        if self._local is None:
            return self._ask_remote(request, 1.0)[0]
        if self._order is Order.LOCAL_THEN_REMOTE:
            outcome = self._local.complete(request)
            if isinstance(outcome, Suggestion) or outcome.reason not in _ASK_REMOTE:
                return outcome
            second, _ = self._ask_remote(request, 1.0)
            return second if isinstance(second, Suggestion) else outcome
        outcome, failed = self._ask_remote(request, REMOTE_SHARE)
        return self._local.complete(request) if failed else outcome

    def prepare(self, request: CompletionRequest) -> None:
        """Let the local model work ahead; a remote engine is asked only when it is needed."""
        if self._local is not None and self._order is Order.LOCAL_THEN_REMOTE:
            self._local.prepare(_with_reserve(request))

    def accepted(self, suggestion_id: str) -> None:
        """The user took a suggestion."""
        self._offers.accepted(suggestion_id)
        if self._local is not None:
            self._local.accepted(suggestion_id)

    def dismissed(self, suggestion_id: str) -> None:
        """The user turned a suggestion down."""
        self._offers.dismissed(suggestion_id)
        if self._local is not None:
            self._local.dismissed(suggestion_id)

    def forget(self, uri: str) -> None:
        """Drop everything kept for a closed document."""
        self._offers.forget(uri)
        if self._local is not None:
            self._local.forget(uri)

    def _ask_remote(self, request: CompletionRequest, share: float) -> tuple[Outcome, bool]:
        """The remote engine's outcome and whether it failed; `share` of the time is its own."""
        record, began = Record(), time.perf_counter()
        failed = False
        try:
            result = self._complete(request, share, record)
        except CursorError as error:
            result = Skip(HiddenReason.ERROR, str(error))
        except ModelError as error:
            failed = True
            instead = "; the local model answers" if self._local is not None else ""
            if not self.trouble:
                logger.warning("the remote engine failed: %s", error)
            self.trouble = f"remote engine: {error}{instead}"
            result = Skip(HiddenReason.ERROR, str(error))
        record.total_ms = (time.perf_counter() - began) * 1000
        if isinstance(result, Skip):
            return Hidden(result.reason, result.detail, record), failed
        return result, failed

    def _complete(
        self, request: CompletionRequest, share: float, record: Record
    ) -> Suggestion | Skip:
        policies = request.policies
        if request.cancel.is_set():
            return Skip(HiddenReason.CANCELLED, "superseded before it began")
        # Without a list from the user, any language: nobody says what a remote model knows.
        anything = frozenset({request.language})
        if refused := skip_document(request.text, request.language, policies.trigger, anything):
            return refused
        document = normalise(request.text, request.offset)
        _, right = line_around("", document.suffix)
        if early := skip_position(right, request.trigger, policies.trigger) or self._reuse(
            request, document, record
        ):
            return early
        text = self._client.complete(
            RemoteRequest(
                _window_before(document.prefix),
                _window_after(document.suffix),
                max_tokens=policies.decode.max_tokens,
                max_lines=policies.decode.max_lines,
                deadline=_deadline(request, share),
                cancel=request.cancel,
            )
        )
        if text.stop is StopReason.CANCELLED:
            return Skip(HiddenReason.CANCELLED, "superseded or cancelled while it was asked")
        self.trouble = ""
        record.source, record.stop = Source.REMOTE, text.stop.value
        record.generated_tokens = text.chunks
        record.prefill_ms, record.decode_ms = text.first_ms, text.total_ms - text.first_ms
        shaped = shape(
            text.text, document.prefix, document.suffix, max_lines=policies.decode.max_lines
        )
        if not isinstance(shaped, Shaped):
            return Skip(shaped, "the remote engine has nothing to add here")
        rejected = reject(
            document.prefix, shaped.insert, document.suffix, shaped.replace_right, request.language
        )
        if rejected is not None:
            return Skip(rejected, "the remote engine's suggestion does not fit here")
        offer = Offer(
            uuid.uuid4().hex,
            document.prefix,
            document.suffix,
            shaped.insert,
            shaped.replace_right,
            complete=text.stop in _ENDED,
        )
        self._offers.put(request.uri, policies, offer)
        return _suggestion(offer.suggestion_id, document, shaped, record)

    def _reuse(
        self, request: CompletionRequest, document: Normalised, record: Record
    ) -> Suggestion | Skip | None:
        """What is left of the suggestion that the user is typing through, if any."""
        rest = self._offers.find(request.uri, request.policies, document.prefix, document.suffix)
        if rest is None or request.trigger is Trigger.INVOKED:
            return None
        if rest.offer.dismissed:
            return Skip(HiddenReason.DISMISSED, "the suggestion was dismissed here")
        if not rest.insert:
            return Skip(HiddenReason.EXHAUSTED, "the suggestion is already in the document")
        record.source = rest.source
        shaped = Shaped(rest.insert, rest.replace_right)
        return _suggestion(rest.offer.suggestion_id, document, shaped, record)


def _with_reserve(request: CompletionRequest) -> CompletionRequest:
    """The request with an earlier deadline, so that the answer is there at its own."""
    policies = request.policies
    milliseconds = policies.decode.deadline_ms
    if milliseconds is None:
        return request
    milliseconds -= min(_RESERVE_SHARE * milliseconds, _RESERVE_MS)
    decode = replace(policies.decode, deadline_ms=milliseconds)
    return replace(request, policies=replace(policies, decode=decode))


def _deadline(request: CompletionRequest, share: float) -> float | None:
    milliseconds = request.policies.decode.deadline_ms
    if milliseconds is None or request.received is None:
        return None
    now = time.perf_counter()
    return now + share * (request.received + milliseconds / 1000 - now)


def _window_before(prefix: str) -> str:
    """The end of `prefix`, from the beginning of a line that stays the same while one types."""
    start = max(0, len(prefix) - _PREFIX_CHARACTERS)
    if start == 0:
        return prefix
    start -= start % _STEP_CHARACTERS
    line_feed = prefix.find("\n", start, start + _STEP_CHARACTERS)
    return prefix[line_feed + 1 if line_feed >= 0 else start :]


def _window_after(suffix: str) -> str:
    """The beginning of `suffix`, to the end of a line."""
    if len(suffix) <= _SUFFIX_CHARACTERS:
        return suffix
    end = suffix.rfind("\n", 0, _SUFFIX_CHARACTERS)
    return suffix[: end + 1 if end >= 0 else _SUFFIX_CHARACTERS]


def _suggestion(
    suggestion_id: str, document: Normalised, shaped: Shaped, record: Record
) -> Suggestion:
    return Suggestion(
        suggestion_id=suggestion_id,
        insert=document.restore(shaped.insert),
        start=document.cursor,
        end=document.cursor + shaped.replace_right,
        record=record,
    )
