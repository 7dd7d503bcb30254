"""Waiting for what an editor does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], patience: float) -> Any:
    """The first true value of `condition`.

    Raises:
        AssertionError: there was none within `patience` seconds.
    """
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("never happened")
