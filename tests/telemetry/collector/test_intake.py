from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra collector is not installed")

from hypothesis import given
from hypothesis import strategies as st

from telemetry.collector.intake import BATCH_LIMIT, Aside, UploadError, columns, parse
from telemetry.events import (
    EVENTS,
    Activity,
    CheckStatus,
    Ended,
    Exposure,
    Lost,
    Opportunity,
    Persistence,
    Resolution,
    Shown,
)
from tests.telemetry.collector.conftest import HOSTILE, as_upload, shown

ONE_OF_EACH = [
    Opportunity(at_us=1, request_id="r", language="python", trigger="automatic", logprob_sum=-0.5),
    Shown(at_us=2, suggestion_id="s"),
    Ended(at_us=3, suggestion_id="s", resolution=Resolution.ACCEPTED, chars=3),
    Persistence(
        at_us=4,
        suggestion_id="s",
        after_s=30,
        status=CheckStatus.ON_TIME,
        late_us=0,
        inserted_chars=3,
    ),
    Activity(at_us=5, active_us=1, typed_chars=2, completed_chars=3),
    Exposure(at_us=6, experiment="x", arm="a", weight=1, unit="user", day="2026-01-01"),
    Lost(at_us=7, events=1, reason="overflow"),
]


def parsed(*events: object) -> Any:
    return parse(json.dumps({"events": list(events)}).encode())


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.table)
def test_each_event_becomes_its_row(event: Any) -> None:
    batch = parsed(as_upload(event))
    assert not batch.aside
    row = dict(zip(columns(type(event)), batch.rows[event.table][0], strict=True))
    assert row.pop("user_id") == "u1"
    assert row.pop("session_id") == "s1"
    assert row.pop("version") == 1
    assert row == {name: getattr(event, name) for name in row}
    assert len(ONE_OF_EACH) == len(EVENTS)


def test_texts_stay_texts() -> None:
    batch = parsed(as_upload(ONE_OF_EACH[0], language=HOSTILE, arms=HOSTILE, hidden_reason=HOSTILE))
    assert batch.rows["opportunities"][0].count(HOSTILE) == 3


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"table": "sqlite_master"}, "unknown table"),
        ({"table": ["shown"]}, "unknown table"),
        ({"version": 0}, "version"),
        ({"version": True}, "version"),
        ({"at_us": -1}, "at_us"),
        ({"at_us": 2**62}, "at_us"),
        ({"at_us": 10**30}, "at_us"),
        ({"at_us": "1"}, "at_us"),
        ({"at_us": 1.5}, "at_us"),
        ({"at_us": None}, "at_us"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": HOSTILE}, "event_id"),
        ({"event_id": None}, "event_id"),
        ({"user_id": "x" * 65}, "user_id"),
        ({"suggestion_id": {"a": 1}}, "suggestion_id"),
        ({"text": "source code"}, "text"),
    ],
)
def test_malformed_events_are_kept_aside(change: dict[str, Any], detail: str) -> None:
    batch = parsed(shown(1) | change, shown(2))
    assert [item.reason for item in batch.aside] == [Aside.MALFORMED]
    assert detail in batch.aside[0].detail
    assert len(batch.rows["shown"]) == 1
    assert batch.events == 2


@pytest.mark.parametrize(
    "change",
    [
        {"language": "x" * 201},
        {"language": "nul\0"},
        {"chars": 10**13},
        {"logprob_sum": float("nan")},
        {"logprob_sum": float("-inf")},
        {"total_us": True},
    ],
)
def test_values_that_would_spoil_reports_are_kept_aside(change: dict[str, Any]) -> None:
    batch = parsed(as_upload(ONE_OF_EACH[0]) | change)
    assert not batch.rows
    assert batch.aside[0].reason is Aside.MALFORMED


def test_missing_fields_are_malformed() -> None:
    event = shown(1)
    del event["suggestion_id"]
    assert parsed(event).aside[0].detail.startswith("suggestion_id")


def test_events_of_a_newer_version_are_kept_whole() -> None:
    event = shown(1) | {"version": 2, "table": "of_the_future", "field": [1, 2]}
    (kept,) = parsed(event).aside
    assert kept.reason is Aside.NEWER
    assert kept.event_id == "e1"
    assert json.loads(kept.body) == event


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"\xff", "not_json"),
        (b'{"events": [', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"events": ["\\ud800"]}', "not_json"),
        (b"[]", "no_events"),
        (b"{}", "no_events"),
        (b'{"events": {}}', "no_events"),
        (json.dumps({"events": [0] * (BATCH_LIMIT + 1)}).encode(), "too_many_events"),
    ],
)
def test_bodies_that_are_no_upload(body: bytes, reason: str) -> None:
    with pytest.raises(UploadError) as caught:
        parse(body)
    assert caught.value.reason == reason


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(shown(1), _JSON)) | _JSON))
def test_every_event_has_a_place(events: list[Any]) -> None:
    body = json.dumps({"events": events}).encode("utf-8", "surrogatepass")
    batch = parse(body)
    assert batch.events == len(events)
