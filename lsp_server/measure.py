"""Tells telemetry what the server does, in telemetry's own terms.

`Measure` is what the handlers see. With `telemetry: off` it is `Measure` itself, which keeps
nothing: no database is opened and no id is made.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lsprotocol import types

from completion.calibration import place_of
from completion.types import CompletionRequest, Hidden, Outcome, Policies
from lsp_server.arms import FILE, apply_arms, read_experiments
from lsp_server.documents import Change, Listener, to_column
from lsp_server.inline import Place
from lsp_server.settings import Settings
from telemetry.clock import Clock
from telemetry.events import Opportunity
from telemetry.experiments import Assignments, Experiment, ExperimentError
from telemetry.lifecycle import Lifecycle, Offer
from telemetry.outbox import CollectorConfigError, Uploader, read_collector
from telemetry.paths import database_path
from telemetry.ranges import Edit
from telemetry.store import Store

logger = logging.getLogger(__name__)

SUPERSEDED = "superseded"
TICK_S = 1.0


class Measure(Listener):
    """Keeps nothing; what `telemetry: off` means."""

    def policies(self, policies: Policies) -> Policies:
        """The policies of the next request: what the settings say, under its experiment arms."""
        return policies

    def asked(
        self,
        request: CompletionRequest,
        place: Place,
        uri: str,
        outcome: Outcome | None,
        items: Sequence[types.InlineCompletionItem],
    ) -> None:
        """A request was answered with `items`, for the document or cell `uri`.

        An outcome of None was superseded.
        """

    def shown(self, suggestion_id: str) -> None:
        """The client has a suggestion on screen."""

    def dismissed(self, suggestion_id: str) -> None:
        """The user turned a suggestion down."""

    def partially_accepted(self, suggestion_id: str, chars: int) -> None:
        """The user took the first `chars` code points of an item, all steps together."""

    def accepted(self, suggestion_id: str) -> None:
        """The user took a suggestion."""

    def renamed(self, old: str, new: str) -> None:
        """A file or folder has another name."""

    def status(self) -> dict[str, Any]:
        """Where telemetry stands, as JSON values."""
        return {"telemetry": "off"}

    def close(self) -> None:
        """The server ends."""


class Recorder(Measure):
    """Keeps everything in the database of `store`."""

    def __init__(
        self,
        store: Store,
        read: Callable[[str], str | None],
        model: str,
        warn: Callable[[str], None],
    ) -> None:
        """`read` gives open documents; `model` names the weights in the record.

        `warn` takes a sentence for the user, once, if the record cannot be kept as it was, and
        once if it has to wait.
        """
        self._store = store
        self._warn = warn
        self._told: set[str] = set()
        self._experiments: tuple[Experiment, ...] = ()
        self._assignments: Assignments | None = None
        self._model = model
        self._now_us = Clock()
        self._lifecycle = Lifecycle(store, self._now_us, read)
        self._ticking: asyncio.TimerHandle | None = None
        self._uploader: Uploader | None = None

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._store.start()
        self._tick()
        try:
            self._experiments = read_experiments(self._store.path.with_name(FILE))
        except ExperimentError as error:
            self._warn(f"SnowCoder runs no experiments: {FILE}: {error}")
        try:
            if (collector := read_collector(self._store.path)) is not None:
                self._uploader = Uploader(self._store.path, collector, self._store.wait_ready)
                self._uploader.start()
        except CollectorConfigError as error:
            self._warn(f"SnowCoder sends nothing to a collector: {error}")

    def policies(self, policies: Policies) -> Policies:
        """The policies of the next request: what the settings say, under its experiment arms."""
        if not self._experiments:
            return policies
        if self._assignments is None:
            if self._store.user_id is None:
                return policies
            self._assignments = Assignments(self._experiments, self._store.user_id, self._store.put)
        return apply_arms(policies, self._assignments.consult(self._now_us()))

    def asked(
        self,
        request: CompletionRequest,
        place: Place,
        uri: str,
        outcome: Outcome | None,
        items: Sequence[types.InlineCompletionItem],
    ) -> None:
        """A request was answered with `items`, for the document or cell `uri`.

        An outcome of None was superseded.
        """
        event, offer = describe(
            request, place, outcome, items, now_us=self._now_us(), model=self._model
        )
        self._lifecycle.asked(event, uri, offer)

    def shown(self, suggestion_id: str) -> None:
        """The client has a suggestion on screen."""
        self._lifecycle.shown(suggestion_id)

    def dismissed(self, suggestion_id: str) -> None:
        """The user turned a suggestion down."""
        self._lifecycle.dismissed(suggestion_id)

    def partially_accepted(self, suggestion_id: str, chars: int) -> None:
        """The user took the first `chars` code points of an item, all steps together."""
        self._lifecycle.partially_accepted(suggestion_id, chars)

    def accepted(self, suggestion_id: str) -> None:
        """The user took a suggestion."""
        self._lifecycle.accepted(suggestion_id)

    def opened(self, uri: str) -> None:
        """A document was opened."""
        self._lifecycle.opened(uri)

    def edited(self, uri: str, changes: list[Change]) -> None:
        """A document was changed."""
        self._lifecycle.edited(uri, (Edit(*change) for change in changes))

    def closed(self, uri: str, text: str) -> None:
        """A document was closed in the state `text`."""
        self._lifecycle.closed(uri, text)

    def renamed(self, old: str, new: str) -> None:
        """A file or folder has another name."""
        self._lifecycle.renamed(old, new)

    def status(self) -> dict[str, Any]:
        """Where telemetry stands, as JSON values."""
        store = self._store
        return {
            "telemetry": "on",
            "path": str(store.path),
            "lost": store.lost,
            "problem": store.problem or store.waiting,
            "collector": None if self._uploader is None else self._uploader.status(),
        }

    def close(self) -> None:
        """Commit everything; checks to come are left to the next server."""
        if self._uploader is not None:
            self._uploader.close()
        if self._ticking is not None:
            self._ticking.cancel()
        self._lifecycle.close()
        self._store.close()

    def _tick(self) -> None:
        self._lifecycle.tick()
        self._tell("problem", self._store.problem)
        self._tell("waiting", self._store.waiting)
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tell(self, kind: str, sentence: str | None) -> None:
        if sentence is not None and kind not in self._told:
            self._told.add(kind)
            self._warn(f"SnowCoder's local record: {sentence}")


def describe(
    request: CompletionRequest,
    place: Place,
    outcome: Outcome | None,
    items: Sequence[types.InlineCompletionItem],
    *,
    now_us: int,
    model: str = "",
) -> tuple[Opportunity, Offer | None]:
    """The row of a request, and where its suggestion goes in the client's document."""
    offer = None
    if outcome is not None and not isinstance(outcome, Hidden):
        offers = [_offer(place, item) for item in items]
        if offers and offers[0].suggestion_id == outcome.suggestion_id:
            offer = replace(offers[0], others=offers[1:])
    hidden_reason = None if offer else SUPERSEDED
    if isinstance(outcome, Hidden):
        hidden_reason = outcome.reason.value
    elif outcome is not None and offer is None:
        hidden_reason = "error"
    fields: dict[str, Any] = {}
    engine_us = 0
    if outcome is not None:
        record = outcome.record
        engine_us = _us(record.total_ms)
        fields = {
            "source": None if record.source is None else record.source.value,
            "context_us": _us(record.context_ms),
            "prompt_us": _us(record.prompt_ms),
            "prefill_us": _us(record.prefill_ms),
            "decode_us": _us(record.decode_ms),
            "shape_us": _us(record.shape_ms),
            "prompt_tokens": record.prompt_tokens,
            "reused_tokens": record.reused_tokens,
            "generated_tokens": record.generated_tokens,
            "drafted_tokens": record.drafted_tokens,
            "accepted_tokens": record.accepted_tokens,
            "logprob_sum": record.logprob_sum,
            "stop": record.stop,
        }
    waited_ms = 0.0
    if request.received is not None:
        waited_ms = (time.perf_counter() - request.received) * 1000
    total_us = max(_us(waited_ms), engine_us)
    left = request.text[request.text.rfind("\n", 0, request.offset) + 1 : request.offset]
    event = Opportunity(
        at_us=now_us,
        request_id=uuid.uuid4().hex,
        suggestion_id=offer.suggestion_id if offer else None,
        hidden_reason=hidden_reason,
        language=request.language,
        trigger=request.trigger.value,
        context_class=place_of(left).value,
        model=model,
        arms=request.policies.arms,
        chars=len(offer.insert) if offer else 0,
        lines=offer.insert.count("\n") + 1 if offer else 0,
        queue_us=total_us - engine_us,
        total_us=total_us,
        **fields,
    )
    return event, offer


def start_measure(
    settings: Settings, read: Callable[[str], str | None], warn: Callable[[str], None]
) -> Measure:
    """What the settings ask for, started; needs a running event loop."""
    if settings.telemetry == "off":
        return Measure()
    store = Store(database_path(), retention_days=settings.telemetry_retention_days)
    recorder = Recorder(store, read, settings.model or "", warn)
    recorder.start()
    return recorder


def _offer(place: Place, item: types.InlineCompletionItem) -> Offer:
    arguments = item.command.arguments if item.command is not None else None
    name = str(arguments[0]) if arguments else ""
    return Offer(name, _start(place, item), str(item.insert_text))


def _start(place: Place, item: types.InlineCompletionItem) -> int:
    cursor = place.cursor
    if item.range is None:
        return cursor.offset - place.origin
    column = to_column(cursor.line_text, item.range.start.character, cursor.encoding)
    return cursor.line_start + column - place.origin


def _us(milliseconds: float) -> int:
    return round(milliseconds * 1000)
