"""A simulated fleet's record: users of different skill, an experiment that helps, real shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from telemetry.collector.intake import Batch
from telemetry.collector.sinks import open_sink
from telemetry.events import (
    PERSISTENCE_CHECKS_S,
    Activity,
    CheckStatus,
    Ended,
    Event,
    Exposure,
    Opportunity,
    Persistence,
    Resolution,
    Shown,
)

DAY_US = 86_400_000_000
FIRST_DAY = 20_500
"""2026-02-16."""
BEFORE = 3
"""Days that everybody works before the experiment."""
EXPERIMENT = "eager"
_HIDDEN = {"low_confidence": 0.55, "superseded": 0.25, "deadline": 0.12, "excluded": 0.08}
_ENDS = {
    Resolution.IGNORED: 0.45,
    Resolution.DISMISSED: 0.15,
    Resolution.TYPED_THROUGH: 0.3,
    Resolution.PARTIALLY_ACCEPTED: 0.1,
}


def simulate(user: int, days: int, requests: int) -> Iterator[Event]:
    """The events of one user: `requests` a day, of whom 40 % get a suggestion."""
    chance = np.random.default_rng(user)
    skill, diligence = chance.beta(6, 12), chance.beta(8, 4)
    arm = ("control", "eager")[user % 2]
    for day in range(days):
        start = (FIRST_DAY + day) * DAY_US + 9 * DAY_US // 24
        arms = f"{EXPERIMENT}={arm}" if day >= BEFORE else ""
        if day == BEFORE:
            date = str(np.datetime64(FIRST_DAY + day, "D"))
            yield Exposure(
                at_us=start, experiment=EXPERIMENT, arm=arm, weight=1, unit="user", day=date
            )
        completed = 0
        for n in range(requests):
            name, at_us = f"u{user}d{day}n{n}", start + n * 60_000_000
            total_us = int(1000 * chance.gamma(6, 7))
            offered = chance.random() < 0.4
            hidden = None if offered else str(chance.choice(list(_HIDDEN), p=[*_HIDDEN.values()]))
            chars = 5 + int(chance.poisson(18))
            yield Opportunity(
                event_id=f"o-{name}",
                at_us=at_us,
                request_id=name,
                suggestion_id=name if offered else None,
                hidden_reason=hidden,
                language="python",
                trigger="automatic",
                source="model",
                arms=arms,
                chars=chars if offered else 0,
                total_us=total_us,
                logprob_sum=-float(chance.gamma(2, 0.5)),
            )
            if offered:
                better = 1.9 if arms.endswith("eager") else 1.0
                accepted = chance.random() < min(skill * better, 0.95)
                completed += chars if accepted else 0
                yield from _suggestion(name, at_us, chars, chance, diligence, accepted=accepted)
        active = int(DAY_US / 24 * chance.uniform(2, 4))
        yield Activity(
            event_id=f"a-u{user}d{day}",
            at_us=start,
            active_us=active,
            typed_chars=int(chance.poisson(4000)),
            completed_chars=completed,
        )


def _suggestion(
    name: str,
    at_us: int,
    chars: int,
    chance: np.random.Generator,
    diligence: float,
    *,
    accepted: bool,
) -> Iterator[Event]:
    yield Shown(event_id=f"s-{name}", at_us=at_us, suggestion_id=name)
    end = Resolution.ACCEPTED if accepted else list(_ENDS)[chance.choice(4, p=[*_ENDS.values()])]
    yield Ended(
        event_id=f"e-{name}",
        at_us=at_us + 2_000_000,
        suggestion_id=name,
        resolution=end,
        chars=chars,
        accepted_chars=chars if accepted else 0,
        visible_us=int(chance.gamma(3, 500_000)),
    )
    gone = 0
    for after_s in PERSISTENCE_CHECKS_S if accepted else ():
        if chance.random() > diligence:
            gone = min(chars, gone + int(chance.integers(1, chars)))
        late = chance.random() < 0.05
        yield Persistence(
            event_id=f"p-{name}-{after_s}",
            at_us=at_us + after_s * 1_000_000,
            suggestion_id=name,
            after_s=after_s,
            status=CheckStatus.LATE if late else CheckStatus.ON_TIME,
            late_us=60_000_000 if late else 0,
            inserted_chars=chars,
            present_chars=chars,
            distance=gone,
        )


def row(event: Event, user: str) -> tuple[object, ...]:
    """The event's values in the order of `telemetry.collector.intake.columns`."""
    own = (getattr(event, field.name) for field in fields(event))
    return user, f"session-{user}", 1, *own


def write_fleet(path: Path, *, users: int, days: int, requests: int) -> int:
    """Write the record of a fleet as a database; the number of events."""
    sink = open_sink(str(path))
    sink.open()
    written = 0
    for user in range(users):
        rows: dict[str, list[tuple[object, ...]]] = {}
        for event in simulate(user, days, requests):
            rows.setdefault(event.table, []).append(row(event, f"user{user}"))
        written += sink.write(Batch(rows))
    sink.close()
    return written
