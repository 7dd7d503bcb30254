"""The part of a document that is worth parsing for one suggestion."""

from __future__ import annotations

import re

_BEFORE_CHARACTERS = 8_000
_AFTER_CHARACTERS = 2_000
_TOP_LEVEL = re.compile(r"^[^\s#)\]}\"']", re.MULTILINE)
_INNER = re.compile(r"^([ \t]+)(?:(?:async )?def|class) \w+", re.MULTILINE)
_OUTER = "if 1:\n"
"""Stands for what an indented beginning is inside of."""


def region(prefix: str, suffix: str) -> tuple[str, str]:
    """The end of `prefix` and the beginning of `suffix`, cut where statements begin.

    At top level if there is one near, else (in a long class) at the outermost function: a cut
    anywhere may be in the middle of a string, which would turn code into string. Parsing costs
    about a millisecond for each 10,000 characters, on every suggestion; what is further away does
    not change whether the text at the cursor is right.
    """
    if len(prefix) > _BEFORE_CHARACTERS:
        prefix = prefix[-_BEFORE_CHARACTERS:]
        start = _TOP_LEVEL.search(prefix, prefix.find("\n") + 1)
        if start is not None:
            prefix = prefix[start.start() :]
        elif (inner := outermost_function(prefix)) is not None:
            prefix = _OUTER + prefix[inner:]
    if len(suffix) > _AFTER_CHARACTERS:
        suffix = suffix[:_AFTER_CHARACTERS]
        starts = list(_TOP_LEVEL.finditer(suffix, suffix.find("\n") + 1))
        suffix = suffix[: starts[-1].start()] if starts else suffix[: suffix.rfind("\n") + 1]
    return prefix, suffix


def outermost_function(text: str) -> int | None:
    """Where the last of the least indented functions and classes of `text` begins.

    Examples in docstrings are indented more than what they document.
    """
    found = list(_INNER.finditer(text, text.find("\n") + 1))
    if not found:
        return None
    least = min(len(match.group(1)) for match in found)
    return [match.start() for match in found if len(match.group(1)) == least][-1]
