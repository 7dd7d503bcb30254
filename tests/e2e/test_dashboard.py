"""The dashboard in a real browser: served by a real collector, and from a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from benchmarks.fleet import DAY_US, EXPERIMENT, FIRST_DAY, write_fleet
from benchmarks.servers import free_port
from telemetry.events import Opportunity
from telemetry.outbox import Collector, Outbox
from tests.e2e.browser import browser, screenshot
from tests.telemetry.analysis.conftest import insert

HOSTILE = "</title><script>document.title='stolen'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "telemetry.db"
    write_fleet(path, users=60, days=12, requests=40)
    hostile = Opportunity(
        at_us=FIRST_DAY * DAY_US,
        request_id="h",
        language=HOSTILE,
        trigger="automatic",
        hidden_reason=HOSTILE,
    )
    insert(path, "user0", [hostile])
    return path


@contextmanager
def collector(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """`snowcoder collector` as users start it: its address and its tokens by role."""
    port = free_port()
    command = [sys.executable, "-m", "lsp_server", "collector", "--port", str(port)]
    environment = os.environ | {"SNOWCODER_DATA": str(folder)}
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{url}/v1/health", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, "it has ended"
                    time.sleep(0.1)
            lines = (folder / "collector-tokens").read_text().splitlines()
            yield url, dict(line.split() for line in lines)
        finally:
            process.terminate()


def check_charts(page: Chrome) -> None:
    """Charts have a size, marks inside, and the page asked nobody for anything."""
    found = page.find_elements(By.CSS_SELECTOR, "svg[aria-label]")
    names = {svg.get_attribute("aria-label") for svg in found}
    assert {"acceptance", "persistence", "latency", "hidden reasons", "resolutions"} <= names
    for svg in found:
        assert svg.size["width"] > 200
        assert svg.size["height"] > 20
        assert svg.find_elements(By.CSS_SELECTOR, "rect, circle")
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if "favicon" not in name] == []
    assert page.title == "SnowCoder"
    hidden = page.find_element(By.CSS_SELECTOR, "svg[aria-label='hidden reasons']")
    assert "low_confidence" in hidden.text
    errors = [m["message"] for m in page.get_log("browser") if "favicon" not in m["message"]]  # type: ignore[no-untyped-call]
    assert errors == []


def test_a_fleet(page: Chrome, record: Path, tmp_path: Path) -> None:
    with collector(tmp_path) as (url, tokens):
        sent = Outbox(record, Collector(url, tokens["upload"])).flush()
        assert sent > 30_000
        parts = urlsplit(url)
        page.get(f"http://reader:{tokens['read']}@{parts.netloc}/")
        check_charts(page)
        screenshot(page, tmp_path / "dashboard.png")
        page.find_element(By.LINK_TEXT, EXPERIMENT).click()
        assert page.title == f"Experiment {EXPERIMENT}"
        body = page.find_element(By.TAG_NAME, "body").text
        assert re.search(r"retained characters per active hour.*significantly higher", body)
        assert page.find_elements(By.CSS_SELECTOR, "svg circle")
        screenshot(page, tmp_path / "experiment.png")
        page.get(f"{url}/experiments/an%20arm%20that%20no%20longer%20exists")
        assert "unknown_experiment" in page.page_source
        # The browser logs that page as an error; the next test looks at its own.
        page.get_log("browser")  # type: ignore[no-untyped-call]
    if folder := os.environ.get("SNOWCODER_SCREENSHOTS"):
        for picture in tmp_path.glob("*.png"):
            picture.rename(Path(folder) / picture.name)


def test_ones_own_record(page: Chrome, record: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    command = [sys.executable, "-m", "lsp_server", "report", "--db", str(record)]
    subprocess.run([*command, "--html", str(file)], check=True, stdout=subprocess.DEVNULL)
    page.get(file.as_uri())
    check_charts(page)
    assert f"Experiment {EXPERIMENT}" in page.find_element(By.TAG_NAME, "body").text
