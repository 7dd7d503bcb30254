"""Debian's Chromium without a window, driven over WebDriver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH = 1180


@contextmanager
def browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile that fetches nothing by itself.

    Raises:
        FileNotFoundError: Chromium or its driver is not installed.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise FileNotFoundError("needs: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--hide-scrollbars",
        f"--window-size={WIDTH},900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(word)
    page = webdriver.Chrome(options, Service(driver))
    try:
        yield page
    finally:
        page.quit()


def screenshot(page: webdriver.Chrome, path: Path) -> None:
    """The whole page as PNG."""
    height = page.execute_script("return document.documentElement.scrollHeight")
    page.set_window_size(WIDTH, int(height) + 140)
    page.save_screenshot(str(path))
