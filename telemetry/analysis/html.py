"""The report as one HTML page without scripts or anything from elsewhere."""

from __future__ import annotations

from html import escape

from telemetry.analysis.report import Comparison, ExperimentReport

STYLE = """body{font:15px system-ui;margin:2em;max-width:70em}table{border-collapse:collapse}
td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}td.n{text-align:right}
.warn{background:#fee;padding:.8em}"""
_WIDTH = 260


def render(report: ExperimentReport) -> str:
    """A page with the table, a plot of the intervals and the guard rails."""
    head = escape(f"Experiment {report.experiment}")
    arms = ", ".join(f"{name}: {size}" for name, size in report.arms.items())
    refusal = f'<p class="warn">{escape(report.refusal)}</p>' if report.refusal else ""
    latency = "".join(
        f"<tr><td>{escape(arm)}</td><td class=n>{_number(value['p50'])}</td>"
        f"<td class=n>{_number(value['p95'])}</td></tr>"
        for arm, value in report.latency_ms.items()
    )
    sections = (
        ("Decisions", [c for c in report.comparisons if c.decides and not c.guard]),
        ("Guard rails", [c for c in report.comparisons if c.guard]),
        (
            "Descriptive (conditioned on what the arm changed)",
            [c for c in report.comparisons if not c.decides],
        ),
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{head}</title>"
        f"<style>{STYLE}</style><h1>{head}</h1><p>Unit: {escape(report.unit)}. "
        f"{escape(arms)}. Control: {escape(report.control)}. "
        f"Sample ratio p = {report.srm_p_value:.3g}.</p>{refusal}"
        + "".join(_section(title, rows) for title, rows in sections)
        + "<h2>Latency of the model, ms</h2><table><tr><th>arm<th>p50<th>p95</tr>"
        + f"{latency}</table></html>\n"
    )


def _section(title: str, rows: list[Comparison]) -> str:
    lines = "".join(
        f"<tr><td>{escape(row.label)}</td><td>{escape(row.arm)}</td>"
        f"<td class=n>{_number(row.control_value)}</td><td class=n>{_number(row.value)}</td>"
        f"<td class=n>{_number(row.difference)}</td>"
        f"<td>[{_number(row.always_valid[0])}, {_number(row.always_valid[1])}]</td>"
        f"<td>[{_number(row.fixed[0])}, {_number(row.fixed[1])}]</td>"
        f"<td>{_plot(row)}</td><td>{escape(row.verdict)}</td></tr>"
        for row in rows
    )
    return (
        f"<h2>{escape(title)}</h2><table><tr><th>metric<th>arm<th>control<th>value"
        "<th>difference<th>always-valid interval<th>one-look interval<th><th>verdict</tr>"
        f"{lines}</table>"
    )


def _plot(row: Comparison) -> str:
    """The always-valid interval around zero, thick where the one-look interval is."""
    ends = [abs(end) for end in (*row.always_valid, *row.fixed) if abs(end) < 1e300]
    scale = max(ends, default=0.0) or 1.0

    def at(value: float) -> float:
        return round((max(min(value / scale, 1.0), -1.0) + 1) * _WIDTH / 2, 1)

    (low, high), (near, far) = row.always_valid, row.fixed
    return (
        f'<svg width="{_WIDTH}" height="16" role="img"><path stroke="#999" '
        f'd="M{_WIDTH / 2} 0v16"/><path stroke="#36c" d="M{at(low)} 8H{at(high)}"/>'
        f'<path stroke="#36c" stroke-width="5" d="M{at(near)} 8H{at(far)}"/>'
        f'<circle cx="{at(row.difference)}" cy="8" r="4"/></svg>'
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
