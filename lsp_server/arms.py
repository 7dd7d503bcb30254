"""Experiment arms as policies: `settings` names fields of `Policies` by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from completion.types import Policies
from telemetry.experiments import Arm, Experiment, ExperimentError, parse_experiments

FILE = "experiments.toml"


def read_experiments(path: Path) -> tuple[Experiment, ...]:
    """Experiments of a file whose arms can all be applied; none if there is no file.

    Raises:
        ExperimentError: the file cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(str(error)) from None
    experiments = parse_experiments(text)
    for experiment in experiments:
        for arm in experiment.arms:
            apply_settings(Policies(), arm.settings)
    return experiments


def apply_arms(policies: Policies, arms: Mapping[str, Arm]) -> Policies:
    """The policies of a request under `arms` (by experiment); their names are part of them."""
    label = ";".join(f"{experiment}={arm.name}" for experiment, arm in sorted(arms.items()))
    for arm in arms.values():
        policies = apply_settings(policies, arm.settings)
    return replace(policies, arms=label)


def apply_settings(policies: Policies, settings: Mapping[str, object]) -> Policies:
    """`policies` with fields such as `confidence.min_logprob` set.

    Raises:
        ExperimentError: there is no such field, or the value has another type.
    """
    for name, value in settings.items():
        group, _, field = name.partition(".")
        policy: Any = getattr(policies, group, None)
        if not field or field not in getattr(policy, "__dataclass_fields__", ()):
            raise ExperimentError(f"there is no setting {name!r}")
        changed = replace(policy, **{field: _convert(name, getattr(policy, field), value)})
        policies = replace(policies, **{group: changed})
    return policies


def _convert(name: str, present: object, value: object) -> object:
    """`value` in the type of what it replaces."""
    if isinstance(present, Enum):
        try:
            return type(present)(value)
        except ValueError:
            raise ExperimentError(f"{name}: {value!r} is no choice") from None
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kinds = (int, float) if present is None else (type(present),)
    if type(value) not in kinds:
        raise ExperimentError(f"{name}: {value!r} has the wrong type")
    return value
