"""The table of cases of persistence: what happens to accepted text, and the rows it leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetry.events import CheckStatus, Opportunity
from telemetry.lifecycle import Lifecycle, Offer
from telemetry.pending import Due, look_on_disk
from telemetry.ranges import Edit
from telemetry.store import Store
from tests.telemetry.conftest import TIMEOUT, Rows

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
TEXT = "def f(a):\n    \n\nprint(f(1))\n"
AT = TEXT.index("    ") + 4
INSERT = "return a + 1"
N = len(INSERT)


class Desk:
    """An editor, a disk, a clock and a server that can be restarted."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.now_us = path, START
        self.file = folder / "a b.py"
        self.file.write_text(TEXT)
        self.uri = self.file.as_uri()
        self.texts: dict[str, str] = {}
        self.start()
        self.open()

    # The server ------------------------------------------------------------------------

    def start(self) -> None:
        self.store = Store(self.path)
        self.store.start()
        self.lifecycle = Lifecycle(self.store, lambda: self.now_us, self.texts.get)
        self.settle()

    def settle(self) -> None:
        """Let the store's thread catch up, and the lifecycle see what it found."""
        for _ in range(2):
            self.lifecycle.tick()
            done = threading.Event()
            self.store.run(lambda writer, done=done: done.set())
            assert done.wait(TIMEOUT)
        self.lifecycle.tick()

    def stop(self) -> None:
        self.lifecycle.close()
        self.store.close(TIMEOUT)
        self.texts.clear()

    def crash(self) -> None:
        """The process is gone; what it committed stays."""
        self.settle()
        self.store.close(TIMEOUT)
        self.texts.clear()

    # Time ------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Time passes and nobody looks."""
        self.now_us += int(seconds * SECOND)

    def wait(self, seconds: float) -> None:
        """Time passes with a tick every second."""
        for _ in range(int(seconds)):
            self.sleep(1)
            self.lifecycle.tick()
        self.settle()

    # The editor ------------------------------------------------------------------------

    def open(self, text: str | None = None) -> None:
        self.texts[self.uri] = self.file.read_text() if text is None else text
        self.lifecycle.opened(self.uri)

    def close(self, *, save: bool = True) -> None:
        text = self.texts.pop(self.uri)
        if save:
            self.file.write_text(text)
        self.lifecycle.closed(self.uri, text)

    def edit(self, start: int, length: int, inserted: str) -> None:
        text = self.texts[self.uri]
        self.texts[self.uri] = text[:start] + inserted + text[start + length :]
        self.lifecycle.edited(self.uri, [Edit(start, text[start : start + length], inserted)])

    def replace(self, text: str) -> None:
        """The whole document is replaced, as by a reload."""
        self.edit(0, len(self.texts[self.uri]), text)

    def ask(self, suggestion_id: str | None, start: int, insert: str, reason: str = "") -> None:
        offer = None if suggestion_id is None else Offer(suggestion_id, start, insert)
        self.lifecycle.asked(
            Opportunity(
                at_us=self.now_us,
                request_id=f"r{self.now_us}",
                suggestion_id=suggestion_id,
                hidden_reason=reason or None,
                language="python",
                trigger="automatic",
                chars=len(insert),
            ),
            self.uri,
            offer,
        )

    def accept(self, suggestion_id: str = "s", start: int = AT, insert: str = INSERT) -> None:
        self.ask(suggestion_id, start, insert)
        self.edit(start, 0, insert)
        self.lifecycle.accepted(suggestion_id)

    @property
    def body(self) -> int:
        """Where the accepted text stands."""
        return self.texts[self.uri].index(INSERT)


