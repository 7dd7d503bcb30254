"""What is indexed of a workspace, and what never is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from completion.context.files import Files, text_of


def write(root: Path, path: str, content: str | bytes = "x = 1\n") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())


def walked(root: Path, *exclude: str) -> list[str]:
    """What a walk finds; asking for each path by name agrees."""
    files = Files(root, exclude)
    found = sorted(one.path for one in files.walk())
    everything = sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()
    )
    assert [path for path in everything if files.find(path) is not None] == found
    return found


def test_ignored_excluded_and_secret_files_are_left_out(tmp_path: Path) -> None:
    for path in (
        "kept.py",
        "pkg/kept.go",
        "pkg/generated.py",
        "pkg/again.gen.py",
        "build/out.py",
        "user/private.py",
        "own/hidden.py",
        "own/deep/hidden.py",
        "secrets.py",
        ".venv/lib/a.py",
        "env/lib/a.py",
        "node_modules/a.js",
        "notes.md",
        "data.json",
    ):
        write(tmp_path, path)
    write(tmp_path, "env/pyvenv.cfg", "")
    write(tmp_path, ".gitignore", "/build/\ngenerated.py\n*.gen.py\n!secrets.py\n")
    write(tmp_path, "pkg/.gitignore", "!again.gen.py\n")
    write(tmp_path, ".snowcoderignore", "own/*.py\n")
    write(tmp_path, "own/deep/.snowcoderignore", "hidden.py\n")
    write(tmp_path, "own/.gitignore", "!hidden.py\n")
    assert walked(tmp_path, "user/") == ["kept.py", "pkg/again.gen.py", "pkg/kept.go"]


def test_what_is_no_source_text_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "binary.py", b"a\0b")
    write(tmp_path, "minified.js", "a" * 10_000)
    write(tmp_path, "latin.py", "x = 'é'\r\n".encode("latin-1"))
    files = Files(tmp_path, ())
    contents = {found.path: files.read(found) for found in files.walk()}
    assert contents.pop("latin.py") == b"x = '\xe9'\r\n"
    assert contents == {"binary.py": None, "minified.js": None}
    assert text_of(b"\xef\xbb\xbfx = '\xe9'\r\n") == "x = '\ufffd'\n"


def test_a_huge_file_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "huge.py").open("wb") as stream:
        stream.truncate(2 << 30)
    assert walked(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "pkg/a.py")
    (tmp_path / "pkg" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b.py").symlink_to(tmp_path / "pkg" / "a.py")
    assert walked(tmp_path) == ["pkg/a.py"]
    assert Files(tmp_path, ()).find("pkg/loop/pkg/a.py") is None


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_utf8_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.py"), "wb") as stream:  # noqa: PTH118, PTH123
        stream.write(b"x\n")
    assert [one.path for one in Files(tmp_path, ()).walk()] == ["a.py"]


def test_where_the_ignore_file_cannot_be_read_nothing_is_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.py")
    write(tmp_path, "pkg/b.py")
    write(tmp_path, "pkg/.snowcoderignore", "b.py\n")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.parent.name == "pkg":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert walked(tmp_path) == ["a.py"]
