"""How a request is given up while another thread works on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancellation(threading.Event):
    """A flag that one thread sets to end what another one does.

    Unlike a plain event it can act at once: a run of the model is stopped in the middle, where
    looking at the flag would have to wait until the run is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._actions: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    def set(self) -> None:
        """Set the flag and do what `acting` asked for."""
        with self._guard:
            super().set()
            for action in self._actions:
                action()

    @contextmanager
    def acting(self, action: Callable[[], None]) -> Iterator[None]:
        """Call `action`, which must not block, when the flag is set inside the block, or is set."""
        with self._guard:
            self._actions.append(action)
            if self.is_set():
                action()
        try:
            yield
        finally:
            with self._guard:
                self._actions.remove(action)
