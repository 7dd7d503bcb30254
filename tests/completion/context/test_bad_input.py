"""Whatever lies in a workspace or befalls its index: skipped or built anew, in one log line."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from completion.context import store
from completion.context.builder import Builder
from completion.context.files import Files
from completion.context.stored import StoredIndex
from tests.completion.context.indexes import (
    SHOP,
    built,
    dump,
    end,
    execute,
    many,
    put,
    ready,
    start,
    tell,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="files of kinds that only Linux has")
NOBODY = 65534
HALF = "\ud800"
"""Half of a surrogate pair, which JSON can say and UTF-8 cannot."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    put(root, "shop.py", SHOP)
    put(root, "pkg/tools.py", "def sell_pear(): ...\n")
    return root


def too_deep(root: Path) -> None:
    """Folders whose path no call of the system takes, made from the inside."""
    folder = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("deep.py", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)


@linux
def test_all_that_is_bad_is_skipped_and_told_in_one_line(root: Path, tmp_path: Path) -> None:
    (root / "pkg" / "loop").symlink_to(root, target_is_directory=True)
    (root / "self.py").symlink_to("self.py")
    with (root / "huge.py").open("wb") as stream:
        stream.truncate(2 << 30)
    for n in range(300):
        (root / f"binary{n}.py").write_bytes(b"x = 1\n\0")
    (root / "utf16.py").write_text("x = 1\n", encoding="utf-16")
    put(root, "minified.js", "x" * 10_000)
    os.mkfifo(root / "pipe.py")
    for folder in ("piped", "linked"):
        put(root, f"{folder}/hidden.py", "x = 1\n")
    os.mkfifo(root / "piped" / ".gitignore")
    (root / "linked" / ".snowcoderignore").symlink_to(".snowcoderignore")
    put(root, "vast/kept.py", "x = 1\n")
    with (root / "vast" / ".gitignore").open("wb") as stream:
        stream.truncate(2 << 30)
    name = os.fsencode(root) + b"/\xff"
    Path(os.fsdecode(name)).mkdir()
    for path in (name + b"/a.py", name + b".py"):
        os.close(os.open(path, os.O_CREAT))
    too_deep(root)
    with (tmp_path / "log").open("w+") as log:
        child = start(root, tmp_path, log)
        assert ready(child) == 3
        # Saying it again tells nobody anything.
        tell(child, ".gitignore")
        assert ready(child) == 3
        end(child)
        log.seek(0)
        (line,) = log.read().splitlines()
    for told in (
        "and 300 more: binary data",
        "'huge.py': longer than 500000 bytes",
        "'minified.js': lines longer than 400 bytes",
        "'pipe.py' and 1 more: no plain file",
        "'linked/': Too many levels of symbolic links",
        "'\\udcff' and 1 more: its name is no UTF-8",
        "File name too long",
    ):
        assert told in line
    assert "hidden.py" not in line
    index = StoredIndex(store.workspace_folder(tmp_path, root))
    assert index.chunks("shop.py")
    assert index.chunks("vast/kept.py")


@contextmanager
def without_the_rights_of_root() -> Iterator[None]:
    """As another user, where this is root, who may read everything."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.mark.skipif(sys.platform == "win32", reason="other rights there")
def test_what_may_not_be_read_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    with TemporaryDirectory() as folder:  # other users may not look into pytest's own
        Path(folder).chmod(0o777)
        root = Path(folder) / "work"
        for path in ("shop.py", "pkg/tools.py", "secret/a.py", "mine.py"):
            put(root, path, SHOP)
        # Before: modules that it loads late may lie where other users may not look.
        assert Builder(root, Path(folder) / "before").scan() == 4
        caplog.clear()
        (root / "secret").chmod(0)
        (root / "mine.py").chmod(0)
        with without_the_rights_of_root():
            assert Builder(root, Path(folder) / "index").scan() == 2
        (root / "secret").chmod(0o700)
    (record,) = caplog.records
    assert "and 1 more: Permission denied" in record.message


@linux
def test_where_the_ignore_file_cannot_be_read_nothing_is_indexed(root: Path) -> None:
    put(root, "pkg/.snowcoderignore", "nothing\n")
    files = Files(root, ())
    assert files.find("pkg/tools.py") is not None
    (root / "pkg" / ".snowcoderignore").unlink()
    (root / "pkg" / ".snowcoderignore").symlink_to(".snowcoderignore")
    assert [found.path for found in files.walk()] == ["shop.py"]
    assert files.find("pkg/tools.py") is None
    (root / "pkg" / ".snowcoderignore").unlink()
    (root / "pkg" / ".snowcoderignore").symlink_to("/dev/null")
    assert files.find("pkg/tools.py") is not None


@linux
def test_what_takes_a_files_place_is_not_waited_for(root: Path, tmp_path: Path) -> None:
    builder = Builder(root, tmp_path / "index")
    assert builder.scan() == 2
    (root / "shop.py").unlink()
    os.mkfifo(root / "shop.py")
    assert builder.update(["shop.py"]) == 1
    files = Files(root, ())
    found = files.find("pkg/tools.py")
    assert found is not None
    (root / "pkg" / "tools.py").unlink()
    os.mkfifo(root / "pkg" / "tools.py")
    assert files.read(found) is None
    (root / "pkg" / "tools.py").unlink()
    (root / "pkg" / "tools.py").symlink_to("/dev/zero")
    assert files.read(found) is None
    assert builder.scan() == 0
    builder.close()


def test_of_very_many_files_one_at_a_time_is_held(tmp_path: Path) -> None:
    for n in range(4000):
        (tmp_path / f"{n:0200}.py").touch()
    tracemalloc.start()
    try:
        count = sum(1 for _ in Files(tmp_path, ()).walk())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 4000
    # Their names alone take a megabyte.
    assert most < 400_000


class Churn(threading.Thread):
    """Writes, cuts, renames and deletes files until it is told to stop."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._chance = random.Random(5)
        self.ended = threading.Event()
        self.changes = 0

    def run(self) -> None:
        while not self.ended.is_set():
            self.changes += 1
            self._change(self._root / f"pkg{self._chance.randrange(7)}")

    def _change(self, folder: Path) -> None:
        path, other = (folder / f"m{self._chance.randrange(60)}.py" for _ in range(2))
        kind = self._chance.randrange(6)
        if kind == 0:
            path.unlink(missing_ok=True)
        elif kind == 1 and path.exists():
            path.replace(other)
        elif kind == 2:
            folder.rename(folder.with_name("moved"))
            folder.with_name("moved").rename(folder)
        else:
            # Often as long as before: only the time tells that it changed.
            path.write_text(SHOP.replace("apple", self._chance.choice(("peach", "melon"))))
            if kind == 3:
                with path.open("r+b") as stream:
                    stream.truncate(self._chance.randrange(100))


