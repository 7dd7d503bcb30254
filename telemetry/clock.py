"""Time that never goes backwards while the server runs, and goes on while the machine sleeps."""

from __future__ import annotations

import time


def _elapsed_ns() -> int:
    """Nanoseconds since some moment, sleep included where the system can tell."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    # macOS counts sleep in CLOCK_MONOTONIC though not in `time.monotonic`; Windows in both.
    if hasattr(time, "CLOCK_MONOTONIC"):
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return time.monotonic_ns()


class Clock:
    """Microseconds since 1970 UTC by the wall clock at the start and the time since."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - _elapsed_ns()

    def __call__(self) -> int:
        """Now."""
        return (self._offset_ns + _elapsed_ns()) // 1000
