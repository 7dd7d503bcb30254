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
    (item,) = client.complete(URI, 1, 3)
    client.notify("textDocument/didShowCompletion", {"item": item})
    accept(client, 1, 15)
    client.notify("textDocument/didShowCompletion", {"item": 5})
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


def test_a_part_is_counted_in_characters(client: Client) -> None:
    client.initialize()
    client.open(URI, "x = '😀'")
    (item,) = client.complete(URI, 0, 8)
    partially = "textDocument/didPartiallyAcceptCompletion"
    for length in (4, 7, 7, None):
        client.notify(partially, {"item": item, "acceptedLength": length})
    client.notify(partially, {"item": {**item, "insertText": 1}, "acceptedLength": 8})
    assert client.leave() == 0
    (ended,) = rows("select * from ended")
    # Seven UTF-16 units in all: X = '😀
    assert (ended["resolution"], ended["accepted_chars"]) == ("partially_accepted", 6)


def test_any_of_several_items_may_be_accepted(client: Client) -> None:
    client.initialize()
    client.open(URI, "several")
    _, other = client.complete(URI, 0, 7, trigger=1)
    client.notify("textDocument/didShowCompletion", {"item": other})
    client.insert(URI, 0, 7, other["insertText"])
    client.command(other["command"]["command"], *other["command"]["arguments"])
    assert client.leave() == 0
    (suggestion,) = rows("select * from suggestions")
    assert (suggestion["suggestion_id"], suggestion["resolution"]) == ("a", "accepted")
    assert suggestion["shown_us"] is not None
    assert [row["inserted"] for row in rows("select * from pending")] == ["b"]


def test_a_refusal(client: Client) -> None:
    client.initialize()
    client.open(URI, "x = a")
    (item,) = client.complete(URI, 0, 5)
    client.notify("textDocument/didDismissCompletion", {"item": item})
    assert client.leave() == 0
    assert [row["resolution"] for row in rows("select * from ended")] == ["dismissed"]


def test_an_acceptance_in_a_notebook_cell(client: Client) -> None:
    client.initialize()
    uris = ["notebook-cell:/n.ipynb#1", "notebook-cell:/n.ipynb#2"]
    cells = [
        {"uri": uri, "languageId": "python", "version": 0, "text": text}
        for uri, text in zip(uris, ["first = 1\n", "# é\nx = b"], strict=True)
    ]
    notebook = "file:///n.ipynb"
    client.notify(
        "notebookDocument/didOpen",
        {
            "notebookDocument": {
                "uri": notebook,
                "notebookType": "jupyter-notebook",
                "version": 0,
                "cells": [{"kind": 2, "document": uri} for uri in uris],
            },
            "cellTextDocuments": cells,
        },
    )
    (item,) = client.complete(uris[1], 1, 5)
    place = item["range"]["start"]
    typed = {
        "document": {"uri": uris[1], "version": 1},
        "changes": [{"range": {"start": place, "end": place}, "text": item["insertText"]}],
    }
    more = {
        "document": {"uri": uris[1], "version": 2},
        "changes": [{"range": {"start": _TOP, "end": _TOP}, "text": "more\n"}],
    }
    client.notify("notebookDocument/didChange", _cells(notebook, 1, typed))
    client.command(item["command"]["command"], *item["command"]["arguments"])
    client.notify("notebookDocument/didChange", _cells(notebook, 2, more))
    client.notify(
        "notebookDocument/didClose",
        {
            "notebookDocument": {"uri": notebook},
            "cellTextDocuments": [{"uri": uri} for uri in uris],
        },
    )
    assert client.leave() == 0
    (pending,) = rows("select * from pending")
    assert (pending["uri"], pending["inserted"]) == (uris[1], "X = B")
    assert pending["start"] == len("more\n# é\nx = b")


_TOP = {"line": 0, "character": 0}


def _cells(notebook: str, version: int, text: dict[str, Any]) -> dict[str, Any]:
    return {
        "notebookDocument": {"uri": notebook, "version": version},
        "change": {"cells": {"textContent": [text]}},
    }


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


def test_off_in_the_answer_to_the_server_writes_nothing(client: Client, folder: Path) -> None:
    client.initialize(capabilities={"workspace": {"configuration": True}})
    client.open(URI, "x = a")
    client.respond("workspace/configuration", [{"telemetry": "off"}])
    accept(client, 0, 5)
    assert client.request("snowcoder/stats", None)["telemetry"] == "off"
    assert client.leave() == 0
    assert not folder.exists()


def test_settings_that_change_are_followed(client: Client) -> None:
    client.initialize()
    client.open(URI, "x = a")
    client.open("file:///project/b.py", "y = b")
    accept(client, 0, 5)
    for value in ("off", "on"):
        settings = {"snowcoder": {"telemetry": value}}
        client.notify("workspace/didChangeConfiguration", {"settings": settings})
        assert client.request("snowcoder/stats", None)["telemetry"] == value
        client.complete("file:///project/b.py", 0, 5)
    assert client.leave() == 0
    assert rows("select count(*) as n from opportunities")[0]["n"] == 2
    # What was accepted before is still to be looked for.
    assert len(rows("select * from pending")) == 1


def test_only_a_clear_on_is_on() -> None:
    assert read_settings({})[0].telemetry == "on"
    assert read_settings({"telemetry": "maybe"})[0].telemetry == "off"


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
