from __future__ import annotations

import json
from pathlib import Path

from lsp_server.decisions import KEPT, Decision, Decisions, read_file


def decision(name: str, suggestion: str = "") -> Decision:
    return Decision(
        "2026-01-01T00:00:00", name, 1, "python", "automatic", "hidden", "empty", "", suggestion
    )


def test_the_last_ones_come_back_with_their_events(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "decisions.jsonl"
    decisions = Decisions(path)
    decisions.add(decision("a.py", "id-1"))
    decisions.add(decision("b.py"))
    for event in ("shown", "accepted", "shown"):
        decisions.mark("id-1", event)
    decisions.mark("unknown", "shown")
    decisions.close()
    for rows in (decisions.last(), read_file(path)):
        assert [row["file"] for row in rows] == ["a.py", "b.py"]
        assert rows[0]["events"] == ["shown", "accepted"]
    assert [row["file"] for row in decisions.last(1)] == ["b.py"]
    assert path.stat().st_mode & 0o077 == 0


def test_no_more_than_the_last_200_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    for _ in range(3):
        decisions = Decisions(path)
        for number in range(KEPT * 3):
            decisions.add(decision(f"{number}.py"))
        decisions.close()
        assert len(decisions.last()) == len(read_file(path)) == KEPT
        assert decisions.last()[-1]["file"] == f"{KEPT * 3 - 1}.py"
    # A server cuts what its predecessors left before it adds its own.
    assert len(path.read_text().splitlines()) == KEPT * 4
    assert list(tmp_path.iterdir()) == [path]


def test_two_servers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    one, other = Decisions(path), Decisions(path)
    one.add(decision("one.py"))
    one.close()
    other.add(decision("other.py"))
    other.close()
    assert [row["file"] for row in read_file(path)] == ["one.py", "other.py"]


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    good = json.dumps({"outcome": "hidden", "file": "a.py"})
    path.write_bytes(b"{half\n[]\n17\n\xff\xfe\n" + good.encode() + b"\n{}\n")
    assert [row["file"] for row in read_file(path)] == ["a.py"]


def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(
    tmp_path: Path, caplog: object
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    decisions = Decisions(blocked / "decisions.jsonl")
    for number in range(5):
        decisions.add(decision(f"{number}.py"))
    decisions.close()
    assert len(decisions.last()) == 5
    assert caplog.text.count("cannot be written") == 1  # type: ignore[attr-defined]
