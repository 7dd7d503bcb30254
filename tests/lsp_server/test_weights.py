"""The command as a user's editor starts it, with a real (tiny, random) model on disk."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lsp_server.paths import CACHE_VARIABLE
from tests.lsp_server.client import TIMEOUT, Client

SNOWCODER = Path(sysconfig.get_path("scripts")) / "snowcoder"
URI = "file:///project/a.py"
# A random model is never sure and knows no stop; the tests are about the way, not the words.
SETTINGS = {"minLogprob": None, "deadlineMs": None}
SOURCE = 'import os\r\n\r\nmood = "😀é"\r\nprint(os.path.\r\n'


def serve(weights: Path) -> Client:
    return Client([SNOWCODER, "serve", "--model", weights, "--threads", "1"])


@pytest.fixture(scope="module")
def serving(tiny_weights: Path) -> Iterator[Client]:
    with serve(tiny_weights) as client:
        client.initialize(SETTINGS, encodings=["utf-8"])
        yield client
        assert client.leave() == 0


def suggestion(client: Client) -> dict[str, Any]:
    """Type letters until the random model has something to say; returns the item."""
    client.open(URI, SOURCE)
    for column, letter in enumerate("joinpath", start=len("print(os.path.")):
        client.insert(URI, 3, column, letter)
        if items := client.complete(URI, 3, column + 1):
            item: dict[str, Any] = items[0]
            return item
    raise AssertionError(client.request("snowcoder/stats", None)["last"])


def test_completes_with_a_model(serving: Client) -> None:
    item = suggestion(serving)
    assert item["insertText"]
    assert "\n" not in item["insertText"]
    assert item["range"]["start"]["line"] == item["range"]["end"]["line"] == 3
    row = serving.request("snowcoder/stats", None)["last"][-1]
    assert row["source"] == "model"
    assert row["generated_tokens"] > 0
    assert row["total_ms"] >= row["prefill_ms"] + row["decode_ms"] > 0


def test_typing_through_runs_no_model(serving: Client) -> None:
    item = suggestion(serving)
    text, start = item["insertText"], item["range"]["start"]["character"]
    before = serving.request("snowcoder/stats", None)["model_calls"]
    serving.insert(URI, 3, start, text[0])
    rest = serving.complete(URI, 3, start + len(text[0].encode()))
    if len(text) > 1:
        assert rest[0]["insertText"] == text[1:]
        assert rest[0]["command"] == item["command"]
    assert serving.request("snowcoder/stats", None)["model_calls"] == before


def test_closing_a_document_frees_its_cache(serving: Client) -> None:
    suggestion(serving)
    held = serving.request("snowcoder/stats", None)["kv_mb"]
    serving.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    serving.complete(URI, 0, 0)
    serving.request("workspace/executeCommand", {"command": "snowcoder.accept", "arguments": ["x"]})
    assert serving.request("snowcoder/stats", None)["kv_mb"] < held


def _missing(weights: Path) -> str:
    shutil.rmtree(weights)
    return "no model at"


def _without_a_file(weights: Path) -> str:
    (weights / "tokenizer.json").unlink()
    return "is missing"


def _altered(weights: Path) -> str:
    with next(weights.glob("*.data")).open("r+b") as stream:
        stream.seek(64)
        stream.write(b"altered")
    return "was altered"


def _newer(weights: Path) -> str:
    manifest = json.loads((weights / "manifest.json").read_text())
    (weights / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    return "is not of format"


@pytest.mark.parametrize("damage", [_missing, _without_a_file, _altered, _newer])
def test_damaged_weights_give_one_sentence_and_a_living_server(
    damage: Any, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prepacked weights of an earlier test would serve where only the graph is damaged.
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    weights = tmp_path / "weights"
    shutil.copytree(tiny_weights, weights)
    sentence = damage(weights)
    with serve(weights) as client:
        client.initialize()
        message = client.notifications.get(timeout=TIMEOUT)
        assert message["method"] == "window/showMessage"
        assert sentence in message["params"]["message"]
        client.open(URI, "x = 1\n")
        assert client.complete(URI, 0, 5) == []
        assert client.notifications.empty()
        assert client.leave() == 0
