"""The workspace's folders and which of their files stay out of prompts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pygls.uris import to_fs_path

from completion.exclude import IGNORE_FILE, ExcludeRules, readable_patterns
from lsp_server.paths import uri_path

logger = logging.getLogger(__name__)

_MAX_BYTES = 1_000_000


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


class Workspace:
    """Follows folders; lives on the event loop.

    Ignore files are read in threads nobody waits for: a folder on a dead mount costs that
    folder its suggestions and nothing else.

    Args:
        read: reads a folder's ignore file; blocks.
    """

    def __init__(self, read: Callable[[Path], list[str]] = read_ignore_file) -> None:
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

    def _load_in_thread(
        self, loop: asyncio.AbstractEventLoop, path: str, uri: str, local: Path
    ) -> None:
        try:
            lines = self._read(local)
        except OSError as error:
            logger.warning("%s cannot be read in %s: %s", IGNORE_FILE, uri, error.strerror)
            return
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._loaded, path, uri, lines)

    def _loaded(self, path: str, uri: str, lines: Sequence[str]) -> None:
        if self._uris.get(path) == uri:
            self._folders[path] = lines
            self._update()

    def _update(self) -> None:
        self.rules = ExcludeRules(self._user, dict(self._folders))


def _is_ignore_file(uri: str) -> bool:
    return uri_path(uri).endswith(f"/{IGNORE_FILE}")
