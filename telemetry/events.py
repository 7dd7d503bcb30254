"""What is recorded: one class an event, one table a class.

Times are integer microseconds since 1970 UTC, durations integer microseconds, lengths integer
code points. Nothing here can hold source text or a path. `docs/telemetry.md` describes the
tables to analysts.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import ClassVar

SCHEMA_VERSION = 1
"""Version of the meaning of the fields, written with every event."""

PERSISTENCE_CHECKS_S = (30, 120, 300, 600)
"""Seconds after acceptance at which accepted text is looked for (CPR@t)."""


def new_event_id() -> str:
    """A random id; the same id is never stored twice."""
    return uuid.uuid4().hex


class Resolution(StrEnum):
    """How a suggestion left the screen. Exactly one for each that ended."""

    ACCEPTED = "accepted"
    PARTIALLY_ACCEPTED = "partially_accepted"
    TYPED_THROUGH = "typed_through"
    """The user typed all of it; neither acceptance nor retained text."""
    DISMISSED = "dismissed"
    """Refused explicitly, as with Escape."""
    IGNORED = "ignored"


class CheckStatus(StrEnum):
    """What a persistence check is worth. Only the first two count in CPR; the rest is censored."""

    ON_TIME = "on_time"
    FILE_DELETED = "file_deleted"
    """On time, and the file is gone: nothing is retained."""
    LATE = "late"
    """Measured, but more than `telemetry.lifecycle.LATE_AFTER_US` after it was due."""
    MISSING = "missing"
    """Could not be measured; `reason` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Fields of every event; the store adds user, session and version."""

    table: ClassVar[str]

    at_us: int
    event_id: str = field(default_factory=new_event_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opportunity(Event):
    """A request for a suggestion and what came of it: offered, or hidden with a reason.

    Attributes:
        request_id: one a request; a suggestion that is typed through keeps its
            `suggestion_id` over several requests.
        hidden_reason: None exactly when a suggestion was offered.
        arms: `experiment=arm` pairs joined by `;`, empty outside experiments.
        queue_us: from arrival to the start of the work.
        total_us: from arrival to the answer.
        logprob_sum: natural logarithm of the suggestion's probability.
    """

    table: ClassVar[str] = "opportunities"

    request_id: str
    suggestion_id: str | None = None
    hidden_reason: str | None = None
    language: str
    trigger: str
    source: str | None = None
    model: str = ""
    arms: str = ""
    context_class: str = ""
    chars: int = 0
    lines: int = 0
    queue_us: int = 0
    context_us: int = 0
    prompt_us: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    shape_us: int = 0
    total_us: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Of the drafted ones, those that the model confirmed."""
    logprob_sum: float | None = None
    stop: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown(Event):
    """The client reports that a suggestion is on screen. Not every client can."""

    table: ClassVar[str] = "shown"

    suggestion_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """A suggestion left the screen.

    Attributes:
        chars: length of the suggestion when it was first offered.
        accepted_chars: inserted by acceptance, whole or partial.
        typed_chars: typed by the user although suggested.
        visible_us: time on screen; None where the client does not report it.
    """

    table: ClassVar[str] = "ended"

    suggestion_id: str
    resolution: Resolution
    chars: int
    accepted_chars: int = 0
    typed_chars: int = 0
    visible_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence(Event):
    """One look at accepted text.

    Attributes:
        after_s: which check, one of `PERSISTENCE_CHECKS_S`.
        late_us: how long after it was due.
        inserted_chars: length of the text as accepted.
        present_chars: length of what stands in its place; None if censored as missing.
        distance: Levenshtein distance between the two; None if censored as missing.
        reason: why it is missing, else None.
    """

    table: ClassVar[str] = "persistence"

    suggestion_id: str
    after_s: int
    status: CheckStatus
    late_us: int
    inserted_chars: int
    present_chars: int | None = None
    distance: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity(Event):
    """Up to a minute of work in the editor, ending at `at_us`.

    Attributes:
        active_us: time between edits no more than a minute apart.
        typed_chars: inserted by the user, accepted suggestions excluded.
        completed_chars: inserted by accepted suggestions.
    """

    table: ClassVar[str] = "activity"

    active_us: int
    typed_chars: int
    completed_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure(Event):
    """The first time that a unit's assignment to an arm mattered."""

    table: ClassVar[str] = "exposures"

    experiment: str
    arm: str
    weight: int
    """Of the arm, relative to the others: what the sample ratio is tested against."""
    unit: str
    """Kind of the unit of randomisation: `user` or `user_day`."""
    day: str
    """UTC date of the exposure; of a `user_day` unit, its day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """Events that could not be kept, so that a gap is never silent."""

    table: ClassVar[str] = "lost"

    events: int
    reason: str


EVENTS: tuple[type[Event], ...] = (
    Opportunity,
    Shown,
    Ended,
    Persistence,
    Activity,
    Exposure,
    Lost,
)


VIEWS = ("suggestions", "user_days")
"""Read-only views for analysts, see `docs/telemetry.md`."""


def columns_of(event: type[Event]) -> list[str]:
    """Column names of the event's own fields, in order."""
    return [item.name for item in fields(event)]
