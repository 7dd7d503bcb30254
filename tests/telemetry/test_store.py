from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from telemetry.events import EVENTS, VIEWS, Opportunity, Shown, columns_of
from telemetry.store import (
    RETRY_S,
    CorruptError,
    LockedError,
    NewerError,
    Store,
    StoreError,
    Writer,
    check_database,
    open_database,
    open_or_set_aside,
    purge,
)
from tests.telemetry.conftest import TIMEOUT, Rows

DAY_US = 86_400_000_000


def shown(number: int = 0, **fields: object) -> Shown:
    return Shown(**{"at_us": number, "suggestion_id": f"s{number}", **fields})  # type: ignore[arg-type]


def settle(store: Store) -> None:
    """Wait until what was put before is committed."""
    done = threading.Event()
    while not store.run(lambda writer: done.set()):
        time.sleep(0.001)
    assert done.wait(TIMEOUT)
    # The job ran inside the transaction; a second one begins after its commit.
    again = threading.Event()
    while not store.run(lambda writer: again.set()):
        time.sleep(0.001)
    assert again.wait(TIMEOUT)


def waiting(store: Store) -> str:
    """Why the store waits, once it does."""
    while (reason := store.waiting) is None:
        time.sleep(0.001)
    return reason


def test_every_event_has_its_table(store: Store, rows: Rows) -> None:
    envelope = {"user_id", "session_id", "version"}
    for kind in EVENTS:
        names = {row["name"] for row in rows(f"select name from pragma_table_info('{kind.table}')")}
        assert names == set(columns_of(kind)) | envelope
    assert {r["name"] for r in rows("select name from sqlite_master where type='view'")} == {*VIEWS}


def test_events_are_kept_once_with_their_envelope(store: Store, path: Path, rows: Rows) -> None:
    event = shown(1)
    for _ in range(3):
        store.put(event)
    store.close(TIMEOUT)
    (row,) = rows("select * from shown")
    assert row["event_id"] == event.event_id
    assert (row["session_id"], row["version"], row["at_us"]) == (store.session_id, 1, 1)
    again = Store(path)
    again.start()
    again.put(event)
    again.close(TIMEOUT)
    assert len(rows("select * from shown")) == 1
    assert again.user_id == row["user_id"]


def test_out_of_order_and_hostile_text_is_only_data(store: Store, rows: Rows) -> None:
    hostile = "'); drop table shown; --<script>"
    store.put(shown(5, suggestion_id=hostile))
    store.put(shown(2, suggestion_id="x" * 1_000_000))
    store.put(shown(3, at_us=2**70))
    store.put(shown(4))
    store.close(TIMEOUT)
    found = rows("select * from shown order by at_us")
    assert [row["at_us"] for row in found] == [2, 4, 5]
    assert [len(row["suggestion_id"]) for row in found] == [200, 2, len(hostile)]
    assert found[2]["suggestion_id"] == hostile
    assert store.lost == 1


def test_what_was_rejected_is_recorded(store: Store, rows: Rows) -> None:
    store.put(shown(0, at_us=2**70))
    settle(store)
    store.put(shown(1))
    store.close(TIMEOUT)
    assert [(r["events"], r["reason"]) for r in rows("select * from lost")] == [(1, "rejected")]


def test_overflow_is_counted_and_recorded_and_never_blocks(path: Path, rows: Rows) -> None:
    store = Store(path, queue_size=4)
    store.start()
    assert store.wait_ready(TIMEOUT)
    settle(store)
    entered, release = threading.Event(), threading.Event()

    def hold(writer: Writer) -> None:
        entered.set()
        release.wait(TIMEOUT)

    store.run(hold)
    assert entered.wait(TIMEOUT)
    for number in range(10):
        store.put(shown(number))
    assert store.lost == 6
    assert not store.run(lambda writer: None)
    release.set()
    store.close(TIMEOUT)
    assert len(rows("select * from shown")) == 4
    assert [(r["events"], r["reason"]) for r in rows("select * from lost")] == [(6, "overflow")]


