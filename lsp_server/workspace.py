"""The workspace's folders and which of their files stay out of prompts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from pygls.uris import to_fs_path

from completion.exclude import IGNORE_FILE, ExcludeRules, readable_patterns
from lsp_server.paths import uri_path

logger = logging.getLogger(__name__)

_MAX_BYTES = 1_000_000
_SLOW_S = 5.0
"""After so long a folder counts as one that does not answer."""
_RETRY_S = 10.0


def read_ignore_file(folder: Path) -> list[str]:
    """Lines of a folder's `.snowcoderignore`; none where there is no such file.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        with (folder / IGNORE_FILE).open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return readable_patterns(text)


def _nothing(_: str) -> None:
    """For callers that have nobody to tell."""


class Workspace:
    """Follows folders; lives on the event loop.

    Ignore files are read in threads nobody waits for: a folder on a dead mount costs that
    folder its suggestions and nothing else, and it has them again once it can be read.

    Args:
        warn: takes a sentence for the user about a folder without suggestions, once for each.
        read: reads a folder's ignore file; blocks.
        slow_s: seconds after which reading counts as hanging.
        retry_s: seconds between attempts to read what failed.
    """

    def __init__(
        self,
        warn: Callable[[str], None] = _nothing,
        read: Callable[[Path], list[str]] = read_ignore_file,
        *,
        slow_s: float = _SLOW_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._warn = warn
        self._told: set[str] = set()
        self._slow_s = slow_s
        self._retry_s = retry_s
        self._read = read
        self._user: Sequence[str] = ()
        self._folders: dict[str, Sequence[str] | None] = {}
        self._uris: dict[str, str] = {}
        self.rules = ExcludeRules()

    @property
    def folders(self) -> list[str]:
        """URIs of the folders, in the order they were added."""
        return list(self._uris.values())

    def exclude(self, patterns: Sequence[str]) -> None:
        """Take over the setting `exclude`."""
        self._user = patterns
        self._update()

    def add(self, uri: str) -> None:
        """Follow a folder; its files are excluded until its ignore file was read."""
        path = uri_path(uri).rstrip("/")
        self._uris[path] = uri
        self._folders[path] = None
        self._load(path)

    def remove(self, uri: str) -> None:
        """Stop following a folder; unknown ones are ignored."""
        path = uri_path(uri).rstrip("/")
        self._uris.pop(path, None)
        self._folders.pop(path, None)
        self._update()

    def touched(self, uris: Sequence[str]) -> None:
        """Files were made, saved, moved or deleted: read ignore files among them again."""
        for path in {uri_path(uri).rpartition("/")[0] for uri in uris if _is_ignore_file(uri)}:
            if path in self._folders:
                self._load(path)

    def _load(self, path: str) -> None:
        uri = self._uris[path]
        local = to_fs_path(uri) if urlsplit(uri).scheme == "file" else None
        if local is None:
            self._folders[path] = ()
            self._update()
            return
        self._update()
        loop = asyncio.get_running_loop()
        arguments = (loop, path, uri, Path(local))
        threading.Thread(
            target=self._load_in_thread, args=arguments, name="ignore-file", daemon=True
        ).start()
        loop.call_later(self._slow_s, self._tell, path, uri, "it does not answer")

    def _load_in_thread(
        self, loop: asyncio.AbstractEventLoop, path: str, uri: str, local: Path
    ) -> None:
        back: Callable[[], None]
        try:
            lines = self._read(local)
        except OSError as error:
            back = partial(self._failed, path, uri, error.strerror or str(error))
        else:
            back = partial(self._loaded, path, uri, lines)
        # The server may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(back)

    def _failed(self, path: str, uri: str, problem: str) -> None:
        self._tell(path, uri, problem)
        asyncio.get_running_loop().call_later(self._retry_s, self._retry, path, uri)

    def _retry(self, path: str, uri: str) -> None:
        if self._uris.get(path) == uri:
            self._load(path)

    def _tell(self, path: str, uri: str, problem: str) -> None:
        """Say that a folder has no suggestions, unless it has, or it was said before."""
        waits = path in self._folders and self._folders[path] is None
        if waits and self._uris[path] == uri and path not in self._told:
            self._told.add(path)
            logger.warning("nothing is suggested in %s: %s", uri, problem)
            until = f"until it can read {IGNORE_FILE} there ({problem})"
            self._warn(f"SnowCoder suggests nothing in {path} {until}")

    def _loaded(self, path: str, uri: str, lines: Sequence[str]) -> None:
        if self._uris.get(path) == uri:
            self._folders[path] = lines
            self._update()

    def _update(self) -> None:
        self.rules = ExcludeRules(self._user, dict(self._folders))


def _is_ignore_file(uri: str) -> bool:
    return uri_path(uri).endswith(f"/{IGNORE_FILE}")
