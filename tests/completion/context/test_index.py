"""The stored index: same answers however it came about, and no death of a builder harms it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from completion.context import builder as builder_module
from completion.context import store
from completion.context.builder import Builder, GitWatch
from completion.context.memory import MemoryIndex
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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    put(root, "shop.py", SHOP)
    put(root, "base/__init__.py", "class Base: ...\n")
    put(root, "base/tools.py", "def sell_pear(): ...\n\n\ndef sell(): ...\n")
    return root


def test_answers_what_retrievers_ask(root: Path, tmp_path: Path) -> None:
    index = built(root, tmp_path / "index")
    found = index.search(["apple", "sell_apple", "sell"], 5)
    assert [chunk.path for chunk, _ in found] == ["shop.py", "base/tools.py"]
    assert found[0][1] > found[1][1] > 0
    assert [(one.name, one.line) for one in index.definitions_in("shop.py")] == [
        ("Shop", 4),
        ("sell_apple", 7),
    ]
    assert [one.path for one in index.definitions("Base", 5)] == ["base/__init__.py"]
    assert index.resolve("base", "shop.py") == ["base/__init__.py"]
    assert index.resolve("base.tools", "shop.py") == ["base/tools.py"]
    assert index.resolve(".tools", "base/__init__.py") == ["base/tools.py"]
    assert index.resolve("..shop", "base/tools.py") == ["shop.py"]
    assert index.resolve(".", "base/tools.py") == ["base/__init__.py"]
    assert index.resolve("os", "shop.py") == index.resolve("", "shop.py") == []
    assert index.search([], 5) == index.search(["apple"], 0) == []
    assert index.search(['"', "nothing OR"], 5) == []


def test_imports_mean_the_nearest_file_first(tmp_path: Path) -> None:
    root = tmp_path / "work"
    for path in ("a/util.py", "b/util.py", "b/util/__init__.py", "web/x.ts", "web/y/index.ts"):
        put(root, path, "x = 1\n")
    index = built(root, tmp_path / "index")
    assert index.resolve("util", "b/main.py") == ["b/util.py", "b/util/__init__.py", "a/util.py"]
    assert index.resolve("./x", "web/main.ts") == ["web/x.ts"]
    assert index.resolve("../x.js", "web/y/index.ts") == ["web/x.ts"]
    assert index.resolve("./y", "web/main.ts") == ["web/y/index.ts"]


def test_chunks_follow_each_other(tmp_path: Path) -> None:
    root = tmp_path / "work"
    put(root, "a.py", "".join(f"def f{n}():\n" + "    work()\n" * 20 for n in range(5)))
    index = built(root, tmp_path / "index")
    chunks = index.chunks("a.py")
    assert len(chunks) == 5
    assert [index.following(chunk) for chunk in chunks] == [*chunks[1:], None]


def test_scores_are_those_of_bm25(root: Path, tmp_path: Path) -> None:
    for n in range(8):
        put(root, f"other{n}.py", f"value_{n} = compute()\n")
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    stored = built(root, tmp_path / "index").search(["apple", "pear"], 5)
    memory = MemoryIndex(texts).search(["apple", "pear"], 5)
    assert [chunk.path for chunk, _ in stored] == [chunk.path for chunk, _ in memory]


def test_the_generation_grows_with_every_change(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = StoredIndex(folder)
    assert index.search(["apple"], 5) == []
    seen = [index.generation]
    builder = Builder(root, folder)
    builder.scan()
    seen.append(index.generation)
    put(root, "shop.py", "def sell_plum(): ...\n")
    builder.update(["shop.py"])
    seen.append(index.generation)
    assert sorted(set(seen)) == seen
    assert index.generation == seen[-1]
    assert [chunk.path for chunk, _ in index.search(["plum"], 5)] == ["shop.py"]
    assert index.search(["apple"], 5) == []


def test_renamed_deleted_and_newly_excluded_files_go(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = built(root, folder)
    builder = Builder(root, folder)
    (root / "shop.py").rename(root / "store.py")
    builder.update(["shop.py", "store.py"])
    assert [chunk.path for chunk, _ in index.search(["apple"], 5)] == ["store.py"]
    (root / "base").rename(root / "core")
    builder.update(["base", "core"])
    assert index.resolve("tools", "a.py") == ["core/tools.py"]
    builder.close()
    builder = Builder(root, folder, ["core/"])
    builder.scan()
    assert index.resolve("tools", "a.py") == []
    put(root, ".gitignore", "store.py\n")
    builder.update([".gitignore"])
    assert dump(index, folder)["files"] == []
    builder.update(["store.py", "../outside.py", "core/tools.py"])
    assert dump(index, folder)["files"] == []


NAMES = ("a.py", "b.py", "pkg/c.py", "pkg/d.rb", "skipped/e.py", ".gitignore")
LINES = ("def f(x):", "    return get_user(x)", "class A:", "    def g(self): ...", "", "X = 1")
TEXTS = st.lists(st.sampled_from(LINES), max_size=60).map(lambda lines: "\n".join(lines))
STEPS = st.tuples(st.sampled_from(NAMES), TEXTS | st.none(), st.booleans())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=8))
def test_after_any_edits_it_is_what_it_would_be_if_built_anew(
    steps: list[tuple[str, str | None, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root, folder = Path(name, "work"), Path(name, "index")
        put(root, "a.py", SHOP * 3)
        put(root, "skipped/.gitignore", "*\n")
        builder = Builder(root, folder)
        builder.scan()
        for time_ns, (path, text, scanned) in enumerate(steps, start=1):
            if text is None:
                (root / path).unlink(missing_ok=True)
            else:
                if path == ".gitignore":
                    text = "pkg/\n"
                put(root, path, text)
                # A scan tells changes by time and size; the clock may be coarser than the test.
                os.utime(root / path, ns=(time_ns * 10**9, time_ns * 10**9))
            if scanned:
                builder.scan()
            else:
                builder.update([path])
        builder.close()
        anew = Path(name, "anew")
        edited, fresh = StoredIndex(folder), built(root, anew)
        assert dump(edited, folder) == dump(fresh, anew)
        assert not any(path.startswith("skipped") for path in dump(fresh, anew)["files"])
        edited.close()
        fresh.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
        lambda path: path.unlink(),
        lambda path: execute(path, "PRAGMA user_version=0"),
        lambda path: execute(path, "DROP TABLE chunks"),
        lambda path: execute(path, "UPDATE words_data SET block=zeroblob(9) WHERE id>1000"),
    ],
    ids=["overwritten", "cut off", "gone", "of another version", "without a table", "words"],
)
def test_a_torn_database_is_built_anew(damage: Any, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    built(root, folder).close()
    path = store.current(folder)
    assert path is not None
    damage(path)
    reader = StoredIndex(folder)
    # Whatever is left of it, asking is no error.
    reader.chunks("shop.py")
    builder = Builder(root, folder)
    put(root, "new.py", "def plum(): ...\n")
    builder.scan()
    assert [chunk.path for chunk, _ in reader.search(["plum"], 5)] == ["new.py"]
    assert [chunk.path for chunk, _ in reader.search(["apple"], 5)] == ["shop.py"]
    assert len(list(folder.glob("*.db"))) == 1
    reader.close()
    builder.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_builds_leave_nothing_torn(root: Path, tmp_path: Path) -> None:
    many(root, 600)
    folder = store.workspace_folder(tmp_path, root)
    for seconds in (0.0, 0.1, 0.3):
        child = start(root, tmp_path)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    child = start(root, tmp_path)
    assert ready(child) == 603
    # And in the middle of an update.
    many(root, 300)
    tell(child, "pkg1")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    index = built(root, folder)
    assert [path.suffix for path in folder.iterdir() if "build" in path.name] == []
    assert dump(index, folder) == dump(built(root, tmp_path / "anew"), tmp_path / "anew")


def test_two_builders_take_turns(root: Path, tmp_path: Path) -> None:
    many(root, 200)
    folder = store.workspace_folder(tmp_path, root)
    children = [start(root, tmp_path) for _ in range(2)]
    assert [ready(child) for child in children] == [203, 203]
    for n in range(20):
        for child in children:
            path = f"new{n}_{children.index(child)}.py"
            put(root, path, f"def made_{n}(): ...\n")
            tell(child, path)
    for child in children:
        for _ in range(20):
            ready(child)
        end(child)
    index = StoredIndex(folder)
    assert len(index.search(["made_7"], 5)) == 2
    anew = tmp_path / "anew"
    assert dump(index, folder) == dump(built(root, anew), anew)


def test_a_builder_ends_with_its_input(root: Path, tmp_path: Path) -> None:
    child = start(root, tmp_path)
    ready(child)
    end(child)


def test_indexes_nobody_used_for_long_are_removed(tmp_path: Path) -> None:
    own, used, unused = (store.workspace_folder(tmp_path, tmp_path / name) for name in "abc")
    for folder in (used, unused):
        with store.locked(folder):
            (folder / "1.db").write_bytes(b"x")
    os.utime(unused / "lock", (1, 1))
    store.sweep(tmp_path, own)
    assert own.is_dir()
    assert used.is_dir()
    assert not unused.exists()


def test_other_exclude_patterns_mean_another_index(tmp_path: Path) -> None:
    names = {
        store.workspace_folder(tmp_path, tmp_path, patterns) for patterns in ([], ["a"], ["b"])
    }
    assert len(names) == 3


def test_paths_that_name_nothing_are_no_error(root: Path, tmp_path: Path) -> None:
    builder = Builder(root, tmp_path / "index")
    builder.scan()
    assert builder.update(["a\0b.py", "x\0/b.py", "", "/", "shop.py/a.py", "missing/a.py"]) == 3
    builder.close()


def test_a_cache_that_cannot_be_written_ends_no_builder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "index").write_text("no folder can be made here")
    child = start(root, tmp_path)
    end(child)


def test_a_switched_branch_is_noticed(root: Path, tmp_path: Path) -> None:
    put(root, ".git/HEAD", "ref: refs/heads/main\n")
    git = GitWatch(root)
    assert not git.changed()
    os.utime(root / ".git" / "HEAD", ns=(1, 1))
    assert git.changed()
    assert not git.changed()


@pytest.mark.parametrize("inside", [".", "pkg"], ids=["its top", "a folder in it"])
def test_a_switched_branch_of_a_linked_work_tree_is_noticed(
    inside: str, root: Path, tmp_path: Path
) -> None:
    head = tmp_path / "main" / ".git" / "worktrees" / "work" / "HEAD"
    head.parent.mkdir(parents=True)
    head.write_text("ref: refs/heads/main\n")
    put(root, ".git", f"gitdir: {head.parent}\n")
    (root / inside).mkdir(exist_ok=True)
    git = GitWatch(root / inside)
    assert not git.changed()
    head.write_text("ref: refs/heads/other\n")
    assert git.changed()
    head.unlink()
    assert git.changed()
    assert not git.changed()


def test_a_switched_branch_is_indexed_without_being_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_module, "_LOOK_S", 0.02)
    monkeypatch.setattr(builder_module, "_LEAST_BETWEEN_S", 0.0)
    put(root, ".git/HEAD", "ref: refs/heads/main\n")
    folder, jobs = tmp_path / "index", SimpleQueue[dict[str, Any] | None]()
    index = built(root, folder)
    builder = Builder(root, folder)
    arguments = (builder, GitWatch(root), jobs, 0)
    thread = threading.Thread(target=builder_module._serve, args=arguments, daemon=True)
    (root / "shop.py").unlink()
    put(root, "other.py", "def plum(): ...\n")
    put(root, ".git/HEAD", "ref: refs/heads/other\n")
    thread.start()
    end = time.monotonic() + 30
    while not index.search(["plum"], 5) and time.monotonic() < end:
        time.sleep(0.02)
    put(root, "third.py", "def pear_tree(): ...\n")
    put(root, ".git/HEAD", "ref: refs/heads/third-one\n")
    while not index.search(["pear_tree"], 5) and time.monotonic() < end:
        time.sleep(0.02)
    jobs.put(None)
    thread.join(30)
    assert index.search(["pear_tree"], 5)
    assert index.search(["apple"], 5) == []
