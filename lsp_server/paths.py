"""Where the server keeps files of its own, and URIs as paths."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from platformdirs import user_cache_path

STATE_VARIABLE = "SNOWCODER_STATE_DIR"
CACHE_VARIABLE = "SNOWCODER_CACHE_DIR"


def state_dir() -> Path:
    """Folder for logs and decisions, one per user; not created here.

    `$SNOWCODER_STATE_DIR`, else the platform's place: XDG_STATE_HOME, Application Support on
    macOS, LOCALAPPDATA on Windows.
    """
    if given := os.environ.get(STATE_VARIABLE):
        return Path(given)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "snowcoder"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "snowcoder"
    return Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "snowcoder"


def cache_dir() -> Path:
    """Folder for what can be made again, one per user; not created here.

    `$SNOWCODER_CACHE_DIR`, else the platform's place.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return user_cache_path("snowcoder", appauthor=False)


def uri_path(uri: str) -> str:
    """The path part of any URI, decoded, with forward slashes; never touches a disk."""
    try:
        return unquote(urlsplit(uri).path)
    except ValueError:
        # Half of an IPv6 address, for example; what cannot be split matches as a whole.
        return uri
