"""The report: what was suggested, and whether an experiment's arms differ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tea_tasting as tt

from telemetry.analysis import inference
from telemetry.analysis.inference import FEWEST_CLUSTERS, SRM_ALPHA, Vector
from telemetry.analysis.metrics import (
    METRICS,
    PRIMARY,
    RETAINED,
    ExperimentDataError,
    Metric,
    indicator,
    unit_of,
    units,
)
from telemetry.analysis.quantiles import latency_counts, quantile_ms
from telemetry.analysis.source import Source
from telemetry.experiments import Unit

CONTROL = "control"
"""The arm that others are compared with; the first by name where there is none of this name."""

Columns = dict[str, Vector]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one arm against the control. Intervals are of the difference."""

    metric: str
    label: str
    decides: bool
    guard: bool
    arm: str
    control_value: float
    value: float
    difference: float
    fixed: tuple[float, float]
    p_value: float
    always_valid: tuple[float, float]
    bootstrap: tuple[float, float]
    cuped: tuple[float, float] | None
    """Interval with the users' own past as covariate, for the primary metric of users."""
    verdict: str


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """What came of an experiment. `refusal` says why nothing can be concluded, if so."""

    experiment: str
    unit: str
    control: str
    arms: dict[str, int]
    """Units of each arm."""
    srm_p_value: float
    refusal: str | None
    comparisons: list[Comparison] = field(default_factory=list)
    latency_ms: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; numbers that are not finite become null."""
        cleaned: dict[str, Any] = _finite(asdict(self))
        return cleaned


def report_experiment(
    source: Source, experiment: str, *, alpha: float = 0.05, seed: int = 0
) -> ExperimentReport:
    """Compare every arm with the control.

    Raises:
        ExperimentDataError: nobody was exposed, units are mixed, or there is only one arm.
    """
    unit = unit_of(source, experiment)
    table = units(source, experiment, unit).to_pyarrow()
    # Engines return units in any order; resampling must not depend on it.
    table = table.sort_by([(name, "ascending") for name in table.column_names])
    variants = np.asarray(table["variant"].to_pylist())
    names = sorted(set(variants.tolist()))
    if len(names) < 2:
        raise ExperimentDataError(f"only one arm of {experiment!r} met anybody: {names}")
    control = CONTROL if CONTROL in names else names[0]
    numbers = [name for name in table.column_names if name not in ("variant", "unit_id")]
    arms: dict[str, Columns] = {
        name: {
            column: np.asarray(table[column].to_numpy(), dtype=np.float64)[variants == name]
            for column in numbers
        }
        for name in names
    }
    sizes = {name: int((variants == name).sum()) for name in names}
    weights = _weights(source, experiment)
    p_value = inference.srm_p_value(
        [sizes[name] for name in names], [weights[name] for name in names]
    )
    refusal = _refusal(sizes, p_value)
    comparisons = [
        comparison
        for arm in names
        if arm != control
        for metric in METRICS
        if (
            comparison := _compare(
                metric, arm, arms[control], arms[arm], unit, refusal, alpha=alpha, seed=seed
            )
        )
    ]
    latency: dict[str, dict[str, float | None]] = {}
    for name in names:
        counts = latency_counts(source.opportunities, f"{experiment}={name}")
        latency[name] = {"p50": quantile_ms(counts, 0.5), "p95": quantile_ms(counts, 0.95)}
    return ExperimentReport(
        experiment, unit.value, control, sizes, p_value, refusal, comparisons, latency
    )


def overview(source: Source) -> dict[str, Any]:
    """What was suggested and what became of it, without comparing anything."""
    suggestions, opportunities = source.suggestions, source.opportunities
    days = source.user_days
    ended = suggestions.group_by(resolution=suggestions.resolution.fill_null("unknown"))
    hidden = opportunities.filter(opportunities.hidden_reason.notnull())
    counts = latency_counts(opportunities)
    accepted = suggestions.filter(suggestions.resolution == "accepted")
    kept = {}
    for after in (30, 120, 300, 600):
        fraction = accepted[f"retained_{after}"].cast("float64")
        there = indicator(fraction >= RETAINED).mean(where=fraction.notnull())
        share = there.to_pyarrow().as_py()
        kept[f"cpr_{after}"] = share
    hours = days.active_us.sum().to_pyarrow().as_py() or 0
    retained = days.retained_chars.cast("float64").sum().to_pyarrow().as_py() or 0.0
    return {
        "opportunities": opportunities.count().to_pyarrow().as_py(),
        "suggestions": suggestions.count().to_pyarrow().as_py(),
        "resolutions": _counted(ended.aggregate(n=suggestions.count()).to_pyarrow().to_pylist()),
        "hidden": _counted(
            hidden.group_by("hidden_reason").aggregate(n=hidden.count()).to_pyarrow().to_pylist()
        ),
        "latency_ms": {"p50": quantile_ms(counts, 0.5), "p95": quantile_ms(counts, 0.95)},
        **kept,
        "active_hours": hours / 3.6e9,
        "retained_per_hour": retained / (hours / 3.6e9) if hours else None,
        "experiments": sorted(
            source.exposures.experiment.name("x")
            .as_table()
            .distinct()
            .to_pyarrow()["x"]
            .to_pylist()
        ),
    }


def _counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    pairs = [(str(next(iter(row.values()))), int(row["n"])) for row in rows]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _weights(source: Source, experiment: str) -> dict[str, int]:
    rows = source.exposures.filter(source.exposures.experiment == experiment)
    table = rows.group_by("arm").aggregate(weight=rows.weight.max()).to_pyarrow()
    return {row["arm"]: int(row["weight"]) for row in table.to_pylist()}


def _refusal(sizes: dict[str, int], srm: float) -> str | None:
    if srm < SRM_ALPHA:
        return (
            f"The arms' sizes {sizes} are too uneven for chance (p = {srm:.2g}): assignment or "
            "logging is broken, and no difference means anything."
        )
    fewest = min(sizes.values())
    if fewest < FEWEST_CLUSTERS:
        return (
            f"Too few units: {fewest} in the smallest arm, {FEWEST_CLUSTERS} are needed before "
            "anything is called significant."
        )
    return None


def _compare(
    metric: Metric,
    arm: str,
    control: Columns,
    treatment: Columns,
    unit: Unit,
    refusal: str | None,
    *,
    alpha: float,
    seed: int,
) -> Comparison | None:
    """None where an arm has nothing to divide by, or a single unit."""
    sides = [(side[metric.numerator], side[metric.denominator]) for side in (control, treatment)]
    if any(len(x) < 2 or y.sum() <= 0 for x, y in sides):
        return None
    if not any(_varies(*side) for side in sides):
        before, after = (inference.ratio(*side) for side in sides)
        point = after - before, after - before
        return Comparison(
            metric.name,
            metric.label,
            metric.decides,
            metric.guard,
            arm,
            before,
            after,
            after - before,
            point,
            math.nan,
            point,
            point,
            None,
            "no variation between units, so nothing to test",
        )
    result = _tea(metric, control, treatment, alpha)
    always = inference.always_valid_interval(*sides, alpha=alpha)
    boot = inference.bootstrap_interval(*sides, alpha=alpha, seed=seed)
    cuped = None
    if metric is PRIMARY and unit is Unit.USER:
        pasts = [side["pre_active_hours"] for side in (control, treatment)]
        if all(past.sum() > 0 for past in pasts):
            adjusted = _tea(metric, control, treatment, alpha, covariates=True)
            cuped = adjusted.effect_size_ci_lower, adjusted.effect_size_ci_upper
    return Comparison(
        metric.name,
        metric.label,
        metric.decides,
        metric.guard,
        arm,
        result.control,
        result.treatment,
        result.effect_size,
        (result.effect_size_ci_lower, result.effect_size_ci_upper),
        result.pvalue,
        (always.low, always.high),
        (boot.low, boot.high),
        cuped,
        _verdict(metric, always, refusal),
    )


def _tea(
    metric: Metric,
    control: Columns,
    treatment: Columns,
    alpha: float,
    *,
    covariates: bool = False,
) -> Any:  # noqa: ANN401 - tea-tasting's result type is a private named tuple
    """The delta method by tea-tasting, Welch's t on the linearised ratio."""
    import pyarrow as pa

    names = [metric.numerator, metric.denominator]
    past: dict[str, str] = {}
    if covariates:
        past = {"numer_covariate": "pre_retained_chars", "denom_covariate": "pre_active_hours"}
    columns = {
        name: np.concatenate([control[name], treatment[name]])
        for name in dict.fromkeys([*names, *past.values()])
    }
    variant = [0] * len(control[names[0]]) + [1] * len(treatment[names[0]])
    test = tt.Experiment({"metric": tt.RatioOfMeans(*names, **past, confidence_level=1 - alpha)})
    return test.analyze(pa.table(columns | {"variant": variant}), control=0)["metric"]


def _varies(x: Vector, y: Vector) -> bool:
    """Whether units differ by more than rounding."""
    return inference.delta_variance(x, y) > (1e-9 * inference.ratio(x, y)) ** 2


def _verdict(metric: Metric, always: inference.Interval, refusal: str | None) -> str:
    if not metric.decides:
        return "descriptive: conditioned on what the arm changed"
    if refusal is not None:
        return "no conclusion"
    if not always.excludes_zero:
        return "no difference shown"
    return "significantly higher" if always.low > 0 else "significantly lower"


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
