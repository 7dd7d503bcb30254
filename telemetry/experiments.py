"""Which arm of which experiment applies, and when that first mattered.

Assignment is a hash of the experiment's salt and the unit, so it needs no memory, is the same
everywhere, and is independent between experiments. The unit is a user or, where there is only
one user, a day of theirs; an experiment has one kind and keeps it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from telemetry.events import Event, Exposure

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SCALE = 2**64


class ExperimentError(ValueError):
    """`experiments.toml` cannot be used; the message names the place."""


class Unit(StrEnum):
    """What is randomised."""

    USER = "user"
    USER_DAY = "user_day"


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant: the settings that it changes, by dotted name; none in a control."""

    name: str
    weight: int
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Experiment:
    """Arms and how units get to them. The salt is the name unless one is given."""

    name: str
    unit: Unit
    salt: str
    arms: tuple[Arm, ...]

    def assign(self, user_id: str, day: str) -> Arm:
        """The arm of a unit; `day` is a UTC date."""
        unit = user_id if self.unit is Unit.USER else f"{user_id}\0{day}"
        digest = hashlib.sha256(f"{self.salt}\0{unit}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") * sum(arm.weight for arm in self.arms)
        for arm in self.arms:
            point -= arm.weight * _SCALE
            if point < 0:
                return arm
        raise AssertionError("the hash lies below the sum of the weights")


def parse_experiments(text: str) -> tuple[Experiment, ...]:
    """Experiments of a TOML file; `docs/experiments.md` describes it.

    Raises:
        ExperimentError: not TOML, or not of that form, or two experiments change one setting.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"not TOML: {error}") from None
    tables = _table(data, "the file")
    _only(tables, {"experiments"}, "the file")
    named = _table(tables.get("experiments", {}), "experiments")
    experiments = tuple(_experiment(name, value) for name, value in named.items())
    owner: dict[str, str] = {}
    for experiment in experiments:
        for setting in {name for arm in experiment.arms for name in arm.settings}:
            other = owner.setdefault(setting, experiment.name)
            if other != experiment.name:
                raise ExperimentError(f"{other} and {experiment.name} both change {setting}")
    salts = [experiment.salt for experiment in experiments]
    if len(set(salts)) < len(salts):
        raise ExperimentError("two experiments have the same salt")
    return experiments


class Assignments:
    """The arms of one user; tells `put` of every unit's first exposure."""

    def __init__(
        self, experiments: tuple[Experiment, ...], user_id: str, put: Callable[[Event], None]
    ) -> None:
        """`put` takes an `Exposure` once a unit and experiment, however often it is met."""
        self._experiments = experiments
        self._user_id = user_id
        self._put = put
        self._exposed: set[tuple[str, str]] = set()

    def consult(self, now_us: int) -> dict[str, Arm]:
        """The arm of each experiment now, by the experiment's name; counts as exposure."""
        day = datetime.fromtimestamp(now_us / 1_000_000, UTC).date().isoformat()
        arms = {}
        for experiment in self._experiments:
            arm = experiment.assign(self._user_id, day)
            arms[experiment.name] = arm
            unit_day = day if experiment.unit is Unit.USER_DAY else ""
            if (experiment.name, unit_day) not in self._exposed:
                self._exposed.add((experiment.name, unit_day))
                self._put(self._exposure(experiment, arm, day, now_us))
        return arms

    def _exposure(self, experiment: Experiment, arm: Arm, day: str, now_us: int) -> Exposure:
        # The same unit in the same arm is the same event, in every session and process.
        unit_day = day if experiment.unit is Unit.USER_DAY else ""
        parts = ("exposure", experiment.name, experiment.salt, arm.name, self._user_id, unit_day)
        return Exposure(
            at_us=now_us,
            event_id=hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32],
            experiment=experiment.name,
            arm=arm.name,
            weight=arm.weight,
            unit=experiment.unit.value,
            day=day,
        )


def _experiment(name: str, value: object) -> Experiment:
    _name(name, "experiment")
    table = _table(value, name)
    _only(table, {"unit", "salt", "arms"}, name)
    salt = table.get("salt", name)
    if not isinstance(salt, str) or not salt:
        raise ExperimentError(f"{name}: salt is not a text")
    try:
        unit = Unit(str(table.get("unit")))
    except ValueError:
        raise ExperimentError(f"{name}: unit is neither 'user' nor 'user_day'") from None
    arms = tuple(_arm(name, *item) for item in _table(table.get("arms"), f"{name}.arms").items())
    if len(arms) < 2:
        raise ExperimentError(f"{name}: fewer than two arms")
    return Experiment(name, unit, salt, arms)


def _arm(experiment: str, name: str, value: object) -> Arm:
    _name(name, f"{experiment}: arm")
    where = f"{experiment}.arms.{name}"
    table = _table(value, where)
    _only(table, {"weight", "settings"}, where)
    weight = table.get("weight", 1)
    if not isinstance(weight, int) or isinstance(weight, bool) or not 0 < weight <= 1_000_000:
        raise ExperimentError(f"{where}: weight is not a positive whole number")
    return Arm(name, weight, _table(table.get("settings", {}), f"{where}.settings"))


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ExperimentError(f"{where} is not a table")
    return value


def _only(table: Mapping[str, object], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise ExperimentError(f"{where}: unknown key {unknown[0]!r}")


def _name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name):
        raise ExperimentError(f"{kind} {name!r} is not of letters, digits, '.', '_' and '-'")