def test_a_lock_delays_but_loses_nothing(store: Store, path: Path, rows: Rows) -> None:
    settle(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        store.put(shown(1))
        assert "locked" in waiting(store)
        other.execute("rollback")
    store.close(TIMEOUT)
    assert len(rows("select * from shown")) == 1
    assert store.lost == 0


def test_waiting_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(path, timeout_s=0.01)
    store.start()
    settle(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        store.put(shown(1))
        assert "locked" in waiting(store)
        time.sleep(4 * RETRY_S)
        other.execute("rollback")
    store.close(TIMEOUT)
    assert caplog.text.count("telemetry waits") == 1


def test_waits_for_a_database_that_is_locked_at_the_start(path: Path, rows: Rows) -> None:
    open_database(path).conn.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("pragma locking_mode=exclusive")
        other.execute("begin exclusive")
        with pytest.raises(LockedError):
            open_database(path, timeout_s=0.01)
        store = Store(path, timeout_s=0.01)
        store.start()
        store.put(shown(1))
        assert "locked" in waiting(store)
    store.close(TIMEOUT)
    assert len(rows("select * from shown")) == 1


def test_a_full_disk_is_named_and_survived(store: Store, rows: Rows) -> None:
    def shrink(writer: Writer) -> None:
        pages = writer.database.execute("pragma page_count").fetchone()[0]
        writer.database.execute(f"pragma max_page_count={pages}")

    store.run(shrink)
    settle(store)
    for number in range(2000):
        store.put(shown(number))
    assert "full" in waiting(store)
    store.close(TIMEOUT)
    assert store.lost > 0
    assert rows("pragma integrity_check") == [{"integrity_check": "ok"}]


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 9000]
)
def test_a_corrupt_database_is_set_aside(path: Path, rows: Rows, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(CorruptError):
        open_database(path)
    store = Store(path)
    store.start()
    store.put(shown(1))
    store.close(TIMEOUT)
    assert store.problem is not None
    assert "damaged" in store.problem
    (aside,) = path.parent.glob("*.corrupt-*[0-9]")
    assert aside.read_bytes() == content
    assert len(rows("select * from shown")) == 1


def test_a_database_damaged_while_it_is_written_is_set_aside(
    store: Store, path: Path, rows: Rows
) -> None:
    store.put(shown(1))
    settle(store)
    with closing(sqlite3.connect(path)) as other:
        other.execute("pragma wal_checkpoint(truncate)").fetchall()
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"x" * (path.stat().st_size - 4096))
    # What is in memory would hide it for a while.
    store.run(lambda writer: writer.database.execute("pragma shrink_memory"))
    store.put(shown(2))
    settle(store)
    assert "damaged" in (store.problem or "")
    assert [row["suggestion_id"] for row in rows("select * from shown")] == ["s2"]
    assert len(list(path.parent.glob("*.corrupt-*[0-9]"))) == 1
    assert store.lost == 0


def test_a_database_that_is_removed_is_begun_anew(store: Store, path: Path, rows: Rows) -> None:
    store.put(shown(1))
    settle(store)
    user = store.user_id
    purge(path)
    store.put(shown(2))
    settle(store)
    assert [row["suggestion_id"] for row in rows("select * from shown")] == ["s2"]
    assert store.user_id != user
    assert (store.lost, store.problem) == (0, None)


@pytest.mark.parametrize(
    ("content", "error"), [(None, None), (b"no database" * 500, CorruptError), (b"", StoreError)]
)
def test_looking_changes_nothing(
    path: Path, content: bytes | None, error: type[StoreError] | None
) -> None:
    assert check_database(path) is False
    assert not path.parent.exists()
    if content is None:
        open_database(path).conn.close()
        content = path.read_bytes()
    else:
        path.parent.mkdir()
        path.write_bytes(content)
    if error is None:
        assert check_database(path) is True
    else:
        with pytest.raises(error):
            check_database(path)
    assert path.read_bytes() == content
    assert list(path.parent.glob("*.corrupt-*")) == []


def test_a_newer_database_is_left_alone(path: Path, rows: Rows) -> None:
    database = open_database(path)
    database.table("_sqlite_migrations").insert(
        {"migration_set": "snowcoder", "name": "from_the_future", "applied_at": "x"}
    )
    database.conn.close()
    with pytest.raises(NewerError):
        open_or_set_aside(path)
    with pytest.raises(NewerError):
        check_database(path)
    store = Store(path)
    store.start()
    store.put(shown(1))
    assert store.wait_ready(TIMEOUT)
    store.close(TIMEOUT)
    assert store.problem is not None
    assert "newer" in store.problem
    assert store.user_id is None
    assert rows("select * from shown") == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        open_database(tmp_path / "file" / "telemetry.db")


def test_old_events_expire(path: Path, rows: Rows) -> None:
    now_us = time.time_ns() // 1000
    store = Store(path, retention_days=30)
    store.start()
    store.put(shown(0))
    store.put(shown(1, at_us=now_us - 31 * DAY_US))
    store.put(shown(2, at_us=now_us - 29 * DAY_US))
    store.close(TIMEOUT)
    assert [row["suggestion_id"] for row in rows("select * from shown")] == ["s2"]


def test_purge_leaves_nothing(path: Path) -> None:
    open_database(path).conn.close()
    purge(path)
    purge(path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_loses_nothing_it_committed(path: Path, rows: Rows) -> None:
    code = """
        import sys, threading
        from pathlib import Path
        from telemetry.events import Shown
        from telemetry.store import Store
        store = Store(Path(sys.argv[1]))
        store.start()
        for number in range(500):
            store.put(Shown(at_us=number, suggestion_id="s", event_id=str(number)))
            if number == 250:
                first = threading.Event()
                store.run(lambda writer: first.set())
                first.wait()
                second = threading.Event()
                store.run(lambda writer: second.set())
                second.wait()
                print("committed", flush=True)
        threading.Event().wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"committed\n"
        os.kill(process.pid, signal.SIGKILL)
    kept = {int(row["event_id"]) for row in rows("select event_id from shown")}
    assert set(range(251)) <= kept
    assert rows("pragma integrity_check") == [{"integrity_check": "ok"}]


def test_opportunities_hold_what_is_given(store: Store, rows: Rows) -> None:
    store.put(Opportunity(at_us=7, request_id="r", language="python", trigger="automatic"))
    store.close(TIMEOUT)
    (row,) = rows("select * from opportunities")
    assert (row["language"], row["hidden_reason"], row["total_us"]) == ("python", None, 0)
