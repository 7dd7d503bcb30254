"""How much of the machine other processes take: what is left decides how many threads pay.

The operators of a step wait for their slowest thread, and waiting threads spin. With another
process on one of two cores, two threads take 85 to 139 ms for what one thread does in 65.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

_INTERVAL_S = 0.5
"""Shorter spans are too coarse: systems count in hundredths of a second."""
_TOLERATED = 0.5
"""Cores that may be missing before fewer threads are faster."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of processor time since some moment: of all processes and of this one."""

    at: float
    all_busy: float
    own_busy: float

    @classmethod
    def now(cls) -> Usage:
        """Read it from the system."""
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        # Processes of low priority ("nice") give way and are not counted.
        return cls(time.monotonic(), times.user + times.system, own.user + own.system)


class Contention:
    """Tells how many threads pay, from what happened since it was last asked."""

    def __init__(self, cores: int | None = None) -> None:
        """`cores` of the machine; None for what this process may use."""
        self._cores = cores or usable_cores()
        self._last = Usage.now()
        self._others = 0.0

    def threads(self, most: int, *, spared: int = 0) -> int:
        """`most` where the cores for them are free, `spared` more left idle; else 1."""
        usage = Usage.now() if time.monotonic() - self._last.at >= _INTERVAL_S else None
        if usage is not None:
            self.observe(usage)
        free = self._cores - self._others - spared
        return most if free >= most - _TOLERATED else 1

    def observe(self, usage: Usage) -> None:
        """Take the span since the last reading into account, and only that."""
        span = usage.at - self._last.at
        own = usage.own_busy - self._last.own_busy
        if span > 0:
            self._others = max(0.0, usage.all_busy - self._last.all_busy - own) / span
        self._last = usage


def usable_cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    return len(affinity()) if affinity else psutil.cpu_count() or 1
