"""What the server records, seen in its database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lsp_server.cli import app
from lsp_server.documents import Change, Document, Encoding
from lsp_server.settings import read_settings
from telemetry.paths import DATA_VARIABLE, database_path
from tests.lsp_server.client import TIMEOUT, Client, stub_command

URI = "file:///project/a.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    with Client(stub_command()) as started:
        yield started


def rows(query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database_path())) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def accept(client: Client, line: int, character: int) -> None:
    (item,) = client.complete(URI, line, character)
    start = item["range"]["start"]
    client.insert(URI, start["line"], start["character"], item["insertText"])
    command = item["command"]
    client.request(
        "workspace/executeCommand",
        {"command": command["command"], "arguments": command["arguments"]},
    )


def test_an_acceptance_from_end_to_end(client: Client) -> None:
    client.initialize()
    client.open(URI, "😀\nx = secret_name\n")
    assert client.complete(URI, 2, 0) == []
    client.complete(URI, 1, 3)
    client.notify("snowcoder/suggestion", {"id": "id-1", "event": "shown"})
    accept(client, 1, 15)
    client.notify("snowcoder/suggestion", {"id": 5, "event": "what"})
    client.insert(URI, 0, 0, "# more\n")
    assert client.leave() == 0
    asked = rows("select * from opportunities order by at_us")
    assert [row["hidden_reason"] for row in asked] == ["empty", None, None]
    assert asked[-1]["chars"] == len("X = SECRET_NAME")
    assert asked[-1]["prompt_tokens"] == len("x = secret_name")
    assert all(row["total_us"] > 0 for row in asked)
    (suggestion,) = rows("select * from suggestions")
    assert suggestion["resolution"] == "accepted"
    assert suggestion["shown_us"] is not None
    (pending,) = rows("select * from pending")
    assert (pending["session_id"], pending["inserted"]) == (None, "X = SECRET_NAME")
    assert pending["start"] == len("# more\n😀\nx = secret_name")
    (activity,) = rows("select * from activity")
    assert (activity["typed_chars"], activity["completed_chars"]) == (7, 15)
    # Nothing but the pending check knows the text.
    dump = "".join(str(rows(f"select * from {t}")) for t in ("opportunities", "ended", "activity"))
    assert "SECRET" not in dump.upper()


def test_cancelled_and_superseded_requests_have_rows(client: Client) -> None:
    client.initialize()
    client.open(URI, "slow")
    older = client.begin_complete(URI, 0, 4)
    newer = client.begin_complete(URI, 0, 4)
    assert client.result(older) is None
    client.notify("$/cancelRequest", {"id": newer})
    client.request("snowcoder/stats", None)
    assert client.leave() == 0
    assert [r["hidden_reason"] for r in rows("select * from opportunities")] == ["superseded"] * 2


@pytest.mark.parametrize("value", ["off", "no", False, None])
def test_off_writes_nothing_at_all(client: Client, folder: Path, value: object) -> None:
    client.initialize({"telemetry": value})
    client.open(URI, "x = a")
    accept(client, 0, 5)
    assert client.request("snowcoder/stats", None)["telemetry"] == "off"
    assert client.leave() == 0
    assert not folder.exists()


def test_only_a_clear_on_is_on() -> None:
    assert read_settings({"snowcoder": {}})[0].telemetry == "on"
    assert read_settings({"snowcoder": {"telemetry": "maybe"}})[0].telemetry == "off"


def test_a_damaged_record_is_reported_once(client: Client, folder: Path) -> None:
    folder.mkdir()
    database_path().write_bytes(b"damage" * 1000)
    client.initialize()
    message = client.notifications.get(timeout=TIMEOUT)
    assert message["method"] == "window/showMessage"
    assert "damaged" in message["params"]["message"]
    assert "damaged" in client.request("snowcoder/stats", None)["problem"]
    assert client.leave() == 0


def test_a_record_that_cannot_be_kept_hurts_nobody(client: Client, folder: Path) -> None:
    folder.write_text("a file, not a folder")
    client.initialize()
    client.open(URI, "x = a")
    accept(client, 0, 5)
    assert client.leave() == 0


def test_changes_say_what_they_did() -> None:
    document = Document("ab\r\ncd\nef", "python", Encoding.UTF16)
    assert document.edit((0, 1), (1, 1), "X\n") == Change(1, "b\r\nc", "X\n")
    assert document.edit((9, 9), (9, 9), "!") == Change(len("aX\nd\nef"), "", "!")
    assert document.text == "aX\nd\nef!"


# The command -----------------------------------------------------------------------------


def test_the_record_can_be_shown_exported_and_purged(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    run = CliRunner().invoke
    assert run(app, ["telemetry", "path"]).stdout.strip() == str(folder / "telemetry.db")
    assert run(app, ["telemetry", "show"]).exit_code == 1
    client.initialize()
    client.open(URI, "x = a")
    accept(client, 0, 5)
    assert client.leave() == 0
    shown = run(app, ["telemetry", "show", "--json"])
    assert '"suggestions": 1' in shown.stdout
    assert '"accepted": 1' in shown.stdout
    assert "accepted" in run(app, ["telemetry", "show"]).stdout
    out = tmp_path / "out"
    assert run(app, ["telemetry", "export", "--parquet", str(out)]).exit_code == 0
    assert pq.read_table(out / "suggestions.parquet").to_pylist() == rows(
        "select * from suggestions"
    )
    assert not (out / "pending.parquet").exists()
    assert run(app, ["telemetry", "purge"], input="n\n").exit_code == 1
    assert run(app, ["telemetry", "purge", "--yes"]).exit_code == 0
    assert list(folder.iterdir()) == []
