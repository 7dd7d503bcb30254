"""Keeps the index of one workspace: `python -m completion.context.builder`, one process for each.

Reads JSON lines from standard input and ends with it:

    {"job": NUMBER, "root": FOLDER, "cache": FOLDER, "exclude": [PATTERN, …]}   first
    {"job": NUMBER, "changed": [PATH, …]}

with paths below the root, with forward slashes, of what was saved, made, moved or deleted; and
writes JSON lines to standard output: `{"state": "building", "files": N}` now and then while all
files are looked at, `{"state": "ready", "job": NUMBER, "files": N}` after every job; the first is
a look at all files. A job that fails, on a full disk for example, is logged to standard error and
told as `{"state": "failed", "reason": SENTENCE}`; all files are looked at again soon.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from completion.context import store
from completion.context.files import GIT_IGNORE_FILE, Files, Found, spellable, text_of
from completion.context.outline import outline
from completion.context.store import Store, TornIndexError
from completion.exclude import IGNORE_FILE

logger = logging.getLogger(__name__)

_MANY = 200
"""More paths at once are a switched branch: one scan is less work and misses nothing."""
_BATCH = 500
_LOOK_S = 2.0
_SETTLED_NS = 2_000_000_000
"""A file changed so lately may change again without another time: file systems count in steps."""
_UNSETTLED = -1
_RESCAN_S = 600.0
_LEAST_BETWEEN_S = 10.0
_NICE = 15


def _nothing(files: int) -> None:
    """For builders whose progress nobody follows."""


class Builder:
    """Builds an index and brings it up to date. Other processes may do the same.

    Args:
        root: the workspace's folder.
        folder: of the index; see `completion.context.store.workspace_folder`.
        exclude: gitignore patterns of the user.
        progress: told how many files a scan has seen, now and then.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        exclude: Sequence[str] = (),
        progress: Callable[[int], None] = _nothing,
    ) -> None:
        self._root = root
        self._folder = folder
        self._progress = progress
        self._store: Store | None = None
        self._files = Files(root, exclude)
        self._told: set[str] = set()

    def scan(self) -> int:
        """Make the index say what the folder says; returns how many files it has."""
        # Opened anew, it is read for damage: what tore while it was in use is found here.
        self.close()
        self._files.skipped.clear()
        with store.locked(self._folder):
            try:
                files = self._update_all(self._open())
            except (TornIndexError, sqlite3.DatabaseError) as error:
                if store.is_full(error):
                    raise
                level = logging.WARNING if store.current(self._folder) else logging.INFO
                logger.log(level, "building the index of %s anew: %s", self._root, error)
                self.close()
                with Store.anew(self._folder) as new:
                    files = len(self._put_all(new, lambda: None))
        self._tell_skipped()
        return files

    def update(self, paths: Iterable[str]) -> int:
        """Look at these paths again: files, or folders that were made, moved or deleted.

        Returns:
            How many files the index has.
        """
        unique = [path for path in dict.fromkeys(paths) if spellable(path)]
        names = {path.rpartition("/")[2] for path in unique}
        if len(unique) > _MANY or names & {IGNORE_FILE, GIT_IGNORE_FILE}:
            return self.scan()
        if any(os.path.isdir(self._root / path) for path in unique):  # noqa: PTH112 - never raises
            return self.scan()
        self._files.skipped.clear()
        try:
            with store.locked(self._folder):
                current = self._open()
                current.begin()
                for path in unique:
                    found = self._files.find(path)
                    if found is None or self._put(current, found) is None:
                        current.remove(path)
                count = current.count()
                current.commit()
            self._tell_skipped()
            return count
        except (TornIndexError, sqlite3.DatabaseError) as error:
            if store.is_full(error):
                raise
            logger.warning("the index of %s has to be looked at: %s", self._root, error)
            self.close()
        return self.scan()

    def rest(self) -> None:
        """Do what may wait until there is nothing else to do."""
        if self._store is not None:
            try:
                self._store.rest()
            except sqlite3.Error as error:
                logger.info("the log of the index was not copied: %s", error)

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _tell_skipped(self) -> None:
        """One line for all of them, and none that was said before."""
        line = str(self._files.skipped)
        if line and line not in self._told:
            self._told.add(line)
            logger.warning("not indexed of %s: %s", self._root, line)

    def _open(self) -> Store:
        if self._store is not None and self._store.path == store.current(self._folder):
            return self._store
        self.close()
        self._store = Store.open(self._folder, check=True)
        return self._store

    def _update_all(self, current: Store) -> int:
        current.begin()

        def pause() -> None:
            current.commit()
            current.begin()

        seen = self._put_all(current, pause)
        current.remove_others(seen)
        current.commit()
        return len(seen)

    def _put_all(self, current: Store, pause: Callable[[], None]) -> set[int]:
        """Numbers of the files that are there."""
        seen: set[int] = set()
        written = 0
        for looked, found in enumerate(self._files.walk()):
            if looked % _BATCH == 0:
                self._progress(len(seen))
            known = current.known(found.path)
            if known is not None and known[1:3] == (found.size, found.mtime_ns):
                seen.add(known[0])
                continue
            if (number := self._put(current, found)) is not None:
                seen.add(number)
                written += 1
                if written % _BATCH == 0:
                    pause()
        return seen

    def _put(self, current: Store, found: Found) -> int | None:
        """The number of a file whose content is indexed now; None where it is not to be."""
        content = self._files.read(found)
        if content is None:
            return None
        digest = blake2b(content, digest_size=16).digest()
        known = current.known(found.path)
        changed_ns = found.mtime_ns
        if time.time_ns() - changed_ns < _SETTLED_NS:
            # The next look reads it again.
            changed_ns = _UNSETTLED
        if known is not None and known[3] == digest:
            current.touch(known[0], found.size, changed_ns)
            return known[0]
        result = outline(found.path, text_of(content))
        return current.put(found.path, found.size, changed_ns, digest, result)


