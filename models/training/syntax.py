"""Where the expressions and statements of a file stand, for spans cut along its syntax.

People fill in whole nodes of the syntax tree, a condition or the statements of a block, and so do
the benchmarks (SAFIM). Structure-aware cuts are better practice for them than random ones (Gong
et al. 2025, "Structure-Aware Fill-in-the-Middle Pretraining for Code").
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Sequence

from models.source_tree import Positions, Span, nodes

LEAST_CHARACTERS, MOST_CHARACTERS = 3, 1000
"""Of a span; what is shorter teaches little, and a whole class is no gap."""


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
        position = Positions(text)
        for node in nodes(text):
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


def _usable(spans: list[Span]) -> list[Span]:
    return sorted({s for s in spans if LEAST_CHARACTERS <= s[1] - s[0] <= MOST_CHARACTERS})
