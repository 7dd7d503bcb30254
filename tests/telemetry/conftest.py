from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from telemetry.store import Store

TIMEOUT = 30.0
"""Seconds after which something that never happens fails a test; no measure of speed."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "telemetry.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path, timeout_s=0.05)
    store.start()
    assert store.wait_ready(TIMEOUT)
    yield store
    store.close(TIMEOUT)


Rows = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def rows(path: Path) -> Rows:
    """Run a query on the database file, whoever else has it open."""

    def run(query: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    return run
