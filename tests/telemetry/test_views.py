from __future__ import annotations

import re
from pathlib import Path

import pytest

from telemetry.events import (
    EVENTS,
    Activity,
    CheckStatus,
    Ended,
    Event,
    Opportunity,
    Persistence,
    Resolution,
    Shown,
)
from telemetry.store import Store
from tests.telemetry.conftest import TIMEOUT, Rows

DOCS = Path(__file__).parents[2] / "docs" / "telemetry.md"
QUERIES = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
SECOND = 1_000_000
HOUR = 3600 * SECOND


def offer(at_us: int, suggestion: str, **fields: object) -> Opportunity:
    known = {"request_id": f"r{at_us}", "language": "python", "trigger": "automatic"}
    return Opportunity(at_us=at_us, suggestion_id=suggestion, **known | fields)  # type: ignore[arg-type]


def ended(at_us: int, suggestion: str, how: Resolution, **fields: int) -> Ended:
    return Ended(at_us=at_us, suggestion_id=suggestion, resolution=how, chars=10, **fields)


def check(suggestion: str, after_s: int, distance: int, status: str = "on_time") -> Persistence:
    return Persistence(
        at_us=after_s * SECOND,
        suggestion_id=suggestion,
        after_s=after_s,
        status=CheckStatus(status),
        late_us=0,
        inserted_chars=10,
        present_chars=10,
        distance=distance,
    )


STORY: list[Event] = [
    offer(1 * SECOND, "kept", source="model", chars=10, total_us=40_000),
    offer(2 * SECOND, "kept", source="typed_through", chars=8, total_us=100),
    Shown(at_us=1 * SECOND, suggestion_id="kept"),
    ended(3 * SECOND, "kept", Resolution.ACCEPTED, accepted_chars=8, visible_us=500_000),
    check("kept", 30, 0),
    check("kept", 300, 2),
    check("kept", 600, 10, "late"),
    offer(4 * SECOND, "seen", source="model", chars=10),
    Shown(at_us=4 * SECOND, suggestion_id="seen"),
    ended(5 * SECOND, "seen", Resolution.IGNORED, visible_us=750_000),
    offer(6 * SECOND, "glimpsed", source="model", chars=10),
    Shown(at_us=6 * SECOND, suggestion_id="glimpsed"),
    ended(7 * SECOND, "glimpsed", Resolution.DISMISSED, visible_us=749_999),
    offer(8 * SECOND, "offered", source="model", chars=10),
    ended(9 * SECOND, "offered", Resolution.ACCEPTED, accepted_chars=10),
    offer(10 * SECOND, "open", source="model", chars=10),
    Opportunity(
        at_us=11 * SECOND,
        request_id="h",
        language="python",
        trigger="automatic",
        hidden_reason="error",
    ),
    Activity(at_us=12 * SECOND, active_us=HOUR // 2, typed_chars=82, completed_chars=18),
    offer(24 * HOUR, "tomorrow", source="model", chars=10),
]


@pytest.fixture
def filled(store: Store) -> Store:
    for event in STORY:
        store.put(event)
    store.close(TIMEOUT)
    return store


def test_one_row_a_suggestion(filled: Store, rows: Rows) -> None:
    found = {row["suggestion_id"]: row for row in rows("select * from suggestions")}
    assert {name: row["visible"] for name, row in found.items()} == {
        "kept": 1,  # accepted sooner than 750 ms
        "seen": 1,
        "glimpsed": 0,
        "offered": None,  # nothing was reported: not the same as unseen
        "open": None,
        "tomorrow": None,
    }
    kept = found["kept"]
    assert (kept["chars"], kept["accepted_chars"], kept["requests"]) == (10, 8, 2)
    assert kept["model_total_us"] == 40_000
    retained = [kept[f"retained_{after}"] for after in (30, 120, 300, 600)]
    assert retained == [1.0, None, 0.8, None]
    assert found["open"]["resolution"] is None


def test_one_row_a_user_day(filled: Store, rows: Rows) -> None:
    today, tomorrow = rows("select * from user_days order by day")
    assert (today["day"], tomorrow["day"]) == ("1970-01-01", "1970-01-02")
    assert (today["opportunities"], today["offers"], today["errors"]) == (7, 6, 1)
    assert (today["suggestions"], today["accepted"], today["dismissed"]) == (5, 2, 1)
    # The check of "offered" is censored: the user's mean stands in, not zero.
    assert today["retained_chars"] == pytest.approx(8 * 0.8 + 10 * 0.8)
    assert (today["accepted_chars"], today["censored"]) == (18, 1)
    assert (today["active_us"], today["typed_chars"]) == (HOUR // 2, 82)
    assert (tomorrow["suggestions"], tomorrow["active_us"]) == (1, 0)


def test_the_documented_queries_answer(filled: Store, rows: Rows) -> None:
    why, cpr, car, hourly, latency = map(rows, QUERIES)
    assert why == [{"hidden_reason": "error", "requests": 1}]
    assert cpr == [{"cpr_30": 1.0, "cpr_120": None, "cpr_300": 1.0, "cpr_600": None}]
    assert car == [{"language": "python", "car": 0.5, "visible": 2}]
    assert hourly[0]["retained_per_hour"] == pytest.approx(28.8)
    assert hourly[0]["completed_code_ratio"] == pytest.approx(0.18)
    assert latency[-1] == {"at_least_ms": 40, "requests": 1}


@pytest.mark.parametrize("kind", EVENTS)
def test_every_table_is_documented(kind: type[Event]) -> None:
    assert f"| `{kind.table}` |" in DOCS.read_text(encoding="utf-8")
