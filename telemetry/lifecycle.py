"""From an offered suggestion to what is left of it ten minutes later.

    offered → shown → accepted | partially accepted | typed through | dismissed | ignored
                         └→ looked for after 30, 120, 300 and 600 s

Everything here runs on the event loop and never waits: the database and files are left to
jobs of the store's thread.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from telemetry import pending as pendings
from telemetry.activity import ActivityMeter
from telemetry.events import (
    PERSISTENCE_CHECKS_S,
    Ended,
    Event,
    Opportunity,
    Resolution,
    Shown,
)
from telemetry.pending import SECOND_US, Due, Pending
from telemetry.ranges import Edit, Range, locate, refine
from telemetry.store import Job

EXHAUSTED = "exhausted"
"""Hidden reason: all of the suggestion is in the document already."""
PASSING = frozenset({"cancelled", "superseded"})
"""Hidden reasons that say nothing about the suggestion on screen."""
ENDING_US = 1_000_000
"""An acceptance that arrives this much after the next suggestion still counts."""
ADOPT_EVERY_US = 60_000_000


class Sink(Protocol):
    """What the lifecycle needs of `telemetry.store.Store`."""

    def put(self, event: Event) -> None:
        """Keep an event."""
        ...

    def run(self, job: Job) -> bool:
        """Have a job done in order with the events; False if there is no room."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a suggestion goes: `insert` at `start` (code points) of the open document.

    `others` are offered beside it; whichever of them is taken, it is this suggestion's end.
    """

    suggestion_id: str
    start: int
    insert: str
    others: Sequence[Offer] = ()

    def has(self, suggestion_id: str) -> bool:
        """Whether the id is of this offer or of one beside it."""
        return suggestion_id in (self.suggestion_id, *(o.suggestion_id for o in self.others))


@dataclass(slots=True)
class _Live:
    """A suggestion that may be on screen."""

    uri: str
    offer: Offer
    chars: int
    shown_us: int | None = None
    ended_us: int | None = None
    typed_chars: int = 0
    partial_chars: int = 0
    partial_before: int = 0
    """What of `partial_chars` was taken of earlier items, which this offer goes on with."""
    exhausted: bool = False
    dismissed: bool = False

    def choose(self, suggestion_id: str) -> None:
        """Go on with the offer of that name, under the first one's name."""
        for other in self.offer.others:
            if other.suggestion_id == suggestion_id:
                self.offer = replace(self.offer, start=other.start, insert=other.insert)
                self.chars = len(other.insert)

    def ended(self, now_us: int, *, accepted: bool = False) -> Ended:
        """The event of its end."""
        at_us = now_us if self.ended_us is None else self.ended_us
        accepted_chars = self.partial_chars + (len(self.offer.insert) if accepted else 0)
        return Ended(
            at_us=at_us,
            suggestion_id=self.offer.suggestion_id,
            resolution=Resolution.ACCEPTED if accepted else self._resolution(),
            chars=self.chars,
            accepted_chars=accepted_chars,
            typed_chars=self.typed_chars,
            visible_us=None if self.shown_us is None else max(at_us - self.shown_us, 0),
        )

    def _resolution(self) -> Resolution:
        if self.partial_chars:
            return Resolution.PARTIALLY_ACCEPTED
        if self.exhausted:
            return Resolution.TYPED_THROUGH
        return Resolution.DISMISSED if self.dismissed else Resolution.IGNORED


@dataclass(slots=True)
class _Accepted:
    """Accepted text with checks to come; `content` stands there since the document closed."""

    pending: Pending
    uri: str
    range: Range | None
    content: str
    checks_done: int

    @property
    def start(self) -> int:
        return self.pending.start if self.range is None else self.range.start


