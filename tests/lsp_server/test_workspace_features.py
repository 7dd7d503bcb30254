"""Notebooks, folders, files, candidates and menus, through the server's streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lsp_server.client import TIMEOUT, Client, stub_command

URI = "file:///project/a.py"
NOTEBOOK = "file:///project/book.ipynb"
CODE, MARKUP = 2, 1


def cell(name: str, kind: int = CODE) -> dict[str, Any]:
    return {"kind": kind, "document": f"{NOTEBOOK}#{name}"}


def text(name: str, content: str, language: str = "python") -> dict[str, Any]:
    uri = f"{NOTEBOOK}#{name}"
    return {"uri": uri, "languageId": language, "version": 0, "text": content}


def inserted(client: Client, uri: str, line: int, character: int) -> Any:
    items = client.complete(uri, line, character)
    return [item["insertText"] for item in items]


@pytest.fixture
def notebook(client: Client) -> Client:
    document = {
        "uri": NOTEBOOK,
        "notebookType": "jupyter-notebook",
        "version": 0,
        "cells": [cell("a"), cell("m", MARKUP), cell("b"), cell("c")],
    }
    texts = [
        text("a", "import os\n"),
        text("m", "# Title", "markdown"),
        text("b", "😀\naround"),
        text("c", "end"),
    ]
    params = {"notebookDocument": document, "cellTextDocuments": texts}
    client.notify("notebookDocument/didOpen", params)
    return client


def change_cells(client: Client, **cells: Any) -> None:
    params = {"notebookDocument": {"uri": NOTEBOOK, "version": 1}, "change": {"cells": cells}}
    client.notify("notebookDocument/didChange", params)


def test_cells_of_a_notebook_are_one_document(notebook: Client) -> None:
    (item,) = notebook.complete(f"{NOTEBOOK}#b", 1, 6)
    assert item["insertText"] == repr("import os\n😀\naround|\nend")
    assert item["range"]["start"] == item["range"]["end"] == {"line": 1, "character": 6}


def test_cells_change_move_and_go(notebook: Client) -> None:
    place = {"line": 0, "character": 3}
    changes = [{"range": {"start": place, "end": place}, "text": "ing"}]
    changed = {"document": {"uri": f"{NOTEBOOK}#c", "version": 1}, "changes": changes}
    change_cells(notebook, textContent=[changed])
    array = {"start": 0, "deleteCount": 2, "cells": [cell("n")]}
    structure = {
        "array": array,
        "didOpen": [text("n", "new = 1")],
        "didClose": [{"uri": f"{NOTEBOOK}#a"}, {"uri": f"{NOTEBOOK}#m"}],
    }
    change_cells(notebook, structure=structure)
    assert inserted(notebook, f"{NOTEBOOK}#b", 1, 6) == [repr("new = 1\n😀\naround|\nending")]
    change_cells(notebook, data=[cell("n", MARKUP)])
    change_cells(notebook)
    assert inserted(notebook, f"{NOTEBOOK}#b", 1, 6) == [repr("😀\naround|\nending")]
    assert notebook.complete(f"{NOTEBOOK}#a", 0, 1) == []


def test_a_closed_notebook_is_forgotten(notebook: Client) -> None:
    documents = [{"uri": f"{NOTEBOOK}#{name}"} for name in "ambc"]
    params = {"notebookDocument": {"uri": NOTEBOOK}, "cellTextDocuments": documents}
    notebook.notify("notebookDocument/didClose", params)
    assert notebook.complete(f"{NOTEBOOK}#b", 1, 6) == []
    notebook.open(URI, "told")
    assert NOTEBOOK in inserted(notebook, URI, 0, 4)[0]


def test_notebooks_are_offered_to_clients_that_know_them() -> None:
    with Client(stub_command()) as client:
        sync = {"notebookDocument": {"synchronization": {}}}
        offered = client.initialize(capabilities=sync)["notebookDocumentSync"]
        assert offered["notebookSelector"][0]["cells"] == [{"language": "python"}]


def test_folders_come_and_go(client: Client, tmp_path: Path) -> None:
    (tmp_path / ".snowcoderignore").write_text("a.py\n")
    uri = f"{tmp_path.as_uri()}/a.py"
    client.open(uri, "ab")
    assert inserted(client, uri, 0, 2) == ["AB"]
    folder = {"uri": tmp_path.as_uri(), "name": "folder"}
    method = "workspace/didChangeWorkspaceFolders"
    client.notify(method, {"event": {"added": [folder], "removed": []}})
    assert client.complete(uri, 0, 2) == []
    client.notify(method, {"event": {"added": [], "removed": [folder, folder]}})
    assert inserted(client, uri, 0, 2) == ["AB"]


def test_an_ignore_file_that_appears_counts(client: Client, tmp_path: Path) -> None:
    folder = {"uri": tmp_path.as_uri(), "name": "folder"}
    added = {"event": {"added": [folder], "removed": []}}
    client.notify("workspace/didChangeWorkspaceFolders", added)
    uri, ignore = f"{tmp_path.as_uri()}/a.py", f"{tmp_path.as_uri()}/.snowcoderignore"
    client.open(uri, "ab")
    while not client.complete(uri, 0, 2):
        pass
    for method, params in [
        ("workspace/didCreateFiles", {"files": [{"uri": ignore}]}),
        ("workspace/didChangeWatchedFiles", {"changes": [{"uri": ignore, "type": 1}]}),
        ("textDocument/didSave", {"textDocument": {"uri": ignore}}),
    ]:
        (tmp_path / ".snowcoderignore").write_text("a.py\n")
        client.notify(method, params)
        while client.complete(uri, 0, 2):
            pass
        (tmp_path / ".snowcoderignore").unlink()
        client.notify("workspace/didDeleteFiles", {"files": [{"uri": ignore}]})
        while not client.complete(uri, 0, 2):
            pass


def test_renamed_and_deleted_documents_are_forgotten(client: Client) -> None:
    renamed = {"files": [{"oldUri": URI, "newUri": "file:///project/b.py"}]}
    client.notify("workspace/didRenameFiles", renamed)
    client.notify("workspace/didDeleteFiles", {"files": [{"uri": "file:///project/c.py"}]})
    client.open(URI, "told")
    assert inserted(client, URI, 0, 4) == [f"[] ['{URI}', 'file:///project/c.py'] automatic"]


def test_an_explicit_request_gives_several(client: Client) -> None:
    client.open(URI, "several")
    assert inserted(client, URI, 0, 7) == ["a"]
    items = client.complete(URI, 0, 7, 1)
    assert [item["insertText"] for item in items] == ["a", "b"]
    assert [item["command"]["arguments"] for item in items] == [["a"], ["b"]]


def test_rest_and_dismissal_reach_the_engine(client: Client) -> None:
    client.open(URI, "ab\nnotes")
    (item,) = client.complete(URI, 0, 2)
    position = {"line": 1, "character": 2}
    client.notify("snowcoder/didRestCursor", {"textDocument": {"uri": URI}, "position": position})
    for nonsense in (None, {}, {"textDocument": {"uri": 5}, "position": position}):
        client.notify("snowcoder/didRestCursor", nonsense)
    client.notify("textDocument/didDismissCompletion", {"item": item})
    (noted,) = inserted(client, URI, 1, 5)
    assert noted.startswith("['id-1'] [")
    # At offset 5; the engine may have worked ahead elsewhere on its own.
    assert "5" in noted.partition("] [")[2]
    client.command("snowcoder.pause")
    elsewhere = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 1}}
    client.notify("snowcoder/didRestCursor", elsewhere)
    client.command("snowcoder.resume")
    (noted,) = inserted(client, URI, 1, 5)
    assert "1" not in noted.partition("] [")[2]


def test_the_completion_menu_is_opt_in(client: Client) -> None:
    with Client(stub_command()) as other:
        assert "completionProvider" in other.initialize({"completion": True})
        other.open(URI, "x = foo.ba")
        place = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 10}}
        answer = other.request("textDocument/completion", place)
        (item,) = answer["items"]
        assert answer["isIncomplete"] is True
        assert item["textEdit"]["newText"] == item["filterText"] == "baX = FOO.BA"
        assert item["textEdit"]["range"]["start"]["character"] == 8
        assert item["command"]["command"] == "snowcoder.accept"
        other.open(URI, "")
        place["position"] = {"line": 0, "character": 0}
        assert other.request("textDocument/completion", place)["items"] == []
    with Client(stub_command()) as plain:
        assert "completionProvider" not in plain.initialize()


def test_an_engine_that_dies_is_replaced_and_told_once(client: Client) -> None:
    client.open(URI, "die\nab")
    client.status("idle")
    assert client.complete(URI, 0, 3) == []
    message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
    assert "thread ended" in message
    assert client.status("error")["reason"]
    assert client.complete(URI, 1, 2) == []
    assert client.notifications.empty()
    assert client.leave() == 0
