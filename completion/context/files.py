"""Which files of a workspace are indexed: source code that nothing excludes.

Left out are secrets, what the setting `exclude` names, what a `.snowcoderignore` or `.gitignore`
of any folder on the way names, hidden folders, installed packages, links, and files that are too
large or no text. What is left out by mishap rather than by rule is counted in `Files.skipped`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from completion.context.grammars import SUFFIXES
from completion.exclude import IGNORE_FILE, ExcludeRules, readable_patterns

GIT_IGNORE_FILE = ".gitignore"
_MOST_BYTES = 500_000
"""Longer files are generated, or data."""
_MOST_LINE_BYTES = 400
"""Files with longer lines than this on average are minified, or data."""
_MOST_IGNORE_BYTES = 1_000_000
_NO_FILE = "no plain file"
_INSTALLED = frozenset({"node_modules", "__pycache__", "site-packages"})


@dataclass(frozen=True, slots=True)
class Found:
    """A file to index: its path below the workspace with forward slashes, size and time."""

    path: str
    size: int
    mtime_ns: int


class Skipped:
    """What could not be indexed, by reason: told in one line, however many files there are."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, path: str, reason: str) -> None:
        """A file or folder was skipped."""
        self._counts[reason] += 1
        self._first.setdefault(reason, path or "/")

    def clear(self) -> None:
        """Begin anew."""
        self._counts.clear()
        self._first.clear()

    def __str__(self) -> str:
        """Empty where nothing was skipped."""
        return "; ".join(
            f"{self._first[reason]!a}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
            for reason, count in sorted(self._counts.items())
        )


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

    Attributes:
        skipped: what was left out by mishap; to be cleared by who reads it.
    """

    def __init__(self, root: Path, exclude: Sequence[str]) -> None:
        self._root = root
        self._rules = ExcludeRules(exclude)
        self.skipped = Skipped()

    def walk(self) -> Iterator[Found]:
        """All files, in no order. Lazy: of the largest folder one entry at a time is held."""
        top = self._folder("", None)
        waiting = [] if top is None else [top]
        while waiting:
            folder = waiting.pop()
            here = self._root / folder.path
            # Unlike pathlib's this never raises, whatever the rights are.
            if folder.parent is not None and os.path.exists(here / "pyvenv.cfg"):  # noqa: PTH110
                continue
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        path = folder.path + entry.name
                        if self._is_folder(entry, path):
                            if self._enters(folder, path, entry.name):
                                below = self._folder(f"{path}/", folder)
                                waiting += [] if below is None else [below]
                        elif self._takes(folder, path) and (found := self._described(entry, path)):
                            yield found
            except OSError as error:
                self._failed(folder.path, error)

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
            if os.path.islink(inside) or os.path.exists(inside / "pyvenv.cfg"):  # noqa: PTH110, PTH114
                return None
            folder = self._folder(f"{folder.path}{parent}/", folder)
        if folder is None or not name or not self._takes(folder, path):
            return None
        try:
            return self._found(path, (self._root / path).lstat())
        except OSError as error:
            self._failed(path, error)
            return None

    def read(self, found: Found) -> bytes | None:
        """A file's bytes; None where it cannot be read or is no source text.

        Whatever it has become since it was found, this never waits and follows no link.
        """
        try:
            content = _read(self._root / found.path, _MOST_BYTES + 1, follow=False)
        except OSError as error:
            self._failed(found.path, error)
            return None
        if len(content) > _MOST_BYTES:
            reason = f"longer than {_MOST_BYTES} bytes"
        elif b"\0" in content:
            reason = "binary data"
        elif len(content) > _MOST_LINE_BYTES * (content.count(b"\n") + 1):
            reason = f"lines longer than {_MOST_LINE_BYTES} bytes"
        else:
            return content
        self.skipped.add(found.path, reason)
        return None

    def _folder(self, path: str, parent: _Folder | None) -> _Folder | None:
        """None where an ignore file is there and cannot be read: it might exclude anything."""
        try:
            git = self._patterns(path + GIT_IGNORE_FILE)
            if parent is None:
                git += self._patterns(".git/info/exclude")
            own = self._patterns(path + IGNORE_FILE)
        except OSError as error:
            self._failed(path, error)
            return None
        return _Folder(
            path,
            GitIgnoreSpec.from_lines(git) if git else None,
            GitIgnoreSpec.from_lines(own) if own else None,
            parent,
        )

    def _patterns(self, path: str) -> list[str]:
        try:
            content = _read(self._root / path, _MOST_IGNORE_BYTES, follow=True)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return []
        return readable_patterns(content.decode("utf-8", "replace"))

    def _enters(self, folder: _Folder, path: str, name: str) -> bool:
        if name.startswith(".") or name in _INSTALLED or not self._names(path):
            return False
        inside = f"{path}/"
        return self._rules.reason(inside) is None and not folder.ignores(inside)

    def _takes(self, folder: _Folder, path: str) -> bool:
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - once per file of a workspace
        if suffix not in SUFFIXES or not self._names(path):
            return False
        return self._rules.reason(path) is None and not folder.ignores(path)

    def _names(self, path: str) -> bool:
        if spellable(path):
            return True
        self.skipped.add(path, "its name is no UTF-8")
        return False

    def _is_folder(self, entry: os.DirEntry[str], path: str) -> bool:
        try:
            return entry.is_dir(follow_symlinks=False)
        except OSError as error:
            self._failed(path, error)
            return False

    def _described(self, entry: os.DirEntry[str], path: str) -> Found | None:
        try:
            return self._found(path, entry.stat(follow_symlinks=False))
        except OSError as error:
            self._failed(path, error)
            return None

    def _found(self, path: str, status: os.stat_result) -> Found | None:
        if stat.S_ISLNK(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            self.skipped.add(path, _NO_FILE)
            return None
        if status.st_size > _MOST_BYTES:
            self.skipped.add(path, f"longer than {_MOST_BYTES} bytes")
            return None
        return Found(path, status.st_size, status.st_mtime_ns)

    def _failed(self, path: str, error: OSError) -> None:
        # What was deleted meanwhile is not there to be indexed.
        if path == "" or not isinstance(error, FileNotFoundError):
            self.skipped.add(path, error.strerror or str(error))


def text_of(content: bytes) -> str:
    r"""Source as indexed: UTF-8 without byte order mark, `\n` line ends.

    Bytes that are no UTF-8 become U+FFFD: only their words are lost.
    """
    text = content.decode("utf-8-sig", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def spellable(path: str) -> bool:
    """Whether an editor can name it: a path that is no UTF-8 has no URI that leads back to it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path, most: int, *, follow: bool) -> bytes:
    """The first `most` bytes of a plain file; never waits for a pipe or a device.

    Raises:
        OSError: it cannot be read, or is none.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        if stat.S_ISCHR(mode):
            # Ignore files that are linked to /dev/null name nothing.
            return b""
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, _NO_FILE, str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(most)
    finally:
        os.close(descriptor)
