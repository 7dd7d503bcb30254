"""What counts as a suggestion that came on screen after a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.latency import samples


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A request at 1.010 s that was answered with `len(` at 1.030 s."""
    path = tmp_path / "messages.jsonl"
    asked = {"id": 1, "method": "textDocument/inlineCompletion", "params": {}}
    answer = {"id": 1, "result": [{"insertText": "len("}]}
    records = [
        {"from": "client", "at": 1.010, "message": asked},
        {"from": "server", "at": 1.030, "message": answer},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_parts_add_up(log: Path) -> None:
    (sample,) = samples(log, [900.0, 1000.0, 1200.0], [(950.0, "x"), (1045.0, "len(")])
    parts = (sample.key_to_request, sample.server, sample.answer_to_screen)
    assert parts == pytest.approx((10, 20, 15))
    assert (sample.total, sample.beyond) == pytest.approx((45, 25))


@pytest.mark.parametrize(
    "ghosts",
    [
        pytest.param([], id="never drawn"),
        pytest.param([(1045.0, "max(")], id="another"),
        pytest.param([(1250.0, "len(")], id="after the next key"),
        pytest.param([(950.0, "= len("), (1045.0, "len(")], id="was there, typed along"),
    ],
)
def test_what_does_not_count(log: Path, ghosts: list[tuple[float, str]]) -> None:
    assert samples(log, [1000.0, 1200.0], ghosts) == []
