"""What the server is doing, for an editor's status line (`snowcoder/status`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

METHOD = "snowcoder/status"


class State(StrEnum):
    """Exactly one at a time; where several apply the first of error, paused, loading, working."""

    IDLE = "idle"
    LOADING = "loading"
    WORKING = "working"
    PAUSED = "paused"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Status:
    """Params of the notification: a state and, for `paused` and `error`, why.

    The reason of `idle` and `working` tells of a remote engine that is not used at the moment.
    """

    state: State
    reason: str = ""


class StatusReporter:
    """Sends the status whenever it changes, and only then.

    Attributes:
        loading: an engine is being made.
        working: requests under way.
        paused: why nothing is generated; empty while it is.
        failure: why there is no engine; empty while there is one or one is awaited.
        trouble: why the engine serves with less than it was set up for; empty if it does not.

    Args:
        send: delivers a status to the client.
    """

    def __init__(self, send: Callable[[Status], None]) -> None:
        self._send = send
        self._sent: Status | None = None
        self.loading = False
        self.working = 0
        self.paused = ""
        self.failure = ""
        self.trouble = ""

    @property
    def status(self) -> Status:
        """The status now."""
        if self.failure:
            return Status(State.ERROR, self.failure)
        if self.paused:
            return Status(State.PAUSED, self.paused)
        if self.loading:
            return Status(State.LOADING)
        return Status(State.WORKING if self.working else State.IDLE, self.trouble)

    def publish(self) -> None:
        """Tell the client, if anything changed since the last time."""
        if (status := self.status) != self._sent:
            self._sent = status
            self._send(status)
