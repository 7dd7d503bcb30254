"""A record of an experiment with many users, as it would have been written by their servers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from telemetry.events import (
    Activity,
    CheckStatus,
    Ended,
    Event,
    Exposure,
    Opportunity,
    Persistence,
    Resolution,
    Shown,
    columns_of,
)
from telemetry.store import open_database

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
FIRST = 20_000
"""Day on which everybody is exposed; the record starts two days earlier."""


def insert(path: Path, user: str, events: list[Event]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for event in events:
            names = columns_of(type(event))
            marks = ", ".join("?" * (3 + len(names)))
            connection.execute(
                f"insert into {event.table} (user_id, session_id, version, {', '.join(names)}) "
                f"values ({marks})",
                [user, "s", 1, *(getattr(event, name) for name in names)],
            )
        connection.commit()


def suggestion(name: str, at_us: int, chars: int, distance: int, arms: str) -> list[Event]:
    """One accepted suggestion and its check after five minutes."""
    return [
        Opportunity(
            at_us=at_us,
            request_id=name,
            suggestion_id=name,
            language="python",
            trigger="automatic",
            source="model",
            arms=arms,
            chars=chars,
            total_us=30_000 + 1000 * chars,
        ),
        Shown(at_us=at_us, suggestion_id=name),
        Ended(
            at_us=at_us + 1,
            suggestion_id=name,
            resolution=Resolution.ACCEPTED,
            chars=chars,
            accepted_chars=chars,
            visible_us=900_000,
        ),
        Persistence(
            at_us=at_us + 300_000_000,
            suggestion_id=name,
            after_s=300,
            status=CheckStatus.ON_TIME,
            late_us=0,
            inserted_chars=chars,
            present_chars=chars,
            distance=distance,
        ),
    ]


def user_events(number: int, arm: str, effect: float) -> list[Event]:
    random = np.random.default_rng(number)
    skill = random.gamma(8, 1)
    events: list[Event] = []
    for day in range(FIRST - 2, FIRST + 3):
        start = day * DAY_US
        arms = f"x={arm}" if day >= FIRST else ""
        for n in range(3):
            chars = 5 + int(random.poisson(skill))
            if day >= FIRST and arm == "test":
                chars += round(effect)
            name = f"u{number}d{day}n{n}"
            distance = int(random.integers(0, 9))
            events += suggestion(name, start + n * 1000, chars, distance, arms)
        active = int(HOUR_US * random.uniform(0.5, 2))
        events.append(Activity(at_us=start, active_us=active, typed_chars=200, completed_chars=40))
    return events


def exposure(arm: str, day: int = FIRST, unit: str = "user", **fields: object) -> Exposure:
    date = str(np.datetime64(day, "D"))
    known = {"experiment": "x", "arm": arm, "weight": 1, "unit": unit, "day": date}
    return Exposure(at_us=day * DAY_US, **known | fields)  # type: ignore[arg-type]


def write_record(path: Path, users: int, *, effect: float = 0.0, skew: int = 0) -> Path:
    """A record of `users` users; `skew` of them are only in the control."""
    open_database(path).conn.close()
    for number in range(users):
        arm = "control" if number % 2 == 0 or number < skew else "test"
        insert(path, f"user{number}", [*user_events(number, arm, effect), exposure(arm)])
    return path


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users, the test arm's suggestions five characters longer."""
    return write_record(tmp_path_factory.mktemp("record") / "telemetry.db", 60, effect=9)
