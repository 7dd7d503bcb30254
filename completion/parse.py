"""How well Python source parses, by tree-sitter, which makes sense of unfinished code.

A suggestion may not make a file worse: the file *with* it is compared with the file without,
so that errors the user is in the middle of typing do not count against it.
"""

from __future__ import annotations

from functools import cache

import tree_sitter_python
from tree_sitter import Language, Node, Parser, Tree

_MAX_CHARACTERS = 200_000
"""Longer documents are not parsed: 10 ms a megabyte of source, on every suggestion."""


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_python.language()))


def parse(text: str) -> Tree:
    """The syntax tree of `text`; broken parts are ERROR and MISSING nodes in it."""
    return _parser().parse(text.encode("utf-8", "replace"))


def count_errors(text: str) -> int:
    """How many ERROR and MISSING nodes the tree of `text` has; nested ones count once."""
    tree = parse(text)
    if not tree.root_node.has_error:
        return 0
    return sum(1 for _ in _errors(tree.root_node))


def _errors(root: Node) -> list[Node]:
    found: list[Node] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            found.append(node)
        elif node.has_error:
            waiting += node.children
    return found
