from __future__ import annotations

import json
from pathlib import Path

import pytest

from completion.context.samples import main, read_files, samples
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
    assert drawn == list(samples(files, small_tokenizer(), 40, 3))


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
    assert [set(row) for row in rows] == [{"path", "prefix", "suffix", "middle", "chunks"}] * 2
    assert main([str(tmp_path / "none")]) == 1
