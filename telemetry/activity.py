"""How long the user works and how much is typed: the denominators of the metrics."""

from __future__ import annotations

from collections.abc import Callable

from telemetry.events import Activity, Event

PAUSE_US = 60_000_000
"""Edits further apart than this have a pause between them, which is not active time."""
FLUSH_US = 60_000_000


class ActivityMeter:
    """Sums edits into `Activity` events of about a minute each."""

    def __init__(self, put: Callable[[Event], None]) -> None:
        """`put` takes the finished events."""
        self._put = put
        self._since_us: int | None = None
        self._last_us = 0
        self._active_us = 0
        self._inserted = 0
        self._completed = 0

    def edited(self, now_us: int, chars: int) -> None:
        """The user, an accepted suggestion or the editor inserted `chars` code points."""
        if self._since_us is not None and now_us - self._last_us > PAUSE_US:
            self.flush(self._last_us)
        if self._since_us is None:
            self._since_us = now_us
        else:
            self._active_us += now_us - self._last_us
        self._last_us = now_us
        self._inserted += chars

    def completed(self, chars: int) -> None:
        """So many of the characters inserted came from a suggestion."""
        self._completed += chars

    def tick(self, now_us: int) -> None:
        """Write what a minute has brought."""
        if self._since_us is None:
            return
        if now_us - self._last_us > PAUSE_US:
            self.flush(self._last_us)
        elif now_us - self._since_us >= FLUSH_US:
            last = self._last_us
            self.flush(last)
            # Still working: the time from the last edit on belongs to the next event.
            self._since_us = self._last_us = last

    def flush(self, at_us: int) -> None:
        """Write what there is."""
        if self._inserted or self._completed or self._active_us:
            self._put(
                Activity(
                    at_us=at_us,
                    active_us=self._active_us,
                    typed_chars=self._inserted - self._completed,
                    completed_chars=self._completed,
                )
            )
        self._since_us = None
        self._active_us = self._inserted = self._completed = 0
