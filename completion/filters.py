"""Filters over a shaped suggestion that say no, each a pure function; golden tables show them."""

from __future__ import annotations

import math
import re
from collections import Counter

from completion.parse import breaks
from completion.types import HiddenReason

_TOKENS = re.compile(
    r"""AKIA[0-9A-Z]{16}            # Amazon
    |gh[pousr]_[A-Za-z0-9]{36}      # GitHub
    |github_pat_\w{22,}
    |glpat-[\w-]{20}                # GitLab
    |xox[abprs]-[\w-]{10,}          # Slack
    |sk-[A-Za-z0-9_-]{20,}          # OpenAI and others
    |sk_live_[A-Za-z0-9]{16,}       # Stripe
    |AIza[\w-]{35}                  # Google
    |eyJ[\w-]{10,}\.eyJ[\w-]{10,}   # JSON web tokens
    |-----BEGIN\ [A-Z ]*PRIVATE\ KEY
    |://[^\s:/@"']+:[^\s/@"'{}$<>]{3,}@ # password in a URL
    """,
    re.VERBOSE,
)
_ASSIGNED = re.compile(
    r"""(?:passw(?:or)?d|secret|token|api_?key|private_?key|credential)\w*["']?\]?\s*[:=]\s*
    [rbuf]?["']([^"'\s]{8,})["']""",
    re.VERBOSE | re.IGNORECASE,
)
_MIN_BITS = 3.0
"""Bits per character: words have fewer, random text of eight characters and more has more."""


def looks_secret(text: str) -> bool:
    """Whether `text` (the completed line or lines) holds something like a credential."""
    if _TOKENS.search(text):
        return True
    return any(_looks_random(match.group(1)) for match in _ASSIGNED.finditer(text))


def _looks_random(value: str) -> bool:
    mixed = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    return mixed and _bits(value) >= _MIN_BITS


def _bits(value: str) -> float:
    """Shannon entropy per character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def reject(
    prefix: str, insert: str, suffix: str, replace_right: int = 0, language: str = "python"
) -> HiddenReason | None:
    """Why a suggestion must not be shown, or None.

    Args:
        prefix: document before the cursor.
        insert: the suggestion.
        suffix: document after the cursor.
        replace_right: characters of `suffix` that it replaces.
        language: the document's LSP language id.
    """
    if looks_secret(prefix[prefix.rfind("\n") + 1 :] + insert):
        return HiddenReason.SECRET
    if breaks(prefix, insert, suffix, replace_right, strict=language == "python"):
        return HiddenReason.PARSE_ERROR
    return None
