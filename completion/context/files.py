"""Which files of a workspace are indexed: source code that nothing excludes.

Left out are secrets, what the setting `exclude` names, what a `.snowcoderignore` or `.gitignore`
of any folder on the way names, hidden folders, installed packages, links, and files that are too
large or no text.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from completion.context.grammars import SUFFIXES
from completion.exclude import IGNORE_FILE, ExcludeRules, readable_patterns

logger = logging.getLogger(__name__)

GIT_IGNORE_FILE = ".gitignore"
_MOST_BYTES = 500_000
"""Longer files are generated, or data."""
_MOST_LINE_BYTES = 400
"""Files with longer lines than this on average are minified, or data."""
_INSTALLED = frozenset({"node_modules", "__pycache__", "site-packages"})


@dataclass(frozen=True, slots=True)
class Found:
    """A file to index: its path below the workspace with forward slashes, size and time."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Folder:
    """Ignore files on the way from the workspace to a folder, which is "" or ends in a slash."""

    path: str
    git: GitIgnoreSpec | None
    own: GitIgnoreSpec | None
    parent: _Folder | None

    def ignores(self, path: str) -> bool:
        folder: _Folder | None = self
        git: bool | None = None
        while folder is not None:
            below = path[len(folder.path) :]
            if folder.own is not None and folder.own.match_file(below):
                return True
            if git is None and folder.git is not None:
                # The innermost file that says something decides.
                git = folder.git.check_file(below).include
            folder = folder.parent
        return bool(git)


class Files:
    """Finds what to index below a folder. Reads ignore files anew whenever it is asked.

    Args:
        root: the workspace's folder.
        exclude: gitignore patterns of the user.
    """

    def __init__(self, root: Path, exclude: Sequence[str]) -> None:
        self._root = root
        self._rules = ExcludeRules(exclude)

    def walk(self) -> Iterator[Found]:
        """All files, in no order; a folder that cannot be read is left out with a log line."""
        top = self._folder("", None)
        waiting = [] if top is None else [top]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(self._root / folder.path))
            except OSError as error:
                logger.warning("%s is not indexed: %s", folder.path or "/", error.strerror)
                continue
            if folder.parent is not None and any(one.name == "pyvenv.cfg" for one in entries):
                continue
            for entry in entries:
                path = folder.path + entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if self._enters(folder, path, entry.name):
                            below = self._folder(f"{path}/", folder)
                            waiting += [] if below is None else [below]
                    elif self._takes(folder, path):
                        if (found := _described(path, entry.stat(follow_symlinks=False))) is None:
                            continue
                        yield found
                except OSError as error:
                    logger.warning("%a is not indexed: %s", path, error.strerror)

    def find(self, path: str) -> Found | None:
        """The file at `path` if it is there and is to be indexed."""
        if "\0" in path:
            return None
        folder = self._folder("", None)
        *parents, name = path.split("/")
        for parent in parents:
            if folder is None or not self._enters(folder, folder.path + parent, parent):
                return None
            inside = self._root / folder.path / parent
            # Unlike pathlib's these never raise, whatever the rights are.
            if os.path.islink(inside) or os.path.exists(inside / "pyvenv.cfg"):  # noqa: PTH110, PTH114
                return None
            folder = self._folder(f"{folder.path}{parent}/", folder)
        if folder is None or not name or not self._takes(folder, path):
            return None
        try:
            return _described(path, (self._root / path).lstat())
        except OSError:
            return None

    def read(self, found: Found) -> bytes | None:
        """A file's bytes; None where it cannot be read or is no source text."""
        try:
            with (self._root / found.path).open("rb") as stream:
                content = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            logger.warning("%s is not indexed: %s", found.path, error.strerror)
            return None
        if len(content) > _MOST_BYTES or b"\0" in content:
            return None
        if len(content) > _MOST_LINE_BYTES * (content.count(b"\n") + 1):
            return None
        return content

    def _folder(self, path: str, parent: _Folder | None) -> _Folder | None:
        """None where an ignore file is there and cannot be read: it might exclude anything."""
        try:
            git = self._patterns(path + GIT_IGNORE_FILE)
            if parent is None:
                git += self._patterns(".git/info/exclude")
            own = self._patterns(path + IGNORE_FILE)
        except OSError as error:
            logger.warning("%s is not indexed: %s", path or "/", error)
            return None
        return _Folder(
            path,
            GitIgnoreSpec.from_lines(git) if git else None,
            GitIgnoreSpec.from_lines(own) if own else None,
            parent,
        )

    def _patterns(self, path: str) -> list[str]:
        try:
            content = (self._root / path).read_bytes()[:1_000_000]
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return []
        return readable_patterns(content.decode("utf-8", "replace"))

    def _enters(self, folder: _Folder, path: str, name: str) -> bool:
        if name.startswith(".") or name in _INSTALLED or not _spellable(path):
            return False
        inside = f"{path}/"
        return self._rules.reason(inside) is None and not folder.ignores(inside)

    def _takes(self, folder: _Folder, path: str) -> bool:
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - once per file of a workspace
        if suffix not in SUFFIXES or not _spellable(path):
            return False
        return self._rules.reason(path) is None and not folder.ignores(path)


def text_of(content: bytes) -> str:
    r"""Source as indexed: UTF-8 without byte order mark, `\n` line ends.

    Bytes that are no UTF-8 become U+FFFD: only their words are lost.
    """
    text = content.decode("utf-8-sig", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _described(path: str, status: os.stat_result) -> Found | None:
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        return None
    return Found(path, status.st_size, status.st_mtime_ns)


def _spellable(path: str) -> bool:
    """Whether an editor can name it: a path that is no UTF-8 has no URI that leads back to it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        logger.info("%a is not indexed: its name is no UTF-8", path)
        return False
    return True