@pytest.fixture
def desk(path: Path, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(path, tmp_path)
    yield desk
    desk.store.close(TIMEOUT)


# Cases: what happens after acceptance, and (status, present, distance) of each check -------

WHOLE = ("on_time", N, 0)
GONE = ("on_time", 0, N)
MISSING = ("missing", None, None)


def nothing(desk: Desk) -> None:
    desk.wait(600)


def edit_inside(desk: Desk) -> None:
    desk.wait(60)
    desk.edit(desk.body + N - 1, 1, "22")
    desk.wait(540)


def edit_before(desk: Desk) -> None:
    desk.edit(0, 0, "import os\n\n")
    desk.edit(desk.body, 0, "x = 0; ")
    desk.wait(600)


def edit_behind(desk: Desk) -> None:
    desk.edit(desk.body + N, 0, "  # why")
    desk.edit(len(desk.texts[desk.uri]), 0, "\n# end")
    desk.wait(600)


def delete_all(desk: Desk) -> None:
    desk.wait(60)
    desk.edit(desk.body, N, "")
    desk.wait(540)


def delete_more_than_all(desk: Desk) -> None:
    desk.edit(0, len(desk.texts[desk.uri]), "")
    desk.edit(0, 0, "something else")
    desk.wait(600)


def delete_half(desk: Desk) -> None:
    desk.edit(desk.body, N // 2, "")
    desk.wait(600)


def delete_across_the_end(desk: Desk) -> None:
    desk.edit(desk.body + N // 2, N, "")
    desk.wait(600)


def undo(desk: Desk) -> None:
    desk.edit(desk.body, N, "")
    desk.wait(600)


def undo_and_redo(desk: Desk) -> None:
    place = desk.body
    desk.edit(place, N, "")
    desk.wait(60)
    desk.edit(place, 0, INSERT)
    desk.wait(540)


def backspace_and_undo(desk: Desk) -> None:
    place = desk.body
    for left in reversed(range(N)):
        desk.edit(place + left, 1, "")
    desk.wait(60)
    for left in range(N):
        desk.edit(place + left, 0, INSERT[left])
    desk.wait(540)


def cut_and_paste_elsewhere(desk: Desk) -> None:
    desk.edit(desk.body, N, "")
    desk.edit(len(desk.texts[desk.uri]), 0, INSERT)
    desk.wait(600)


def reformat(desk: Desk) -> None:
    text = desk.texts[desk.uri]
    desk.replace("# formatted\n" + text.replace("    ", "\t").replace("f(a)", "f( a )"))
    desk.wait(600)


def reformat_inside(desk: Desk) -> None:
    desk.replace(desk.texts[desk.uri].replace("a + 1", "a+1"))
    desk.wait(600)


def rename(desk: Desk) -> None:
    desk.wait(60)
    desk.close()
    old, desk.file = desk.uri, desk.file.rename(desk.file.with_name("b.py"))
    desk.uri = desk.file.as_uri()
    desk.open()
    desk.lifecycle.renamed(old, desk.uri)
    desk.edit(0, 0, "# b\n")
    desk.wait(540)


def rename_while_closed(desk: Desk) -> None:
    desk.close()
    old, desk.file = desk.uri, desk.file.rename(desk.file.with_name("b.py"))
    desk.lifecycle.renamed(old, desk.file.as_uri())
    desk.wait(600)


def close_and_reopen(desk: Desk) -> None:
    desk.edit(0, 0, "import os\n")
    desk.close()
    desk.wait(60)
    desk.open()
    desk.edit(0, 0, "import re\n")
    desk.wait(100)
    desk.edit(desk.body, N, "")
    desk.wait(440)


def close_for_good(desk: Desk) -> None:
    desk.close()
    desk.wait(600)


def close_without_saving(desk: Desk) -> None:
    desk.close(save=False)
    desk.wait(600)


def close_an_untitled_document(desk: Desk) -> None:
    desk.lifecycle.renamed(desk.uri, "untitled:1")
    desk.texts.clear()
    desk.lifecycle.closed("untitled:1", "")
    desk.wait(600)


def delete_the_file(desk: Desk) -> None:
    desk.wait(60)
    desk.close()
    desk.file.unlink()
    desk.wait(540)


def external_change_while_open(desk: Desk) -> None:
    desk.wait(60)
    desk.replace("# a new head\n" * 9 + desk.texts[desk.uri].replace("print", "display"))
    desk.wait(540)


def external_change_while_closed(desk: Desk) -> None:
    desk.close()
    desk.wait(60)
    desk.file.write_text("# head\n" * 9 + desk.file.read_text().replace("a + 1", "a + 22"))
    desk.wait(540)


def an_unreadable_file(desk: Desk) -> None:
    desk.close()
    desk.file.write_bytes(b"\xff\xfe\xfa")
    desk.wait(600)


def switch_branch(desk: Desk) -> None:
    desk.wait(60)
    desk.replace("def g():\n    pass\n")
    desk.wait(540)


def switch_branch_and_back(desk: Desk) -> None:
    text = desk.texts[desk.uri]
    desk.wait(60)
    desk.replace(text.replace("    " + INSERT + "\n", ""))
    desk.wait(120)
    desk.replace(text)
    desk.wait(420)


def restart_before_the_checks(desk: Desk) -> None:
    desk.wait(10)
    desk.close()
    desk.stop()
    desk.sleep(5)
    desk.start()
    desk.open()
    desk.edit(0, 0, "# again\n")
    desk.wait(590)


def restart_between_the_checks(desk: Desk) -> None:
    desk.wait(60)
    desk.close()
    desk.stop()
    desk.sleep(200)
    desk.start()
    desk.wait(350)


def restart_after_the_checks(desk: Desk) -> None:
    desk.close()
    desk.stop()
    desk.sleep(5000)
    desk.start()


def crash_between_the_checks(desk: Desk) -> None:
    desk.wait(60)
    desk.file.write_text(desk.texts[desk.uri])
    desk.crash()
    desk.sleep(100)
    desk.start()
    desk.wait(500)


def crash_and_the_clock_goes_back(desk: Desk) -> None:
    desk.wait(60)
    desk.crash()
    desk.sleep(-3600)
    desk.start()


def asleep(desk: Desk) -> None:
    desk.wait(60)
    desk.sleep(300)
    desk.wait(240)


def a_second_suggestion_inside(desk: Desk) -> None:
    desk.accept("t", desk.body + N - 1, "b + ")
    desk.wait(600)


def a_second_suggestion_behind(desk: Desk) -> None:
    desk.accept("t", desk.body + N, " - b")
    desk.wait(600)


Row = tuple[str, int | None, int | None]
CASES: list[tuple[Callable[[Desk], None], list[Row]]] = [
    (nothing, [WHOLE] * 4),
    (edit_inside, [WHOLE] + [("on_time", N + 1, 2)] * 3),
    (edit_before, [WHOLE] * 4),
    (edit_behind, [WHOLE] * 4),
    (delete_all, [WHOLE] + [GONE] * 3),
    (delete_more_than_all, [GONE] * 4),
    (delete_half, [("on_time", N // 2, N // 2)] * 4),
    (delete_across_the_end, [("on_time", N // 2, N // 2)] * 4),
    (undo, [GONE] * 4),
    (undo_and_redo, [GONE] + [WHOLE] * 3),
    (backspace_and_undo, [GONE] + [WHOLE] * 3),
    (cut_and_paste_elsewhere, [GONE] * 4),
    (reformat, [WHOLE] * 4),
    (reformat_inside, [("on_time", N - 2, 2)] * 4),
    (rename, [WHOLE] * 4),
    (rename_while_closed, [WHOLE] * 4),
    (close_and_reopen, [WHOLE, WHOLE, GONE, GONE]),
    (close_for_good, [WHOLE] * 4),
    (close_without_saving, [GONE] * 4),
    (close_an_untitled_document, [MISSING] * 4),
    (delete_the_file, [WHOLE] + [("file_deleted", 0, N)] * 3),
    (external_change_while_open, [WHOLE] * 4),
    (external_change_while_closed, [WHOLE] + [("on_time", N, 1)] * 3),
    (an_unreadable_file, [MISSING] * 4),
    (switch_branch, [WHOLE] + [GONE] * 3),
    (switch_branch_and_back, [WHOLE, GONE, WHOLE, WHOLE]),
    (restart_before_the_checks, [WHOLE] * 4),
    (restart_between_the_checks, [WHOLE, ("late", N, 0), WHOLE, WHOLE]),
    (restart_after_the_checks, [("late", N, 0)] * 4),
    (crash_between_the_checks, [WHOLE, ("late", N, 0), WHOLE, WHOLE]),
    (crash_and_the_clock_goes_back, [WHOLE] + [MISSING] * 3),
    (asleep, [WHOLE, ("late", N, 0), ("late", N, 0), WHOLE]),
    (a_second_suggestion_inside, [("on_time", N + 4, 4)] * 4),
    (a_second_suggestion_behind, [WHOLE] * 4),
]


@pytest.mark.parametrize(("happens", "expected"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_persistence(
    desk: Desk, rows: Rows, happens: Callable[[Desk], None], expected: list[Row]
) -> None:
    desk.accept()
    happens(desk)
    desk.settle()
    found = rows("select * from persistence where suggestion_id = 's' order by after_s")
    assert [row["after_s"] for row in found] == [30, 120, 300, 600]
    assert [(r["status"], r["present_chars"], r["distance"]) for r in found] == expected
    assert all((row["reason"] is None) == (row["status"] != "missing") for row in found)
    assert all((row["late_us"] > 5 * SECOND) == (row["status"] == "late") for row in found)
    # The only source text in the database is gone with the last check.
    assert rows("select * from pending where suggestion_id = 's'") == []
    desk.stop()
    assert INSERT.encode() not in desk.path.read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_file_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for a network share that is gone."""
    pipe = tmp_path / "x.py"
    os.mkfifo(pipe)
    check = Due("s", INSERT, INSERT, AT, 30, START, 0)
    (row,) = look_on_disk(pipe.as_uri(), [check], limit_s=0.05)
    assert (row.status, row.reason) == (CheckStatus.MISSING, "no_answer")
    pipe.open("wb").close()  # lets the thread that reads end


# How a suggestion ends ------------------------------------------------------------------


def endings(desk: Desk, rows: Rows) -> dict[str, tuple[Any, ...]]:
    desk.wait(2)
    columns = ("resolution", "chars", "accepted_chars", "typed_chars", "visible_us")
    return {
        row["suggestion_id"]: tuple(row[name] for name in columns)
        for row in rows("select * from ended")
    }


def test_accepted_and_told_twice(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    desk.lifecycle.shown("s")
    desk.sleep(2)
    desk.lifecycle.shown("s")
    desk.edit(AT, 0, INSERT)
    desk.lifecycle.accepted("s")
    desk.lifecycle.accepted("s")
    desk.lifecycle.accepted("never offered")
    assert endings(desk, rows) == {"s": ("accepted", N, N, 0, 2 * SECOND)}
    assert len(rows("select * from shown")) == 1


def test_typed_through_is_not_accepted(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    for typed in range(1, N):
        desk.edit(AT + typed - 1, 0, INSERT[typed - 1])
        desk.ask("s", AT + typed, INSERT[typed:])
    desk.edit(AT + N - 1, 0, INSERT[-1])
    desk.ask(None, AT + N, "", reason="exhausted")
    desk.ask(None, AT + N, "", reason="low_confidence")
    assert endings(desk, rows) == {"s": ("typed_through", N, 0, N, None)}
    assert rows("select * from persistence") == rows("select * from pending") == []


def test_the_rest_is_accepted_after_typing(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    desk.edit(AT, 0, INSERT[:3])
    desk.ask("s", AT + 3, INSERT[3:])
    desk.edit(AT + 3, 0, INSERT[3:])
    desk.ask(None, AT + N, "", reason="exhausted")
    desk.lifecycle.accepted("s")
    assert endings(desk, rows)["s"][:3] == ("accepted", N, N - 3)
    desk.wait(40)
    (row,) = rows("select * from persistence")
    assert (row["inserted_chars"], row["distance"]) == (N - 3, 0)


def test_ignored_dismissed_partial_and_closed(desk: Desk, rows: Rows) -> None:
    desk.ask("ignored", AT, INSERT)
    desk.ask(None, AT, "", reason="superseded")
    desk.ask("dismissed", AT, INSERT)
    desk.lifecycle.dismissed("dismissed")
    desk.ask("partial", AT, INSERT)
    desk.lifecycle.partially_accepted("partial", 6)
    desk.ask(None, AT, "", reason="empty")
    desk.ask("closed", AT, INSERT)
    desk.close()
    assert {name: row[:3] for name, row in endings(desk, rows).items()} == {
        "ignored": ("ignored", N, 0),
        "dismissed": ("dismissed", N, 0),
        "partial": ("partially_accepted", N, 6),
        "closed": ("ignored", N, 0),
    }


def test_partial_steps_count_once_and_add_up_over_offers(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    for taken in (2, 6, 6, 4):
        desk.lifecycle.partially_accepted("s", taken)
    desk.edit(AT, 0, INSERT[:6])
    desk.ask("s", AT + 6, INSERT[6:])
    desk.lifecycle.partially_accepted("s", 2)
    desk.ask(None, AT, "", reason="empty")
    assert endings(desk, rows)["s"][:3] == ("partially_accepted", N, 8)


def test_an_acceptance_may_overtake_the_next_suggestion(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    desk.edit(AT, 0, INSERT)
    desk.ask("next", AT + N, " + 2")
    desk.lifecycle.accepted("s")
    assert endings(desk, rows)["s"][0] == "accepted"


def test_an_acceptance_may_come_before_its_edit(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    desk.lifecycle.accepted("s")
    desk.edit(AT, 0, INSERT)
    desk.wait(40)
    (row,) = rows("select * from persistence")
    assert (row["status"], row["distance"]) == ("on_time", 0)


def test_active_time_leaves_out_pauses(desk: Desk, rows: Rows) -> None:
    for seconds in (10, 20, 61, 5):
        desk.edit(0, 0, "x" * 4)
        desk.wait(seconds)
    desk.accept()
    desk.stop()
    sums = "select sum(active_us) a, sum(typed_chars) t, sum(completed_chars) c from activity"
    assert rows(sums) == [{"a": 35 * SECOND, "t": 16, "c": N}]


def test_closing_ends_what_is_on_screen(desk: Desk, rows: Rows) -> None:
    desk.ask("s", AT, INSERT)
    desk.stop()
    assert [row["resolution"] for row in rows("select * from ended")] == ["ignored"]
