from __future__ import annotations

from collections import Counter

import pytest

from telemetry.events import Exposure
from telemetry.experiments import Assignments, ExperimentError, parse_experiments

DAY_US = 86_400_000_000
TWO = """
[experiments.one]
unit = "user"
[experiments.one.arms.control]
[experiments.one.arms.test]
weight = 3
settings = { "confidence.min_logprob" = -2.5 }
[experiments.two]
unit = "user_day"
[experiments.two.arms.a]
[experiments.two.arms.b]
"""


def test_assignment_is_deterministic_weighted_and_independent() -> None:
    one, two = parse_experiments(TWO)
    users = [f"user-{n}" for n in range(4000)]
    pairs = Counter((one.assign(u, "d").name, two.assign(u, "d").name) for u in users)
    for (first, _), count in pairs.items():
        expected = 4000 * (0.75 if first == "test" else 0.25) / 2
        assert abs(count - expected) < 5 * expected**0.5
    again = parse_experiments(TWO)[0]
    assert [one.assign(u, "d") for u in users[:50]] == [again.assign(u, "e") for u in users[:50]]
    # A frozen value: assignments must survive releases.
    assert [one.assign(u, "").name for u in users[:6]] == FROZEN
    days = {two.assign("me", f"2026-01-{day:02}").name for day in range(1, 29)}
    assert days == {"a", "b"}


FROZEN = ["control", "control", "test", "test", "test", "test"]


def test_exposure_is_logged_once_a_unit_in_every_arm() -> None:
    seen: list[Exposure] = []
    assignments = Assignments(parse_experiments(TWO), "me", seen.append)  # type: ignore[arg-type]
    for now_us in (0, 5, DAY_US, DAY_US + 1):
        arms = assignments.consult(now_us)
        assert arms.keys() == {"one", "two"}
    assert [(e.experiment, e.unit, e.day) for e in seen] == [
        ("one", "user", "1970-01-01"),
        ("two", "user_day", "1970-01-01"),
        ("two", "user_day", "1970-01-02"),
    ]
    again: list[Exposure] = []
    Assignments(parse_experiments(TWO), "me", again.append).consult(7)  # type: ignore[arg-type]
    assert [e.event_id for e in again] == [e.event_id for e in seen[:2]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[experiments", "not TOML"),
        ("experiments = 3", "not a table"),
        ("[other]", "unknown key 'other'"),
        ("[experiments.x]\nunit='user'", "x.arms is not a table"),
        ("[experiments.x]\nunit='hour'\n[experiments.x.arms.a]", "unit is neither"),
        ("[experiments.x]\nunit='user'\n[experiments.x.arms.a]", "fewer than two"),
        (TWO.replace("weight = 3", "weight = 0"), "weight"),
        (TWO.replace("weight = 3", "weight = true"), "weight"),
        (TWO.replace("weight = 3", "wait = 3"), "unknown key 'wait'"),
        (TWO.replace("arms.test]", "arms.'a;b=c']"), "letters"),
        (TWO.replace("unit =", "salt = 's'\nunit ="), "same salt"),
        (TWO + "settings = { 'confidence.min_logprob' = 1 }", "both change"),
    ],
)
def test_a_mistake_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ExperimentError, match=complaint):
        parse_experiments(text)


def test_an_empty_file_has_no_experiments() -> None:
    assert parse_experiments("") == ()
