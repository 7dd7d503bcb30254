from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("ibis", reason="the extra analysis is not installed")
pytest.importorskip("tea_tasting", reason="the extra analysis is not installed")

from telemetry.analysis import charts
from telemetry.analysis.dashboard import days, persistence, render_location, render_overview
from telemetry.analysis.source import open_source
from telemetry.events import Opportunity
from telemetry.store import open_database
from tests.telemetry.analysis.conftest import exposure, insert

HOSTILE = '"><script>alert(1)</script>'


def drawings(page: str) -> dict[str, ElementTree.Element]:
    """Every chart by its name; each must be well-formed XML."""
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg viewBox.*?</svg>", page)]
    return {svg.attrib["aria-label"]: svg for svg in found}


def titles(svg: ElementTree.Element) -> list[str]:
    return [str(item.text) for item in svg.iter("title")]


def test_the_numbers_behind_the_charts(record: Path) -> None:
    source = open_source(record)
    told = days(source)
    assert len(told) == 5
    assert all((d.offered, d.accepted, d.visible, d.accepted_visible) == (180,) * 4 for d in told)
    found = persistence(source)
    assert found[300][0] == 900
    assert found[30] == (0, None, None)
    kept, mean = found[300][1:]
    assert kept is not None
    assert mean is not None
    assert 0 < mean < 1


def test_every_chart_is_drawn(record: Path) -> None:
    page = render_overview(open_source(record), linked=False)
    found = drawings(page)
    assert {"acceptance", "persistence", "latency", "resolutions"} <= set(found)
    assert titles(found["resolutions"]) == ["accepted: 900"]
    assert sum(int(t.rpartition(": ")[2]) for t in titles(found["latency"])) == 900
    # Nobody was refused anything, and that is said.
    assert 'data-chart="hidden reasons"' in page
    assert "Experiment x" in page
    assert "http" not in page


def test_pages_of_the_collector(record: Path) -> None:
    assert '<a href="/experiments/x">x</a>' in render_location(str(record), None)
    assert "always-valid" in render_location(str(record), "x")
    with pytest.raises(LookupError, match="nobody"):
        render_location(str(record), "an arm that no longer exists")


def test_html_in_every_text_stays_text(record: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    shutil.copy(record, path)
    texts = dict.fromkeys(["language", "trigger", "source", "model", "arms", "stop"], HOSTILE)
    event = Opportunity(at_us=1, request_id="r", hidden_reason=HOSTILE, **texts)  # type: ignore[arg-type]
    insert(path, HOSTILE, [event, exposure("a", experiment=HOSTILE)])
    for linked in (True, False):
        page = render_overview(open_source(path), linked=linked)
        assert "<script" not in page
        assert "&lt;script" in page
        drawings(page)
    with pytest.raises(LookupError, match="only one arm"):
        render_location(str(path), HOSTILE)


def test_an_empty_record_has_a_page(tmp_path: Path) -> None:
    open_database(tmp_path / "empty.db").conn.close()
    page = render_location(str(tmp_path / "empty.db"), None)
    assert page.count("Nothing recorded yet") == 5
    assert "No experiment was met" in page


def test_marks_stay_inside_and_gaps_stay_gaps() -> None:
    drawn = charts.lines(["a", "b", "c"], {"s": [0.0, None, 1.0]}, title="t")
    svg = drawings(drawn)["t"]
    assert titles(svg) == ["s, a: 0.0%", "s, c: 100.0%"]
    heights = [float(c.attrib["cy"]) for c in svg.iter("circle")]
    assert heights[0] > heights[1]
    histogram = charts.histogram({400: 1, 0: 5}, 5.0, title="t", unit="ms")
    rects = list(drawings(histogram)["t"].iter("rect"))
    assert all(float(r.attrib["x"]) + float(r.attrib["width"]) <= 560 for r in rects)
    assert len(titles(drawings(charts.bars({str(n): 1 for n in range(40)}, title="t"))["t"])) == 15
