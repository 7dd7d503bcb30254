"""Python source by tree-sitter, which makes sense of unfinished code.

A suggestion may not make a file worse: the text *with* it is compared with the text without, so
that errors the user is in the middle of typing do not count against it.
"""

from __future__ import annotations

from functools import cache

import tree_sitter_python
from tree_sitter import Language, Node, Parser, Tree

from completion.region import region
from completion.statement import breaks_statement

_PLACEHOLDER = "pass"


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_python.language()))


def parse(text: str) -> Tree:
    """The syntax tree of `text`; broken parts are ERROR and MISSING nodes in it."""
    return _parser().parse(text.encode("utf-8", "replace"))


def count_errors(text: str) -> int:
    """How many ERROR and MISSING nodes the tree of `text` has; nested ones count once."""
    return _errors_in(parse(text))


def _errors_in(tree: Tree) -> int:
    found, waiting = 0, [tree.root_node]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            found += 1
        elif node.has_error:
            waiting += node.children
    return found


def breaks(
    prefix: str, insert: str, suffix: str, replace_right: int = 0, *, strict: bool = True
) -> bool:
    r"""Whether `insert` leaves more syntax errors than there are without it.

    A line that opens a block (`if x:`) may still lack its body.

    Args:
        prefix: document before the cursor, `\n` line ends.
        insert: the suggestion.
        suffix: document after the cursor.
        replace_right: characters of `suffix` that the suggestion replaces.
        strict: whether the completed statement must please Python's own parser as well.
    """
    before, after = region(prefix, suffix)
    rest = after[replace_right:]
    tree = parse(before + insert + rest)
    string = _string_before(tree, before)
    if strict and breaks_statement(prefix, insert, suffix[replace_right:], string):
        return True
    errors = _errors_in(tree)
    if errors == 0 or errors <= count_errors(before + after):
        return False
    last = (before + insert).rpartition("\n")[2]
    if last.rstrip().endswith(":") and not rest.partition("\n")[0].strip():
        body = " " * (len(last) - len(last.lstrip()) + 4) + _PLACEHOLDER
        return count_errors(f"{before}{insert}\n{body}{rest}") > count_errors(before + after)
    return True


def _string_before(tree: Tree, before: str) -> int:
    """Characters at the end of `before` that belong to the string there; 0 where there is none."""
    data = before.encode("utf-8", "replace")
    node = tree.root_node.descendant_for_byte_range(max(len(data) - 1, 0), len(data))
    start = len(data)
    while node is not None:
        if node.type == "string":
            start = node.start_byte
        node = node.parent
    return len(data[start:].decode("utf-8", "replace"))


def in_empty_block(prefix: str, suffix: str) -> bool:
    """Whether the cursor stands on a blank line in a block with no statement of its own.

    Comments and a docstring announce code and do not count.
    """
    found = _beside_cursor(prefix, suffix)
    if found is None:
        return False
    block, before, after = found
    others = [*before, *after]
    return not others or (len(others) == 1 and _is_docstring(others[0], block))


def behind_docstring(prefix: str, suffix: str) -> bool:
    """Whether the cursor stands on a blank line where only a docstring is above it in its block."""
    found = _beside_cursor(prefix, suffix)
    return found is not None and len(found[1]) == 1 and _is_docstring(found[1][0], found[0])


def _beside_cursor(prefix: str, suffix: str) -> tuple[Node, list[Node], list[Node]] | None:
    """The block that a statement at the cursor would be in, and its statements before and after.

    None where the cursor's line is not blank, or where it is surely not near a block's beginning.
    """
    left = prefix[prefix.rfind("\n") + 1 :]
    if left.strip() or suffix.partition("\n")[0].strip() or not left:
        return None
    above = prefix.rstrip().rpartition("\n")[2].strip()
    if not (above.endswith((":", '"""', "'''", '"', "'")) or above.startswith("#") or ":" in above):
        return None
    before, after = region(prefix, suffix)
    tree = parse(before + _PLACEHOLDER + after)
    start = len(before.encode("utf-8", "replace"))
    node = tree.root_node.named_descendant_for_byte_range(start, start + len(_PLACEHOLDER))
    block = node.parent if node is not None else None
    if node is None or node.type != "pass_statement" or block is None or block.type != "block":
        return None
    others = [child for child in block.named_children if child.type != "comment" and child != node]
    return (
        block,
        [child for child in others if child.end_byte <= start],
        [child for child in others if child.start_byte >= start],
    )


def _is_docstring(node: Node, block: Node) -> bool:
    owner = block.parent
    return (
        owner is not None
        and owner.type in ("function_definition", "class_definition")
        and node.type == "expression_statement"
        and node.named_child_count == 1
        and node.named_children[0].type == "string"
    )
