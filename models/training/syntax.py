"""Where the expressions and statements of a file stand, for spans cut along its syntax.

People fill in whole nodes of the syntax tree, a condition or the statements of a block, and so do
the benchmarks (SAFIM). Structure-aware cuts are better practice for them than random ones (Gong
et al. 2025, "Structure-Aware Fill-in-the-Middle Pretraining for Code").
"""

from __future__ import annotations

import ast
import warnings
from bisect import bisect_left
from collections.abc import Sequence

LEAST_CHARACTERS, MOST_CHARACTERS = 3, 1000
"""Of a span; what is shorter teaches little, and a whole class is no gap."""

Span = tuple[int, int]


class Syntax:
    """Spans of one file by kind, in the order in which they begin.

    Attributes:
        kinds: `[begin, end)` characters of the conditions and loop heads, of other expressions,
            and of runs of one to four statements of a block; all empty where the text is no Python.
    """

    def __init__(self, text: str) -> None:
        control: list[Span] = []
        expressions: list[Span] = []
        statements: list[Span] = []
        position = _Positions(text)
        for node in _walk(text):
            if isinstance(node, ast.If | ast.While | ast.Assert | ast.IfExp):
                control.append(position.span(node.test, node.test))
            elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
                control.append(position.span(node.target, node.iter))
            if isinstance(node, ast.expr) and not isinstance(node, ast.Name):
                expressions.append(position.span(node, node))
            for block in ("body", "orelse", "finalbody"):
                inside = getattr(node, block, None)
                if isinstance(inside, list):
                    statements += [
                        position.span(first, last)
                        for number, first in enumerate(inside)
                        for last in inside[number : number + 4]
                    ]
        self.kinds = tuple(_usable(spans) for spans in (control, expressions, statements))

    def within(self, begin: int, end: int) -> list[Sequence[Span]]:
        """Of every kind that has some, the spans that begin in `[begin, end)`."""
        found: list[Sequence[Span]] = []
        for spans in self.kinds:
            some = spans[bisect_left(spans, (begin, 0)) : bisect_left(spans, (end, 0))]
            if some:
                found.append(some)
        return found


class _Positions:
    """Characters of a text from the tree's lines and UTF-8 columns."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def span(self, first: ast.expr | ast.stmt, last: ast.expr | ast.stmt) -> Span:
        """From the begin of `first` to the end of `last`."""
        end_line, end_column = last.end_lineno, last.end_col_offset
        if end_line is None or end_column is None:
            raise ValueError("a node that no parser made has no end")
        return self._at(first.lineno, first.col_offset), self._at(end_line, end_column)

    def _at(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode(errors="ignore"))
        return self._starts[line - 1] + column


def _walk(text: str) -> list[ast.AST]:
    if "\r" in text or "\f" in text:  # further line ends, for Python's tokenizer alone
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _usable(spans: list[Span]) -> list[Span]:
    return sorted({s for s in spans if LEAST_CHARACTERS <= s[1] - s[0] <= MOST_CHARACTERS})
