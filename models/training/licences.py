"""Recognise permissive licences from their text.

Only what these rules recognise as permissive enters the corpus: an unknown text
counts as not permissive.
"""

from __future__ import annotations

import re

PERMISSIVE = frozenset(
    {"Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "ISC", "PSF-2.0", "Unlicense", "CC0-1.0",
     "HPND", "0BSD", "MIT-0"}
)  # fmt: skip

_COPYLEFT = re.compile(
    r"gnu\s+(affero\s+|lesser\s+|library\s+)?general\s+public\s+licen|mozilla public license"
    r"|european union public licen|server side public license|business source license"
    r"|elastic license|commons clause|creativecommons\.org/licenses/by-(nc|sa|nd)",
    re.IGNORECASE,
)
_GPL_HEADER = re.compile(
    r"spdx-license-identifier:\s*\(?\s*(a|l)?gpl|gnu\s+(affero\s+|lesser\s+|library\s+)?"
    r"general\s+public\s+licen",
    re.IGNORECASE,
)
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Apache-2.0", re.compile(r"apache license[\s,]+version 2\.0|apache-2\.0", re.IGNORECASE)),
    ("Unlicense", re.compile(r"this is free and unencumbered software", re.IGNORECASE)),
    ("CC0-1.0", re.compile(r"cc0 1\.0 universal", re.IGNORECASE)),
    ("PSF-2.0", re.compile(r"python software foundation license version 2", re.IGNORECASE)),
    ("MIT-0", re.compile(r"mit no attribution", re.IGNORECASE)),
    (
        "BSD-3-Clause",
        re.compile(
            r"redistribution and use in source and binary forms.*(endorse|promote)",
            re.IGNORECASE | re.DOTALL,
        ),
    ),
    (
        "BSD-2-Clause",
        re.compile(r"redistribution and use in source and binary forms", re.IGNORECASE),
    ),
    ("MIT", re.compile(r"permission\s+is\s+hereby\s+granted,\s+free\s+of\s+charge", re.IGNORECASE)),
    (
        "ISC",
        re.compile(
            r"permission\s+to\s+use,\s+copy,\s+modify,?\s+and(/or)?\s+distribute\s+this\s+software"
            r"\s+for\s+any",
            re.IGNORECASE,
        ),
    ),
    (
        "HPND",
        re.compile(
            r"permission\s+to\s+use,\s+copy,\s+modify,?\s+and\s+distribute\s+this\s+software\s+and"
            r"\s+its\s+(associated\s+)?documentation",
            re.IGNORECASE,
        ),
    ),
)


def detect_spdx(text: str) -> str | None:
    """SPDX id of a permissive licence text, or None if copyleft, restricted or unknown."""
    if _COPYLEFT.search(text[:3000]):
        return None
    for spdx, pattern in _RULES:
        if pattern.search(text):
            return spdx
    return None


def has_copyleft_header(source: str) -> bool:
    """Whether a source file declares the GPL family in its first 3000 characters."""
    return _GPL_HEADER.search(source[:3000]) is not None