class GitWatch:
    """Tells when a repository's files may have changed without the editor: a switched branch.

    Args:
        root: a folder of the repository's work tree, not only its uppermost one.
    """

    def __init__(self, root: Path) -> None:
        git = _git_folder(root)
        self._paths = () if git is None else (git / "HEAD", git / "index")
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether it has, since the last time this was asked."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> list[store.FileStamp | None]:
        return [store.file_stamp(path) for path in self._paths]


def _git_folder(root: Path) -> Path | None:
    """Where `root`'s repository keeps HEAD; None where there is none."""
    for folder in (root, *root.absolute().parents):
        git = folder / ".git"
        if os.path.isdir(git):  # noqa: PTH112 - never raises
            return git
        with suppress(OSError, ValueError):
            # A linked work tree or a submodule: a file says where.
            with git.open(encoding="utf-8", errors="surrogateescape") as stream:
                line = stream.readline(4096)
            if line.startswith("gitdir:"):
                return folder / line.removeprefix("gitdir:").strip()
    return None


def _read_input(jobs: SimpleQueue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        try:
            job = json.loads(line)
        except ValueError:
            continue
        jobs.put(job)
    jobs.put(None)
    # Whoever started this is gone: no build may go on for nobody.
    time.sleep(_LOOK_S)
    os._exit(0)


def _say(state: str, **details: int | str) -> None:
    try:
        print(json.dumps({"state": state, **details}), flush=True)
    except (BrokenPipeError, ValueError):
        os._exit(0)


def main() -> int:
    """Serve standard input until it ends; returns the exit status."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    jobs: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    threading.Thread(target=_read_input, args=(jobs,), name="input", daemon=True).start()
    first = jobs.get()
    if first is None:
        return 0
    root, cache = Path(first["root"]), Path(first["cache"])
    folder = store.workspace_folder(cache, root, first["exclude"])
    builder = Builder(root, folder, first["exclude"], lambda files: _say("building", files=files))
    try:
        _attempt(partial(store.sweep, cache, folder))
        _serve(builder, GitWatch(root), jobs, first["job"])
    finally:
        builder.close()
    return 0


def _serve(
    builder: Builder, git: GitWatch, jobs: SimpleQueue[dict[str, Any] | None], number: int
) -> None:
    def scan() -> tuple[float, float, bool]:
        began = time.monotonic()
        whole = _attempt(lambda: _say("ready", job=number, files=builder.scan()))
        ended = time.monotonic()
        return ended, ended - began, whole

    scanned, took, whole = scan()
    while True:
        try:
            job = jobs.get(timeout=_LOOK_S)
        except Empty:
            builder.rest()
            since = time.monotonic() - scanned
            # Where a look at all files takes long, it is taken seldom.
            least = max(_LEAST_BETWEEN_S, 10 * took)
            if since > max(_RESCAN_S, 100 * took) or (
                since > least and (git.changed() or not whole)
            ):
                scanned, took, whole = scan()
            continue
        if job is None:
            return
        number, changed = job["job"], job["changed"]
        # A later job cannot make up for one that failed; only a look at all files can.
        whole = _attempt(partial(_update, builder, number, changed)) and whole


def _update(builder: Builder, number: int, changed: list[str]) -> None:
    _say("ready", job=number, files=builder.update(changed))


def _attempt(work: Callable[[], None]) -> bool:
    try:
        work()
    except (OSError, sqlite3.Error) as error:
        # A full disk, a folder that went away: the next job tries again.
        logger.warning("the index was not written: %s", error)
        _say("failed", reason=str(error))
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
