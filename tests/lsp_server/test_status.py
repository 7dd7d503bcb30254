from __future__ import annotations

from lsp_server.status import State, Status, StatusReporter


def test_only_changes_are_sent_and_the_gravest_wins() -> None:
    sent: list[Status] = []
    reporter = StatusReporter(sent.append)
    reporter.publish()
    reporter.publish()
    reporter.working = 1
    reporter.publish()
    reporter.working = 2
    reporter.publish()
    reporter.loading = True
    reporter.publish()
    reporter.paused = "by the user"
    reporter.publish()
    reporter.failure = "no weights"
    reporter.publish()
    reporter.failure = reporter.paused = ""
    reporter.loading, reporter.working = False, 0
    reporter.publish()
    assert sent == [
        Status(State.IDLE),
        Status(State.WORKING),
        Status(State.LOADING),
        Status(State.PAUSED, "by the user"),
        Status(State.ERROR, "no weights"),
        Status(State.IDLE),
    ]
