"""A circuit breaker: after failures in a row nothing is tried for a while, then one attempt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES = 3
"""In a row until the circuit opens."""
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0


class CircuitBreaker:
    """Closed (everything is tried), open (nothing is) or half open (one attempt is under way).

    Every failed attempt doubles the pause, up to a minute; a success closes the circuit. May be
    shared by threads.
    """

    def __init__(
        self, failures: int = FAILURES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`failures` in a row open it."""
        self._most = failures
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE_S
        self._open_until: float | None = None
        self._trying = False
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether the last attempts failed; an attempt that is due does not change that."""
        with self._lock:
            return self._open_until is not None

    def allow(self) -> bool:
        """Whether to try now. True must be followed by `succeeded`, `failed` or `abandoned`."""
        with self._lock:
            if self._open_until is None:
                return True
            if self._trying or self._clock() < self._open_until:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        """The attempt worked."""
        with self._lock:
            self._failures, self._pause = 0, FIRST_PAUSE_S
            self._open_until, self._trying = None, False

    def failed(self) -> None:
        """The attempt did not work."""
        with self._lock:
            self._failures += 1
            self._trying = False
            if self._open_until is not None:
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
            if self._open_until is not None or self._failures >= self._most:
                self._open_until = self._clock() + self._pause

    def abandoned(self) -> None:
        """The attempt was cancelled: it says nothing."""
        with self._lock:
            self._trying = False