class Lifecycle:
    """Follows every suggestion of one server.

    Args:
        sink: where events and jobs go.
        now_us: the time, microseconds since 1970; never goes backwards.
        read: the text of an open document, None if it is not open.
    """

    def __init__(
        self, sink: Sink, now_us: Callable[[], int], read: Callable[[str], str | None]
    ) -> None:
        self._sink = sink
        self._now_us = now_us
        self._read = read
        self._live: dict[str, _Live] = {}
        self._ending: dict[str, _Live] = {}
        self._accepted: dict[str, _Accepted] = {}
        self._adopted: queue.SimpleQueue[Pending] = queue.SimpleQueue()
        self._adopt_us: int | None = None
        self._activity = ActivityMeter(sink.put)

    # Suggestions -----------------------------------------------------------------------

    def asked(self, event: Opportunity, uri: str, offer: Offer | None) -> None:
        """A request was answered, with `offer` if something is shown."""
        self._sink.put(event)
        live = self._live.get(uri)
        if offer is None:
            if live is None or event.hidden_reason in PASSING:
                return
            if event.hidden_reason == EXHAUSTED:
                live.exhausted = True
                live.typed_chars = live.chars - live.partial_chars
            else:
                self._end(live)
        elif live is not None and live.offer.suggestion_id == offer.suggestion_id:
            live.typed_chars = max(live.chars - len(offer.insert) - live.partial_chars, 0)
            live.offer, live.partial_before = offer, live.partial_chars
        else:
            if live is not None:
                self._end(live)
            self._live[uri] = _Live(uri, offer, len(offer.insert))

    def shown(self, suggestion_id: str) -> None:
        """The client has it on screen; told again, nothing changes."""
        live = self._find(suggestion_id)
        if live is not None and live.shown_us is None:
            live.shown_us = self._now_us()
            self._sink.put(Shown(at_us=live.shown_us, suggestion_id=live.offer.suggestion_id))

    def dismissed(self, suggestion_id: str) -> None:
        """The user refused it explicitly."""
        live = self._find(suggestion_id)
        if live is not None and live.ended_us is None:
            live.dismissed = True
            self._end(live)

    def partially_accepted(self, suggestion_id: str, chars: int) -> None:
        """The user took the first `chars` code points of the last offer, all steps together."""
        live = self._find(suggestion_id)
        if live is not None:
            live.choose(suggestion_id)
            taken = min(live.partial_before + chars, live.chars)
            live.partial_chars = max(live.partial_chars, taken)

    def accepted(self, suggestion_id: str) -> None:
        """The user took (the rest of) it; unknown and repeated ids are ignored."""
        live = self._find(suggestion_id)
        if live is None:
            return
        live.choose(suggestion_id)
        suggestion_id = live.offer.suggestion_id
        now = self._now_us()
        live.ended_us = None
        if self._live.get(live.uri) is live:
            del self._live[live.uri]
        self._ending.pop(suggestion_id, None)
        self._sink.put(live.ended(now, accepted=True))
        self._activity.completed(len(live.offer.insert))
        inserted = live.offer.insert
        pending = Pending(suggestion_id, live.uri, inserted, live.offer.start, now)
        accepted = _Accepted(pending, live.uri, None, inserted, 0)
        self._accepted[suggestion_id] = accepted
        self._sink.run(pendings.remember(pending))
        text = self._read(live.uri)
        end = pending.start + len(inserted)
        if text is not None and text[pending.start : end] == inserted:
            accepted.range = Range(pending.start, end)

    def _find(self, suggestion_id: str) -> _Live | None:
        for live in (*self._live.values(), *self._ending.values()):
            if live.offer.has(suggestion_id):
                return live
        return None

    def _end(self, live: _Live) -> None:
        """Take it off the screen; its row waits a moment for a late acceptance."""
        self._live.pop(live.uri, None)
        live.ended_us = self._now_us()
        self._ending[live.offer.suggestion_id] = live

    # Documents -------------------------------------------------------------------------

    def edited(self, uri: str, edits: Iterable[Edit]) -> None:
        """The document changed; the edits in order, each in the text that the last one left."""
        parts = [part for edit in edits for part in refine(edit)]
        self._activity.edited(self._now_us(), sum(len(part.inserted) for part in parts))
        for accepted in self._of(uri):
            if accepted.range is not None:
                for part in parts:
                    accepted.range.follow(part)
            else:
                self._anchor(accepted)

    def opened(self, uri: str) -> None:
        """The document is open; `read` gives its text."""
        for accepted in self._of(uri):
            self._anchor(accepted)

    def closed(self, uri: str, text: str) -> None:
        """The document is not open any more; `text` is its last state."""
        if (live := self._live.get(uri)) is not None:
            self._end(live)
        for accepted in self._of(uri):
            if accepted.range is not None:
                accepted.content = text[accepted.range.start : accepted.range.end]
                accepted.pending = replace(accepted.pending, start=accepted.range.start)
                accepted.range = None
                self._save(accepted)

    def renamed(self, old: str, new: str) -> None:
        """A file or a folder has another name, whether it is open or not."""
        for live in [*self._live.values()]:
            if (uri := _renamed(live.uri, old, new)) is not None:
                del self._live[live.uri]
                live.uri = uri
                self._live[uri] = live
        for accepted in self._accepted.values():
            if (uri := _renamed(accepted.uri, old, new)) is not None:
                accepted.uri = uri
                self._anchor(accepted)
                self._save(accepted)

    def _of(self, uri: str) -> list[_Accepted]:
        return [accepted for accepted in self._accepted.values() if accepted.uri == uri]

    def _anchor(self, accepted: _Accepted) -> None:
        """Find the text in its document again, if that is open."""
        text = self._read(accepted.uri)
        if text is not None and accepted.range is None:
            accepted.range = locate(text, accepted.content, accepted.start)

    # Time ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due; called about once a second."""
        now = self._now_us()
        for live in [*self._ending.values()]:
            if live.ended_us is not None and now - live.ended_us >= ENDING_US:
                self._write_end(live)
        self._activity.tick(now)
        if self._adopt_us is None or now - self._adopt_us >= ADOPT_EVERY_US:
            self._adopt_us = now
            self._sink.run(pendings.adopt(now, self._adopted.put))
        self._take_adopted()
        for accepted in [*self._accepted.values()]:
            self._check(accepted, now)

    def close(self) -> None:
        """Write what is open; checks to come are left to the next server."""
        now = self._now_us()
        for live in [*self._live.values()]:
            self._end(live)
        for live in [*self._ending.values()]:
            self._write_end(live)
        self._activity.flush(now)
        self._take_adopted()
        for accepted in self._accepted.values():
            self._save(accepted, release=True)
        self._accepted.clear()

    def _write_end(self, live: _Live) -> None:
        del self._ending[live.offer.suggestion_id]
        self._sink.put(live.ended(self._now_us()))

    def _take_adopted(self) -> None:
        while not self._adopted.empty():
            pending = self._adopted.get()
            if pending.suggestion_id not in self._accepted:
                accepted = _Accepted(
                    pending, pending.uri, None, pending.inserted, pending.checks_done
                )
                self._accepted[pending.suggestion_id] = accepted
                self._anchor(accepted)

    def _check(self, accepted: _Accepted, now: int) -> None:
        due = self._due(accepted, now)
        if not due:
            return
        accepted.checks_done += len(due)
        text = self._read(accepted.uri)
        if now < accepted.pending.accepted_us:
            # The clock was set back between two servers: no interval can be trusted.
            self._put(check.missing("clock") for check in due)
        elif text is None:
            self._sink.run(pendings.check_on_disk(accepted.uri, due))
        elif accepted.range is None:
            self._put(check.missing("not_found") for check in due)
        else:
            present = text[accepted.range.start : accepted.range.end]
            self._put(check.measured(present) for check in due)
        self._save(accepted)
        if accepted.checks_done >= len(PERSISTENCE_CHECKS_S):
            del self._accepted[accepted.pending.suggestion_id]

    def _due(self, accepted: _Accepted, now: int) -> list[Due]:
        pending, backwards = accepted.pending, now < accepted.pending.accepted_us
        return [
            Due(
                pending.suggestion_id,
                pending.inserted,
                accepted.content,
                accepted.start,
                after_s,
                now,
                max(now - pending.accepted_us - after_s * SECOND_US, 0),
            )
            for after_s in PERSISTENCE_CHECKS_S[accepted.checks_done :]
            if backwards or now >= pending.accepted_us + after_s * SECOND_US
        ]

    def _put(self, events: Iterable[Event]) -> None:
        for event in events:
            self._sink.put(event)

    def _save(self, accepted: _Accepted, *, release: bool = False) -> None:
        self._sink.run(
            pendings.save(
                accepted.pending.suggestion_id,
                accepted.uri,
                accepted.start,
                accepted.checks_done,
                release=release,
            )
        )


def _renamed(uri: str, old: str, new: str) -> str | None:
    """What `uri` is called after `old`, which may be its folder, became `new`."""
    if uri == old:
        return new
    folder = old.rstrip("/") + "/"
    return new.rstrip("/") + "/" + uri.removeprefix(folder) if uri.startswith(folder) else None
