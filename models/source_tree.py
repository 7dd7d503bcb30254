"""Python's own syntax tree of a text, and the characters where its nodes stand.

For training, and for the samples that `completion` writes for it.
"""

from __future__ import annotations

import ast
import warnings

Span = tuple[int, int]
"""`[begin, end)` characters of a text."""
Node = ast.expr | ast.stmt | ast.keyword
"""A node that has a place."""


def parse(text: str) -> ast.Module | None:
    """The tree, without a word on doubtful escapes; None where the text is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def nodes(text: str) -> list[ast.AST]:
    r"""All nodes of the tree; none where the text is no Python.

    Nor where it has line ends besides `\n`, which are such for Python's tokenizer alone.
    """
    tree = None if "\r" in text or "\f" in text else parse(text)
    return [] if tree is None else list(ast.walk(tree))


class Positions:
    """Characters of a text from the tree's lines and UTF-8 columns."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def begin(self, node: Node) -> int:
        """Where a node begins."""
        return self._at(node.lineno, node.col_offset)

    def end(self, node: Node) -> int:
        """Where a node ends."""
        if node.end_lineno is None or node.end_col_offset is None:
            raise ValueError("a node that no parser made has no end")
        return self._at(node.end_lineno, node.end_col_offset)

    def span(self, first: Node, last: Node) -> Span:
        """From the begin of `first` to the end of `last`."""
        return self.begin(first), self.end(last)

    def _at(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode(errors="ignore"))
        return self._starts[line - 1] + column
