"""Charts as SVG inside the page: no scripts, and nothing is loaded from elsewhere.

Every mark carries its value as a `<title>`, which browsers show on hover and read aloud.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 34
# Told apart by colour-blind readers too (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")

Series = Sequence[float | None]


def lines(labels: Sequence[str], series: dict[str, Series], *, title: str) -> str:
    """Shares (0 to 1) over ordered labels, one line a series; None leaves a gap."""
    if not labels:
        return _nothing(title)
    marks = []
    for (name, values), color in zip(series.items(), COLORS, strict=False):
        points = [
            (_x(i, len(labels)), _y(value), value)
            for i, value in enumerate(values)
            if value is not None
        ]
        path = "".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y, _) in enumerate(points))
        marks.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        labelled = zip(labels, values, strict=True)
        told = [f"{name}, {label}: {value:.1%}" for label, value in labelled if value is not None]
        marks += [
            f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"><title>{escape(text)}</title></circle>'
            for (x, y, _), text in zip(points, told, strict=True)
        ]
    grid = "".join(
        f'<path d="M{_LEFT} {_y(v)}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 6}" y="{_y(v) + 4}" text-anchor="end">{v:.0%}</text>'
        for v in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    step = math.ceil(len(labels) / 8)
    below = "".join(
        f'<text x="{_x(i, len(labels))}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for i, label in enumerate(labels)
        if i % step == 0
    )
    legend = "".join(
        f'<span style="color:{color}">■</span> {escape(name)} '
        for name, color in zip(series, COLORS, strict=False)
    )
    return f"{_svg(title, grid + ''.join(marks) + below)}<p class=legend>{legend}</p>"


def histogram(counts: dict[int, int], width: float, *, title: str, unit: str) -> str:
    """Counts of buckets `width` wide, the last one open-ended."""
    if not counts:
        return _nothing(title)
    first, last = 0, max(counts)
    # No more bars than can be told apart.
    merged = math.ceil((last - first + 1) / 60)
    bars: dict[int, int] = {}
    for bucket, count in counts.items():
        bars[bucket // merged] = bars.get(bucket // merged, 0) + count
    shown = max(bars) + 1
    most = max(bars.values())
    span = (_WIDTH - _LEFT - _RIGHT) / shown
    marks = []
    for bar, count in sorted(bars.items()):
        y = _y(count / most)
        low, high = bar * merged * width, (bar + 1) * merged * width
        marks.append(
            f'<rect x="{_LEFT + bar * span:.1f}" y="{y}" width="{max(span - 1, 0.5):.1f}" '
            f'height="{_y(0) - y:.1f}" fill="{COLORS[0]}">'
            f"<title>{low:g} to {high:g} {escape(unit)}: {count}</title></rect>"
        )
    ticks = "".join(
        f'<text x="{_LEFT + share * shown * span:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"{share * shown * merged * width:.3g}</text>"
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    axis = (
        f'<path d="M{_LEFT} {_y(0)}H{_WIDTH - _RIGHT}" stroke="#999"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{most}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT}" text-anchor="end">{escape(unit)}</text>'
    )
    return _svg(title, axis + "".join(marks) + ticks)


def bars(counts: dict[str, int], *, title: str, most: int = 15) -> str:
    """Counts by name, in their order; what is beyond `most` bars is one bar."""
    if not counts:
        return _nothing(title)
    items = list(counts.items())
    if len(items) > most:
        rest = sum(count for _, count in items[most - 1 :])
        items = [*items[: most - 1], (f"{len(counts) - most + 1} others", rest)]
    largest = max(count for _, count in items) or 1
    height, left = 22, 170
    marks = []
    for i, (name, count) in enumerate(items):
        length = count / largest * (_WIDTH - left - 70)
        short = name if len(name) <= 22 else f"{name[:21]}…"
        marks.append(
            f'<text x="{left - 8}" y="{i * height + 15}" text-anchor="end">{escape(short)}</text>'
            f'<rect x="{left}" y="{i * height + 3}" width="{length:.1f}" height="{height - 6}" '
            f'fill="{COLORS[0]}"><title>{escape(name)}: {count}</title></rect>'
            f'<text x="{left + length + 6:.1f}" y="{i * height + 15}">{count}</text>'
        )
    return _svg(title, "".join(marks), height=len(items) * height + 4)


def _svg(title: str, marks: str, *, height: int = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{marks}</svg>"
    )


def _nothing(title: str) -> str:
    return f'<p class=nothing data-chart="{escape(title)}">Nothing recorded yet.</p>'


def _x(i: int, of: int) -> float:
    inner = _WIDTH - _LEFT - _RIGHT - 60
    return round(_LEFT + 30 + (inner * i / (of - 1) if of > 1 else inner / 2), 1)


def _y(share: float) -> float:
    return round(_TOP + (1 - min(max(share, 0.0), 1.0)) * (_HEIGHT - _TOP - _BOTTOM), 1)
