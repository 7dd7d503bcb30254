"""Who may send and who may read, how much, how fast."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class TokenFileError(Exception):
    """The file of tokens cannot be used; the message says why."""


class Role(StrEnum):
    """What a token is good for."""

    UPLOAD = "upload"
    """Sending events."""
    READ = "read"
    """Looking at the dashboard."""


SHORTEST = 16
"""Characters of a token at least."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a file, as digests: comparing takes as long whatever is compared."""

    digests: tuple[tuple[Role, bytes], ...]

    def find(self, token: str, role: Role) -> str | None:
        """A name for the token if it has the role, else None. The name is safe to keep."""
        digest, found = _digest(token), None
        for known_role, known in self.digests:
            if hmac.compare_digest(digest, known) and known_role is role:
                found = known.hex()[:16]
        return found


def read_tokens(path: Path) -> Tokens:
    """Read lines `upload TOKEN` and `read TOKEN`; empty ones and `#` comments are skipped.

    Raises:
        TokenFileError: not readable, or a line that is not of that form.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        # The message must not repeat what may be a token.
        if len(words) != 2 or words[0] not in {role.value for role in Role}:
            raise TokenFileError(f"{path}, line {number}: not of the form `upload TOKEN`")
        if len(words[1]) < SHORTEST:
            raise TokenFileError(
                f"{path}, line {number}: a token has {SHORTEST} characters at least"
            )
        found.append((Role(words[0]), _digest(words[1])))
    return Tokens(tuple(found))


def make_tokens(path: Path) -> None:
    """Write a file with a new token of each role, readable by its owner alone.

    Raises:
        TokenFileError: it cannot be written.
    """
    text = "".join(f"{role.value} {secrets.token_urlsafe(24)}\n" for role in Role)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TokenFileError(f"cannot write {path}: {error}") from error


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class RateLimiter:
    """A token bucket for each sender.

    Args:
        per_s: events a second in the long run.
        burst: events at once.
    """

    def __init__(
        self, per_s: float, burst: float, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s, self._burst, self._now_s = per_s, burst, now_s
        self._levels: dict[str, tuple[float, float]] = {}

    def wait_s(self, sender: str, events: int) -> float:
        """0 if the sender may send so many now, and they count; else seconds to wait.

        Whoever sends more than a burst waits for a full bucket.
        """
        now = self._now_s()
        level, since = self._levels.get(sender, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._per_s)
        needed = min(float(events), self._burst)
        if level < needed:
            self._levels[sender] = level, now
            return (needed - level) / self._per_s
        self._levels[sender] = level - events, now
        return 0.0
