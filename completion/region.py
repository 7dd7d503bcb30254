"""The part of a document that is worth parsing for one suggestion."""

from __future__ import annotations

import re

_BEFORE_CHARACTERS = 8_000
_AFTER_CHARACTERS = 2_000
_TOP_LEVEL = re.compile(r"^[^\s#)\]}\"']", re.MULTILINE)


def region(prefix: str, suffix: str) -> tuple[str, str]:
    """The end of `prefix` and the beginning of `suffix`, cut where top-level statements begin.

    Parsing costs about a millisecond for each 10,000 characters, on every suggestion; what is
    further away does not change whether the text at the cursor is right.
    """
    if len(prefix) > _BEFORE_CHARACTERS:
        prefix = prefix[-_BEFORE_CHARACTERS:]
        start = _TOP_LEVEL.search(prefix, prefix.find("\n") + 1)
        prefix = prefix[start.start() :] if start else prefix
    if len(suffix) > _AFTER_CHARACTERS:
        suffix = suffix[:_AFTER_CHARACTERS]
        starts = list(_TOP_LEVEL.finditer(suffix, suffix.find("\n") + 1))
        suffix = suffix[: starts[-1].start()] if starts else suffix[: suffix.rfind("\n") + 1]
    return prefix, suffix