@pytest.fixture
def churn(root: Path) -> Iterator[Churn]:
    many(root, 60)
    made = Churn(root)
    made.start()
    yield made
    made.ended.set()
    made.join()


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be moved there")
def test_files_that_change_while_they_are_read_are_right_in_the_end(
    churn: Churn, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    builder = Builder(root, folder)
    while churn.changes < 3000:
        assert builder.scan() > 0
        builder.update(["pkg1/m1.py", "pkg2/m2.py", "gone.py"])
    churn.ended.set()
    churn.join()
    builder.scan()
    builder.close()
    anew = tmp_path / "anew"
    assert dump(StoredIndex(folder), folder) == dump(built(root, anew), anew)


def test_names_that_are_no_text_end_no_builder(root: Path, tmp_path: Path) -> None:
    child = start(root, tmp_path)
    assert ready(child) == 2
    put(root, "new.py", "def plum(): ...\n")
    tell(child, f"{HALF}.py", "\udcff.py", f"pkg{HALF}/a.py", "new.py", f"{HALF}/.gitignore")
    assert ready(child) == 3
    end(child)
    index = StoredIndex(store.workspace_folder(tmp_path, root))
    assert [chunk.path for chunk, _ in index.search(["plum"], 5)] == ["new.py"]
    assert index.chunks(HALF) == index.definitions(HALF, 5) == []
    assert index.resolve("./new", f"{HALF}/a.ts") == index.resolve(HALF, "a.py") == []
    folders = {store.workspace_folder(tmp_path, root, names) for names in ([HALF], ["\udcff"])}
    assert len(folders) == 2


@linux
def test_a_workspace_whose_own_name_is_no_utf8_is_indexed(root: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    root.rename(odd)
    child = start(odd, tmp_path)
    assert ready(child) == 2
    end(child)
    index = StoredIndex(store.workspace_folder(tmp_path, odd))
    assert [chunk.path for chunk, _ in index.search(["apple"], 5)] == ["shop.py"]


def test_damage_while_in_use_is_found_by_the_next_look(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    builder = Builder(root, folder)
    builder.scan()
    reader = StoredIndex(folder)
    assert reader.search(["apple"], 5)
    path = store.current(folder)
    assert path is not None
    # What a bad sector or a cosmic ray does to the words' own table.
    execute(path, "UPDATE words_data SET block=zeroblob(length(block)) WHERE id>1000")
    caplog.clear()
    for _ in range(3):
        reader.search(["apple"], 5)
    assert len(caplog.records) <= 1
    caplog.clear()
    assert builder.scan() == 2
    (record,) = caplog.records
    assert "anew" in record.message
    assert [chunk.path for chunk, _ in reader.search(["apple"], 5)] == ["shop.py"]
    reader.close()
    builder.close()


@linux
def test_on_a_full_disk_the_old_index_stays_and_the_room_is_given_back(
    root: Path, tmp_path: Path
) -> None:
    import resource

    folder = store.workspace_folder(tmp_path, root)
    built(root, folder).close()
    many(root, 300)
    before = sorted(folder.glob("*.db"))
    child = start(root, tmp_path)
    assert ready(child) == 302
    # No file may grow any more, which is what a full disk means to a process.
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    put(root, "late.py", "def plum(): ...\n")
    tell(child, "late.py")
    assert failed(child)
    index = StoredIndex(folder)
    assert index.search(["sell_fruit7"], 5)
    assert sorted(folder.glob("*.db")) == before
    assert list(folder.glob("*.building*")) == []
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (-1, -1))
    tell(child, "late.py")
    assert ready(child) == 303
    end(child)
    assert index.search(["plum"], 5)


def failed(child: subprocess.Popen[str]) -> bool:
    assert child.stdout is not None
    return any('"failed"' in line for line in iter(child.stdout.readline, ""))
