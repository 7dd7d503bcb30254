"""Indexes of the workspace's folders: starts the processes that build them, tells them of changes.

The server itself only reads. An index is not read before its builder has looked at all files, and
again after an ignore file changed: what is excluded by then is out of it.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pygls.uris import to_fs_path

from completion.exclude import IGNORE_FILE
from lsp_server.paths import uri_path

if TYPE_CHECKING:
    from completion.context.stored import StoredIndex
    from completion.context.types import Find, Index

logger = logging.getLogger(__name__)

WATCHED = "**/*.{py,pyi,js,jsx,mjs,cjs,ts,tsx,go,java,rs,c,h,cc,cpp,hpp,gitignore}"
"""Clients are asked to tell changes of these; for others saving and a look now and then do."""
_ROOT = str(Path(__file__).resolve().parent.parent)
# `-I` keeps the user's project off the import path; our own root may not be installed.
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from completion.context.builder import main; sys.exit(main())"
)
_ATTEMPTS = 3
_PAUSE_S = 30.0
_END_S = 0.3


def builder_command() -> list[str]:
    """The command line of a builder."""
    return [sys.executable, "-I", "-c", _START, _ROOT]


def _nothing() -> None:
    """For callers that do not want to know."""


class _Builder:
    """One builder's process, started again when it dies."""

    def __init__(
        self,
        root: Path,
        first: Callable[[], dict[str, Any]],
        on_message: Callable[[dict[str, Any]], None],
    ) -> None:
        self._root = root
        self._first = first
        self._on_message = on_message
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)
        self._thread.start()

    def tell(self, job: dict[str, Any]) -> None:
        """Give it work; never waits."""
        self._lines.put(json.dumps(job))

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        self._lines.put(None)
        self._thread.join(_END_S)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _work(self) -> None:
        for _ in range(_ATTEMPTS):
            try:
                self._run()
            except OSError as error:
                logger.warning("no index: the builder cannot be started: %s", error)
                return
            if self._closed.wait(_PAUSE_S):
                return
        logger.warning("the index of %s is given up", self._root)

    def _run(self) -> None:
        # What was told an earlier process is in the first look of this one.
        self._lines = SimpleQueue()
        with subprocess.Popen(
            builder_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            self._process = process
            if self._closed.is_set():
                self._lines.put(None)
            arguments = (process, self._lines, json.dumps(self._first()))
            writer = threading.Thread(
                target=self._write, args=arguments, name="index-jobs", daemon=True
            )
            writer.start()
            assert process.stdout is not None
            for line in process.stdout:
                self._read(line.rstrip())
            self._lines.put(None)
            writer.join(_END_S)
        if not self._closed.is_set():
            logger.warning("the builder of %s ended: %s", self._root, process.returncode)

    @staticmethod
    def _write(process: subprocess.Popen[str], lines: SimpleQueue[str | None], first: str) -> None:
        line: str | None = first
        assert process.stdin is not None
        try:
            while line is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()
                line = lines.get()
            process.stdin.close()
        except (OSError, ValueError):
            # It has ended; the reading thread says so.
            return

    def _read(self, line: str) -> None:
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError(line)
        except ValueError:
            logger.warning("index of %s: %s", self._root, line)
        else:
            self._on_message(message)


class _Home:
    """A workspace folder, its index and its builder."""

    def __init__(
        self, uri: str, root: Path, cache: Path, exclude: Sequence[str], on_change: _Change
    ) -> None:
        from completion.context.store import workspace_folder
        from completion.context.stored import StoredIndex

        self.uri = uri
        self.path = uri_path(uri).rstrip("/")
        self.index: StoredIndex = StoredIndex(workspace_folder(cache, root, exclude))
        self.files = 0
        self.open = False
        self.trouble = ""
        self._needed = self._job = 0
        self._lock = threading.Lock()
        self._on_change = on_change
        self._settings = {"root": str(root), "cache": str(cache), "exclude": list(exclude)}
        self._builder = _Builder(root, self._first, self._heard)

    def touched(self, paths: list[str]) -> None:
        """Files below it changed, by their paths relative to it."""
        with self._lock:
            self._job += 1
            if any(path.rpartition("/")[2] == IGNORE_FILE for path in paths):
                self._needed, self.open = self._job, False
        self._builder.tell({"job": self._job, "changed": paths})

    def close(self) -> None:
        """End its builder. The engine's thread may still be reading: the index stays open."""
        self.open = False
        self._builder.close()

    def _first(self) -> dict[str, Any]:
        return {"job": self._job, **self._settings}

    def _heard(self, message: dict[str, Any]) -> None:
        """Called in the builder's thread."""
        self.files = message.get("files", self.files)
        state = message.get("state")
        with self._lock:
            if state == "ready" and message.get("job", -1) >= self._needed:
                self.open = True
        if state == "ready":
            self.trouble = ""
        elif state == "failed":
            self.trouble = str(message.get("reason"))
        self._on_change()


_Change = Callable[[], None]


class Indexing:
    """Follows the workspace's folders while context is on; lives on the event loop.

    Args:
        cache: the user's cache folder.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._homes: tuple[_Home, ...] = ()
        self._wanted: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._other: Find | None = None
        self.on_change: _Change = _nothing
        """Called in a builder's thread when what is told below may have changed."""

    @property
    def building(self) -> bool:
        """Whether an index cannot be used yet; one that cannot be written is not awaited."""
        return any(not home.open and not home.trouble for home in self._homes)

    @property
    def trouble(self) -> str:
        """Why an index is not brought up to date, for the user; else empty."""
        return next((home.trouble for home in self._homes if home.trouble), "")

    def status(self) -> dict[str, Any]:
        """Files indexed, and whether all indexes can be used."""
        return {
            "index_files": sum(home.files for home in self._homes),
            "index_ready": bool(self._homes) and all(home.open for home in self._homes),
        }

    def follow(self, folders: Sequence[str], exclude: Sequence[str]) -> None:
        """Keep indexes of these folders (URIs), and of no others."""
        wanted = (tuple(folders), tuple(exclude))
        if wanted == self._wanted:
            return
        same = {home.uri: home for home in self._homes} if wanted[1] == self._wanted[1] else {}
        gone = [home for home in self._homes if home.uri not in folders or home.uri not in same]
        self._wanted = wanted
        homes = []
        for uri in dict.fromkeys(folders):
            local = to_fs_path(uri) if urlsplit(uri).scheme == "file" else None
            if uri in same:
                homes.append(same[uri])
            elif local is not None:
                home = _Home(uri, Path(local), self._cache, exclude, self._changed)
                homes.append(home)
        self._homes = tuple(homes)
        for home in gone:
            threading.Thread(target=home.close, name="index-end", daemon=True).start()

    def touched(self, uris: Sequence[str]) -> None:
        """Files were made, saved, moved or deleted."""
        for home in self._homes:
            inside = [uri_path(uri) for uri in uris]
            below = [
                path[len(home.path) + 1 :] for path in inside if path.startswith(f"{home.path}/")
            ]
            if below:
                home.touched(below)

    def find(self, uri: str) -> tuple[Index, str] | None:
        """See `completion.context.types.Find`; called in the engine's thread.

        A document in no folder, or one whose index cannot be used yet, gets an empty index.
        """
        path = uri_path(uri)
        homes = [home for home in self._homes if path.startswith(f"{home.path}/")]
        home = max(homes, key=lambda home: len(home.path), default=None)
        if home is not None and home.open:
            return home.index, path[len(home.path) + 1 :]
        if self._other is None:
            from completion.context.memory import open_documents

            self._other = open_documents()
        return self._other(uri)

    def close(self) -> None:
        """End all builders."""
        for home in self._homes:
            home.close()
        self._homes, self._wanted = (), ((), ())

    def _changed(self) -> None:
        self.on_change()
