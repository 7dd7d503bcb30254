"""What code is compared by: the words in it, and the lines."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Set
from functools import lru_cache

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LEAST_LINE = 8
"""Shorter lines (`else:`, `return x`) are in every file and say nothing."""
COMMON = frozenset(
    (
        *keyword.kwlist,
        *("self", "cls", "int", "str", "bool", "list", "dict", "set", "tuple"),
        *("len", "range", "print", "isinstance", "super"),
    )
)


def identifiers(text: str) -> list[str]:
    """Identifiers in order, keywords and the commonest built-ins left out."""
    return [word for word in _IDENTIFIER.findall(text) if word not in COMMON]


@lru_cache(16_384)
def _terms(word: str) -> tuple[str, ...]:
    parts = tuple(part.lower() for part in _PART.findall(word))
    whole = word.lower()
    return parts if parts == (whole,) else (whole, *(part for part in parts if len(part) > 1))


def terms(text: str) -> list[str]:
    """Lower-case search terms: identifiers whole, and their parts (`get_user`: `get`, `user`)."""
    return [term for word in identifiers(text) for term in _terms(word)]


def jaccard(left: Set[str], right: Set[str]) -> float:
    """Size of the intersection by that of the union; 0 for two empty sets."""
    if not left or not right:
        return 0.0
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def telling_lines(text: str) -> Iterator[str]:
    """Lines without indentation that are long enough to tell one text from another."""
    for line in text.splitlines():
        if len(stripped := line.strip()) >= _LEAST_LINE:
            yield stripped


def covered(text: str, known: Set[str]) -> float:
    """Share of the telling lines of `text` that are in `known`; 1 where it has none."""
    lines = list(telling_lines(text))
    return sum(line in known for line in lines) / len(lines) if lines else 1.0
