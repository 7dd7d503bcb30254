import subprocess

import pytest

from benchmarks.data import BenchmarkDataError
from benchmarks.lines import (
    SPAN_CHARACTERS,
    SPAN_LINES,
    line_cases,
    random_cases,
    span_cases,
)

HEADER = "# header\n" * 8


def source(name: str) -> str:
    body = "".join(
        f"def {name}_{number}(first, second):\n"
        f"    # a comment that no cursor may stand in\n"
        f'    "text that no cursor may stand in"\n\n'
        f"    return first * {number} + second\n"
        for number in range(10)
    )
    return HEADER + body


@pytest.fixture
def folder(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.py").write_text(source(name))
    (tmp_path / "tiny.py").write_text("x = 1\n")
    (tmp_path / "latin.py").write_bytes((source("e") + "# é\n").encode("latin-1"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "h.py").write_text(source("hidden"))
    return tmp_path


def test_same_seed_same_cursors(folder):
    first = line_cases(folder, 50, seed=3)
    assert first == line_cases(folder, 50, seed=3)
    assert first != line_cases(folder, 50, seed=4)
    assert len(first) == 50


def test_order_of_the_file_system_does_not_matter(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for path in sorted(folder.glob("*.py"), reverse=True):
        (other / path.name).write_bytes(path.read_bytes())
    assert line_cases(folder, 30, seed=1) == line_cases(other, 30, seed=1)


def test_spans_are_whole_lines_behind_which_a_blank_one_is_left(folder):
    cases = span_cases(folder, 200, seed=5)
    assert cases == span_cases(folder, 200, seed=5)
    for case in cases:
        text = (folder / case.cluster).read_text()
        before, after = case.text[: case.offset], case.text[case.offset :]
        assert before.endswith("\n")
        assert before + case.gold + after == text
        assert after.startswith("\n")
        lines = case.gold.split("\n")
        assert len(lines) <= SPAN_LINES
        assert len(lines) == 1 or len(case.gold) <= SPAN_CHARACTERS
        assert lines[0].strip()
        assert lines[-1].strip()
    assert {case.gold.count("\n") for case in cases} > {0, 1, 2}


def test_random_spans_go_from_any_character_to_any_later_one(folder):
    cases = random_cases(folder, 300, seed=5)
    assert cases == random_cases(folder, 300, seed=5)
    for case in cases:
        text = (folder / case.cluster).read_text()
        assert case.text[: case.offset] + case.gold + case.text[case.offset :] == text
        assert 1 <= len(case.gold) <= SPAN_CHARACTERS
        assert text.count("\n", 0, case.offset) >= 8
    inside = [case.text[case.offset - 1 : case.offset + 1].strip().isalnum() for case in cases]
    assert 0 < sum(inside) < len(cases)
    assert {"\n" in case.gold for case in cases} == {True, False}


def test_cursors_stand_inside_code(folder):
    for case in line_cases(folder, 300, seed=0):
        assert case.cluster in {"a.py", "b.py", "c.py"}
        text = (folder / case.cluster).read_text()
        assert case.text[: case.offset] + case.gold + case.text[case.offset :] == text
        row = text.count("\n", 0, case.offset)
        line = text.split("\n")[row]
        column = case.offset - text.rfind("\n", 0, case.offset) - 1
        assert row >= 8
        assert line.strip()[0] not in "#\"'"
        assert len(line) - len(line.lstrip()) <= column <= len(line) - 3
        assert case.gold == line[column:]
        assert case.text[case.offset :].startswith("\n")


def test_bare_repositories_hold_the_same_files(folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    (work / "package").mkdir()
    (work / "package" / "a.py").write_text(source("a"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(work)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    root = tmp_path_factory.mktemp("bare")
    bare = root / "project.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    for place in (root, bare):
        cases = line_cases(place, 20, seed=0)
        assert {case.cluster for case in cases} == {"project.git/package/a.py"}
    assert [case.gold for case in cases] == [case.gold for case in line_cases(work, 20, seed=0)]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(BenchmarkDataError, match="not a folder"):
        line_cases(tmp_path / "nowhere", 10, seed=0)
    with pytest.raises(BenchmarkDataError, match="no Python files"):
        line_cases(tmp_path, 10, seed=0)
