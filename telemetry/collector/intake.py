"""From the body of an upload to rows: what is well formed, and what is kept aside and why.

The sender is not trusted: types are strict, texts are short, numbers are small enough that
sums over millions of rows fit 64 bits, and nothing is interpreted as SQL or HTML.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model
from pydantic_core import from_json

from telemetry.events import EVENTS, SCHEMA_VERSION, Event, columns_of
from telemetry.store import TEXT_LIMIT

BATCH_LIMIT = 1000
"""Most events of one upload."""
_LARGEST = 10**12
"""Of durations in microseconds and lengths: eleven days; nine million of them add up."""
_LAST_US = 253_402_300_799_999_999
"""The end of the year 9999: later times have no date."""

Text = Annotated[str, StringConstraints(max_length=TEXT_LIMIT, pattern=r"^[^\x00]*$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_.:-]{1,64}$")]
Number = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
Time = Annotated[int, Field(ge=0, le=_LAST_US)]
Real = Annotated[float, Field(allow_inf_nan=False)]

ENVELOPE = ("user_id", "session_id", "version")
"""Columns that every row has besides the event's own."""


class UploadError(Exception):
    """The whole upload is refused; `reason` is one word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Aside(StrEnum):
    """Why an event is kept aside instead of in its table."""

    NEWER = "newer_version"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class KeptAside:
    """An event that has no place in the tables; `digest` tells its copies apart from others."""

    event_id: str
    reason: Aside
    detail: str
    digest: str
    body: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows by table, values in the order of `columns`, and what is kept aside."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    aside: list[KeptAside] = field(default_factory=list)

    @property
    def events(self) -> int:
        """Events of the upload."""
        return sum(map(len, self.rows.values())) + len(self.aside)


def columns(event: type[Event]) -> list[str]:
    """Column names of an event's table in the order in which `Batch.rows` has their values."""
    return [*ENVELOPE, *columns_of(event)]


def _field(name: str, kind: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any annotation of an event
    optional = isinstance(kind, UnionType)
    base = next(part for part in get_args(kind) if part is not type(None)) if optional else kind
    checked: Any
    if name.endswith("_id"):
        checked = Identifier
    elif name == "at_us":
        checked = Time
    elif issubclass(base, StrEnum):
        checked = Annotated[base, Field(strict=False)]
    else:
        checked = {str: Text, int: Number, float: Real}[base]
    # Uploads name every field; a sender that leaves one out is not of this version.
    return (checked | None if optional else checked), ...


def model_of(event: type[Event]) -> type[BaseModel]:
    """The checked form of an event as uploads carry it."""
    hints = get_type_hints(event)
    fields: dict[str, Any] = {
        "user_id": (Identifier, ...),
        "session_id": (Identifier, ...),
        "version": (Annotated[int, Field(ge=1, le=SCHEMA_VERSION)], ...),
    }
    fields |= {name: _field(name, hints[name]) for name in columns_of(event)}
    config = ConfigDict(extra="forbid", strict=True)
    return create_model(event.__name__, __config__=config, __doc__=event.__doc__, **fields)


_MODELS = {event.table: model_of(event) for event in EVENTS}


def parse(body: bytes) -> Batch:
    """Check an upload, `{"events": [{"table": …, fields …}, …]}`.

    Raises:
        UploadError: not JSON of that form, or too many events.
    """
    try:
        upload = from_json(body)
    except ValueError as error:
        raise UploadError("not_json", f"the body is not JSON: {error}") from error
    events = upload.get("events") if isinstance(upload, dict) else None
    if not isinstance(events, list):
        raise UploadError("no_events", 'the body is not of the form {"events": [...]}')
    if len(events) > BATCH_LIMIT:
        raise UploadError(
            "too_many_events", f"{len(events)} events; one upload has at most {BATCH_LIMIT}"
        )
    batch = Batch()
    for event in events:
        _sort(event, batch)
    for rows in batch.rows.values():
        # Writers that insert the same events in the same order cannot deadlock.
        rows.sort(key=_event_id)
    return batch


_EVENT_ID = len(ENVELOPE) + columns_of(Event).index("event_id")


def _event_id(row: Sequence[Any]) -> str:
    return str(row[_EVENT_ID])


def _sort(event: object, batch: Batch) -> None:
    if not isinstance(event, dict):
        batch.aside.append(_aside(event, Aside.MALFORMED, "not an object"))
        return
    version, table = event.get("version"), event.get("table")
    if type(version) is int and version > SCHEMA_VERSION:
        detail = f"version {version}; this collector knows {SCHEMA_VERSION}"
        batch.aside.append(_aside(event, Aside.NEWER, detail))
        return
    model = _MODELS.get(table) if isinstance(table, str) else None
    if model is None:
        batch.aside.append(_aside(event, Aside.MALFORMED, "unknown table"))
        return
    try:
        checked = model.model_validate({k: v for k, v in event.items() if k != "table"})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        batch.aside.append(_aside(event, Aside.MALFORMED, f"{where}: {first['msg']}"[:TEXT_LIMIT]))
        return
    # Fields were made in the order of `columns`.
    batch.rows.setdefault(str(table), []).append(tuple(checked.__dict__.values()))


def _aside(event: object, reason: Aside, detail: str) -> KeptAside:
    body = json.dumps(event, sort_keys=True)
    name = event.get("event_id") if isinstance(event, dict) else None
    return KeptAside(
        event_id=name[:64].replace("\0", "") if isinstance(name, str) else "",
        reason=reason,
        detail=detail.replace("\0", ""),
        digest=hashlib.sha256(body.encode()).hexdigest(),
        body=body,
    )
