"""Metrics as sums per unit of randomisation: the ratio of two sums is a ratio of means.

Everything is an Ibis expression and runs on the engine that holds the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis
from ibis.expr.types import BooleanValue, FloatingScalar, FloatingValue, Table

from telemetry.analysis.source import Source
from telemetry.experiments import Unit

HOUR_US = 3_600_000_000
RETAINED = 0.67
"""An accepted suggestion is retained if at least this fraction of it is there (CPR)."""


class ExperimentDataError(Exception):
    """The exposures of an experiment do not make one experiment; the message says why."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The ratio of two columns of `units`, summed.

    Attributes:
        decides: unconditional, so that arms can be compared by it; otherwise it is
            conditioned on what the arm changed and only describes.
        guard: a guard rail, watched for harm.
    """

    name: str
    numerator: str
    denominator: str
    label: str
    decides: bool = True
    guard: bool = False


PRIMARY = Metric(
    "retained_per_hour", "retained_chars", "active_hours", "retained characters per active hour"
)
METRICS = (
    PRIMARY,
    Metric("completed_ratio", "completed_chars", "all_chars", "completed / all characters"),
    Metric("latency_ms", "total_ms", "opportunities", "mean latency, ms", guard=True),
    Metric("offer_ratio", "offers", "opportunities", "offered / opportunities", guard=True),
    Metric("dismissals", "dismissed", "active_hours", "dismissals per active hour", guard=True),
    Metric("error_ratio", "errors", "opportunities", "errors / opportunities", guard=True),
    Metric("car_visible", "accepted_visible", "visible", "CAR (visible ≥ 750 ms)", decides=False),
    Metric("car_offered", "accepted", "suggestions", "accepted / offered", decides=False),
    Metric("cpr_30", "kept_30", "checked_30", "CPR@30", decides=False),
    Metric("cpr_120", "kept_120", "checked_120", "CPR@120", decides=False),
    Metric("cpr_300", "kept_300", "checked_300", "CPR@300", decides=False),
    Metric("cpr_600", "kept_600", "checked_600", "CPR@600", decides=False),
)

_DAY_SUMS = (
    "retained_chars",
    "completed_chars",
    "opportunities",
    "offers",
    "errors",
    "dismissed",
    "accepted",
    "suggestions",
)


def user_day_sums(source: Source) -> Table:
    """What `units` adds up, one row a user-day, all columns float64."""
    days, suggestions = source.user_days, source.suggestions
    accepted = (suggestions.resolution == "accepted").fill_null(False)
    visible = (suggestions.visible.cast("int64") == 1).fill_null(False)
    sums = {
        "visible": _count(visible),
        "accepted_visible": _count(accepted & visible),
    }
    for after in (30, 120, 300, 600):
        retained = suggestions[f"retained_{after}"].cast("float64")
        checked = accepted & retained.notnull()
        kept = checked & (retained >= RETAINED).fill_null(False)
        sums[f"checked_{after}"] = _count(checked)
        sums[f"kept_{after}"] = _count(kept)
    shown = suggestions.group_by(["user_id", "day"]).aggregate(**sums)
    joined = days.left_join(shown, ["user_id", "day"])
    return joined.select(
        user_id=days.user_id,
        day=days.day.cast("string"),
        active_hours=days.active_us.cast("float64") / HOUR_US,
        all_chars=(days.completed_chars + days.typed_chars).cast("float64"),
        total_ms=days.total_us.cast("float64") / 1000,
        **{name: days[name].cast("float64") for name in _DAY_SUMS},
        **{name: shown[name].fill_null(0.0) for name in sums},
    )


def _count(condition: BooleanValue) -> FloatingScalar:
    """How many rows satisfy a condition."""
    return indicator(condition).sum()


def indicator(condition: BooleanValue) -> FloatingValue:
    """1.0 where a condition holds; not every engine casts a condition to a number."""
    return ibis.ifelse(condition, 1, 0).cast("float64")


def unit_of(source: Source, experiment: str) -> Unit:
    """What the experiment randomises.

    Raises:
        ExperimentDataError: nobody was exposed, or units are mixed.
    """
    exposures = source.exposures.filter(source.exposures.experiment == experiment)
    kinds = exposures.unit.cast("string").name("unit").as_table().distinct().to_pyarrow()
    found = sorted(kinds["unit"].to_pylist())
    if not found:
        raise ExperimentDataError(f"nobody was exposed to {experiment!r}")
    if len(found) > 1:
        raise ExperimentDataError(f"{experiment!r} mixes units: {' and '.join(found)}")
    return Unit(found[0])


def units(source: Source, experiment: str, unit: Unit) -> Table:
    """One row a unit: `variant` and the sums since exposure; units that met two arms are out.

    Users also have their sums from before, `pre_retained_chars` and `pre_active_hours`, as
    covariates (CUPED).
    """
    exposures = source.exposures.filter(source.exposures.experiment == experiment)
    keys = ["user_id"] if unit is Unit.USER else ["user_id", "day"]
    exposed = exposures.group_by(keys).aggregate(
        variant=exposures.arm.min(),
        variants=exposures.arm.nunique(),
        **({"since": exposures.day.cast("string").min()} if unit is Unit.USER else {}),
    )
    exposed = exposed.filter(exposed.variants == 1)
    days = user_day_sums(source)
    columns = [name for name in days.columns if name not in ("user_id", "day")]
    if unit is Unit.USER_DAY:
        joined = exposed.left_join(days, keys)
        return joined.select(
            variant=exposed.variant, **{name: days[name].fill_null(0.0) for name in columns}
        )
    joined = exposed.left_join(days, "user_id")
    after = (days.day >= exposed.since).fill_null(False)
    joined = joined.select(
        unit_id=exposed.user_id,
        variant=exposed.variant,
        **{name: ibis.ifelse(after, days[name], 0.0) for name in columns},
        pre_retained_chars=ibis.ifelse(after, 0.0, days.retained_chars.fill_null(0.0)),
        pre_active_hours=ibis.ifelse(after, 0.0, days.active_hours.fill_null(0.0)),
    )
    columns += ["pre_retained_chars", "pre_active_hours"]
    return joined.group_by(["unit_id", "variant"]).aggregate(
        **{name: joined[name].sum() for name in columns}
    )
