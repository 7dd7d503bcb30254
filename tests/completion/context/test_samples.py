from __future__ import annotations

import json
from pathlib import Path

import pytest

from completion.context.samples import main, read_files, samples
from completion.context.targets import Kind, Miner, syntax_gaps
from models.source_tree import Span
from tests.completion.scripted import small_tokenizer

HELPERS = "".join(f"def scale_{n}(amount):\n    return amount * {n}\n\n\n" for n in range(12))
USER = "from helpers import scale_1, scale_2\n\ntotal = scale_1(2)\nother = scale_2(total)\n"


def test_samples_are_whole_and_do_not_quote_their_own_file() -> None:
    files = {"helpers.py": HELPERS, "user.py": USER, "copy/user.py": USER}
    drawn = list(samples(files, small_tokenizer(), 40, 3))
    assert len(drawn) == 40
    for one in drawn:
        assert one["prefix"] + one["middle"] + one["suffix"] == files[one["path"]]
        assert one["middle"]
        if one["path"] != "helpers.py":
            assert {chunk["path"] for chunk in one["chunks"]} <= {"helpers.py"}
    assert any(one["chunks"] for one in drawn)
    assert {one["kind"] for one in drawn} >= {Kind.LINE, Kind.WORD, Kind.CALL, Kind.RETURN}
    assert drawn == list(samples(files, small_tokenizer(), 40, 3))


class Easy(Miner):
    """A model that knows every call."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fails(self, text: str, gap: Span) -> bool:
        self.asked.append(text[slice(*gap)])
        return gap not in syntax_gaps(text).get(Kind.CALL, [])


def test_what_the_model_can_write_is_left_out() -> None:
    files = {"helpers.py": HELPERS, "user.py": USER}
    miner = Easy()
    drawn = list(samples(files, small_tokenizer(), 60, 3, miner))
    kinds = {one["kind"] for one in drawn}
    assert Kind.CALL not in kinds
    assert Kind.RETURN in kinds
    assert len(miner.asked) > 30


def test_a_model_that_knows_everything_does_not_stop_the_draw() -> None:
    class Knows(Easy):
        def fails(self, text: str, gap: Span) -> bool:
            return False

    assert len(list(samples({"user.py": USER}, small_tokenizer(), 30, 3, Knows()))) == 30


def test_a_gap_belongs_to_its_file_whatever_was_tried_last() -> None:
    class Knows(Easy):
        def fails(self, text: str, gap: Span) -> bool:
            return False

    files = {"user.py": USER, "words.py": "value: int\n" * 3}  # the second has no such nodes
    drawn = list(samples(files, small_tokenizer(), 80, 5, Knows()))
    for one in drawn:
        assert one["prefix"] + one["middle"] + one["suffix"] == files[one["path"]]
        begin = len(one["prefix"])
        gap = (begin, begin + len(one["middle"]))
        if one["kind"] not in (Kind.LINE, Kind.WORD, Kind.BRACKET):
            assert gap in syntax_gaps(files[one["path"]])[one["kind"]]
    assert {one["kind"] for one in drawn} >= {Kind.CALL, Kind.LINE}


def test_files_that_are_no_code_to_learn_from(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("value = 1\r\n", newline="")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "secrets.py").write_text("KEY = 1\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.py").write_text("x = 1\n")
    (tmp_path / "loop.py").symlink_to(tmp_path / "good.py")
    (tmp_path / "long.py").write_text("x = 1\n" * 40_000)
    assert read_files(tmp_path) == {"good.py": "value = 1\n"}


def test_the_command_writes_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "user.py").write_text(USER)
    assert main([str(tmp_path), "--count", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [
        {"path", "kind", "prefix", "suffix", "middle", "chunks"}
    ] * 2
    assert main([str(tmp_path / "none")]) == 1
    assert main([str(tmp_path), "--hard-for", "no-such-model"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_the_command_mines_with_the_shipped_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    assert main([str(tmp_path), "--count", "6", "--hard-for", "snowcoder-88m"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6
    assert {row["path"] for row in rows} == {"helpers.py"}
