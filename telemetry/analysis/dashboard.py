"""The dashboard: one page about what was suggested, one about each experiment."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from telemetry.analysis import charts
from telemetry.analysis.html import STYLE, render
from telemetry.analysis.metrics import RETAINED, ExperimentDataError, indicator
from telemetry.analysis.quantiles import BUCKET_US, latency_counts
from telemetry.analysis.report import overview, report_experiment
from telemetry.analysis.source import Source, open_source
from telemetry.events import PERSISTENCE_CHECKS_S

DAYS = 90
"""Days on the chart of acceptance: the last ones with anything on them."""

_STYLE = (
    STYLE
    + """
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(26em,1fr));gap:1.5em}
body{max-width:84em}section{border:1px solid #ddd;border-radius:6px;padding:0 1em 1em}
svg{width:100%;height:auto;font-size:12px}h2{font-size:1.05em}.legend,.note,.nothing{color:#555}
dl{display:flex;flex-wrap:wrap;gap:1em 2.5em}dt{color:#555}dd{margin:0;font-size:1.6em}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ddd}
.legend,.note,.nothing,dt{color:#aaa}a{color:#8bf}}"""
)


@dataclass(frozen=True, slots=True)
class Day:
    """What came of the suggestions of one day, all users together."""

    day: str
    offered: int
    accepted: int
    visible: int
    accepted_visible: int


def days(source: Source) -> list[Day]:
    """The last `DAYS` days with suggestions, in order."""
    told = source.suggestions
    accepted = (told.resolution == "accepted").fill_null(False)
    visible = (told.visible.cast("int64") == 1).fill_null(False)
    table = told.group_by(day=told.day.cast("string")).aggregate(
        offered=told.count(),
        accepted=indicator(accepted).sum(),
        visible=indicator(visible).sum(),
        accepted_visible=indicator(accepted & visible).sum(),
    )
    rows = table.order_by(table.day.desc()).limit(DAYS).to_pyarrow().to_pylist()
    return [
        Day(str(row.pop("day")), **{k: int(v) for k, v in row.items()}) for row in reversed(rows)
    ]


def persistence(source: Source) -> dict[int, tuple[int, float | None, float | None]]:
    """By seconds after acceptance: looks that count, share retained (CPR), mean fraction there."""
    told = source.suggestions.filter(source.suggestions.resolution == "accepted")
    found = {}
    for after in PERSISTENCE_CHECKS_S:
        fraction = told[f"retained_{after}"].cast("float64")
        row = told.aggregate(
            looks=fraction.count(),
            kept=indicator(fraction >= RETAINED).mean(where=fraction.notnull()),
            mean=fraction.mean(),
        ).to_pyarrow()
        values = row.to_pylist()[0]
        found[after] = int(values["looks"]), values["kept"], values["mean"]
    return found


def render_overview(source: Source, *, linked: bool) -> str:
    """The page about everything.

    Args:
        linked: the experiments are pages of their own, else they follow on this one.
    """
    summary = overview(source)
    by_day, kept = days(source), persistence(source)
    latency = charts.histogram(
        latency_counts(source.opportunities), BUCKET_US / 1000, title="latency", unit="ms"
    )
    acceptance = charts.lines(
        [day.day for day in by_day],
        {
            "accepted / offered": [_share(d.accepted, d.offered) for d in by_day],
            "accepted / visible (CAR)": [_share(d.accepted_visible, d.visible) for d in by_day],
        },
        title="acceptance",
    )
    curves = charts.lines(
        [f"{after} s" for after in kept] if any(looks for looks, _, _ in kept.values()) else [],
        {
            f"at least {RETAINED:.0%} there (CPR)": [share for _, share, _ in kept.values()],
            "mean fraction there": [mean for _, _, mean in kept.values()],
        },
        title="persistence",
    )
    looks = ", ".join(f"{count} at {after} s" for after, (count, _, _) in kept.items())
    sections = [
        ("Acceptance by day", acceptance, "Visible: on screen for 750 ms, where clients say so."),
        ("Persistence of accepted text", curves, f"Looks: {looks}. Late ones do not count."),
        ("Latency of the model", latency, "From arrival to answer, buckets of 5 ms."),
        ("Why nothing was shown", charts.bars(summary["hidden"], title="hidden reasons"), ""),
        ("How suggestions ended", charts.bars(summary["resolutions"], title="resolutions"), ""),
        ("Experiments", _experiments(summary["experiments"], linked=linked), ""),
    ]
    body = "".join(
        f"<section><h2>{escape(title)}</h2>{content}<p class=note>{escape(note)}</p></section>"
        for title, content, note in sections
    )
    below = "" if linked else "".join(_inline(source, x) for x in summary["experiments"])
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width"><title>SnowCoder</title>'
        f"<style>{_STYLE}</style><h1>SnowCoder: what was suggested</h1>{_numbers(summary)}"
        f"<main>{body}</main>{below}</html>\n"
    )


def render_location(location: str, experiment: str | None) -> str:
    """A page of the dashboard, for the collector.

    Raises:
        LookupError: nobody was exposed to that experiment.
        SourceError: the record cannot be read.
    """
    source = open_source(location)
    try:
        if experiment is None:
            return render_overview(source, linked=True)
        return render(report_experiment(source, experiment))
    except ExperimentDataError as error:
        raise LookupError(str(error)) from error
    finally:
        source.close()


def _inline(source: Source, experiment: str) -> str:
    """An experiment's page within another one; why there is none if there is none."""
    try:
        page = render(report_experiment(source, experiment))
    except ExperimentDataError as error:
        return f"<h1>Experiment {escape(experiment)}</h1><p class=warn>{escape(str(error))}</p>"
    return f"<hr>{page.partition('</style>')[2].removesuffix('</html>' + chr(10))}"


def _experiments(names: list[str], *, linked: bool) -> str:
    if not names:
        return "<p class=nothing>No experiment was met.</p>"
    items = (
        f'<a href="/experiments/{quote(name, safe="")}">{escape(name)}</a>'
        if linked
        else escape(name)
        for name in names
    )
    return f"<ul>{''.join(f'<li>{item}' for item in items)}</ul>"


def _numbers(summary: dict[str, Any]) -> str:
    latency = summary["latency_ms"]
    shown = {
        "requests": summary["opportunities"],
        "suggestions": summary["suggestions"],
        "active hours": _short(summary["active_hours"]),
        "retained characters per active hour": _short(summary["retained_per_hour"]),
        "latency p50 / p95, ms": f"{_short(latency['p50'])} / {_short(latency['p95'])}",
    }
    tiles = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown.items())
    return f"<dl>{''.join(tiles)}</dl>"


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
