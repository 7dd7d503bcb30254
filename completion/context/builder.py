"""Keeps the index of one workspace: `python -m completion.context.builder`, one process for each.

Reads JSON lines from standard input and ends with it:

    {"root": FOLDER, "folder": INDEX FOLDER, "exclude": [PATTERN, …]}   first
    {"changed": [PATH, …]}    below the root, with forward slashes: saved, made, moved or deleted
    {"exclude": [PATTERN, …]} the user's patterns are these now
    {"scan": true}            anything may have changed

and writes JSON lines to standard output: `{"state": "building", "files": N}` now and then,
`{"state": "ready", "files": N}` after every job. What goes wrong is logged to standard error.
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
from hashlib import blake2b
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from completion.context import store
from completion.context.files import GIT_IGNORE_FILE, Files, Found, text_of
from completion.context.outline import outline
from completion.context.store import Store, TornIndexError
from completion.exclude import IGNORE_FILE

logger = logging.getLogger(__name__)

_MANY = 200
"""More paths at once are a switched branch: one scan is less work and misses nothing."""
_BATCH = 500
_LOOK_S = 2.0
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

    def exclude(self, patterns: Sequence[str]) -> None:
        """Take other patterns from the user; `scan` applies them."""
        self._files = Files(self._root, patterns)

    def scan(self) -> int:
        """Make the index say what the folder says; returns how many files it has."""
        with store.locked(self._folder):
            try:
                return self._update_all(self._open())
            except (TornIndexError, sqlite3.DatabaseError) as error:
                logger.info("building the index of %s anew: %s", self._root, error)
            self.close()
            with Store.anew(self._folder) as new:
                seen = self._put_all(new, lambda: None)
            return len(seen)

    def update(self, paths: Iterable[str]) -> None:
        """Look at these paths again: files, or folders that were made, moved or deleted."""
        unique = list(dict.fromkeys(paths))
        names = {path.rpartition("/")[2] for path in unique}
        if len(unique) > _MANY or names & {IGNORE_FILE, GIT_IGNORE_FILE}:
            self.scan()
            return
        if any((self._root / path).is_dir() for path in unique):
            self.scan()
            return
        try:
            with store.locked(self._folder):
                current = self._open()
                current.begin()
                for path in unique:
                    found = self._files.find(path)
                    if found is None or self._put(current, found) is None:
                        current.remove(path)
                current.commit()
        except (TornIndexError, sqlite3.DatabaseError) as error:
            logger.info("the index of %s has to be looked at: %s", self._root, error)
            self.close()
            self.scan()

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
        if known is not None and known[3] == digest:
            current.touch(known[0], found.size, found.mtime_ns)
            return known[0]
        result = outline(found.path, text_of(content))
        return current.put(found.path, found.size, found.mtime_ns, digest, result)


class _Git:
    """Tells when a repository's files may have changed without the editor: a switched branch."""

    def __init__(self, root: Path) -> None:
        self._paths = (root / ".git" / "HEAD", root / ".git" / "index")
        self._seen = self._look()

    def changed(self) -> bool:
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> list[int]:
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in self._paths]


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


def _say(state: str, files: int | None = None) -> None:
    try:
        print(json.dumps({"state": state, "files": files}), flush=True)
    except (BrokenPipeError, ValueError):
        os._exit(0)


def main() -> int:
    """Serve standard input until it ends; returns the exit status."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    jobs: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    threading.Thread(target=_read_input, args=(jobs,), name="input", daemon=True).start()
    first = jobs.get()
    if first is None:
        return 0
    root, folder = Path(first["root"]), Path(first["folder"])
    builder = Builder(root, folder, first["exclude"], lambda files: _say("building", files))
    try:
        _serve(builder, _Git(root), jobs)
    finally:
        builder.close()
    return 0


def _serve(builder: Builder, git: _Git, jobs: SimpleQueue[dict[str, Any] | None]) -> None:
    scan, scanned = True, 0.0
    while True:
        if scan:
            _attempt(builder.scan)
            scan, scanned = False, time.monotonic()
        try:
            job = jobs.get(timeout=_LOOK_S)
        except Empty:
            builder.rest()
            since = time.monotonic() - scanned
            scan = since > _RESCAN_S or (since > _LEAST_BETWEEN_S and git.changed())
            continue
        if job is None:
            return
        if "exclude" in job:
            builder.exclude(job["exclude"])
            scan = True
        elif changed := job.get("changed"):
            _attempt(lambda paths=changed: builder.update(paths))
        else:
            scan = True


def _attempt(work: Callable[[], int | None]) -> None:
    try:
        _say("ready", work())
    except OSError as error:
        # A full disk, a folder that went away: the next job tries again.
        logger.warning("the index was not written: %s", error)
        _say("failed")


if __name__ == "__main__":
    raise SystemExit(main())
