"""A file's chunks and definitions, by its syntax tree.

Chunks are cut as cAST does (arXiv 2506.15655): statements are gathered until a chunk is full, and
what does not fit alone is opened and its parts gathered. They cover the file without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from completion.context.grammars import PYTHON, Grammar, grammar_of, parser_of
from completion.context.types import Chunk, Definition

_MOST_LINES, _LEAST_LINES = 24, 6
_MOST_HEAD_LINES = 8
_MOST_HEAD_CHARS = 600
_MOST_CONSTANT_CHARS = 120
_MOST_DEPTH = 40
"""Of nested syntax that is opened; code from generators may nest without end."""
_NAMES = frozenset(
    {"identifier", "field_identifier", "type_identifier", "qualified_identifier", "operator_name"}
    | {"destructor_name", "property_identifier"}
)


@dataclass(frozen=True, slots=True)
class Outline:
    """What an index keeps of one file."""

    chunks: list[Chunk]
    definitions: list[Definition]


def outline(path: str, text: str) -> Outline:
    r"""Cut `text` (`\n` line ends) into chunks and list its definitions."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        return Outline([], [])
    grammar = grammar_of(path)
    parser = None if grammar is None else parser_of(grammar)
    if grammar is None or parser is None:
        return Outline(_chunks(path, lines, {0: ""}), [])
    root = parser.parse(text.encode("utf-8", "replace")).root_node
    cutter = _Cutter(grammar)
    cutter.cut(root, "", 0)
    found = _definitions(root, grammar, path, lines, 0)
    return Outline(_chunks(path, lines, cutter.names), list(found))


def _chunks(path: str, lines: list[str], names: dict[int, str]) -> list[Chunk]:
    """Chunks that begin at the lines in `names`; those still too long are split evenly."""
    starts = [start for start in names if start < len(lines)]
    chunks = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        parts = -(-(end - start) // (_MOST_LINES + _LEAST_LINES))
        for part in range(parts):
            first = start + (end - start) * part // parts
            last = start + (end - start) * (part + 1) // parts
            body = "\n".join(lines[first:last]) + "\n"
            chunks.append(Chunk(path, first, last, body, names[start]))
    return chunks


class _Cutter:
    """Gathers the lines at which chunks begin, and the names of the definitions they are in."""

    def __init__(self, grammar: Grammar) -> None:
        self.names = {0: ""}
        self._start = 0
        self._grammar = grammar

    def cut(self, node: Node, inside: str, depth: int) -> None:
        comments: int | None = None
        behind = -1
        for child in node.named_children:
            first, last = _rows(child)
            if "comment" in child.type and first > behind:
                comments = first if comments is None else comments
                continue
            begin = first if comments is None else comments
            comments, behind = None, last
            definition = _unwrapped(child, self._grammar)
            name = inside
            if definition is not None and (own := _name(definition)):
                name = f"{inside}.{own}" if inside else own
            gathered = begin - self._start
            full = last + 1 - self._start > _MOST_LINES
            if gathered >= _LEAST_LINES and (full or definition is not None):
                self._start = begin
                self.names[begin] = name
            elif begin == self._start:
                self.names[begin] = name
            if last + 1 - begin > _MOST_LINES and depth < _MOST_DEPTH:
                self.cut(child, name, depth + 1)


def _rows(node: Node) -> tuple[int, int]:
    first, (last, column) = node.start_point.row, node.end_point
    # A node that takes its line break with it ends in column 0 of the next line.
    return first, last - 1 if column == 0 and last > first else last


def _unwrapped(node: Node, grammar: Grammar) -> Node | None:
    """The definition that a statement is, decorated or exported perhaps."""
    for field in ("definition", "declaration"):
        if node.type not in grammar.definitions and (inner := node.child_by_field_name(field)):
            node = inner
    return node if node.type in grammar.definitions else None


def _name(node: Node) -> str:
    """The bare name that a definition gives; empty where it gives none."""
    found = node.child_by_field_name("name") or node.child_by_field_name("declarator")
    if node.type == "impl_item":
        found = node.child_by_field_name("type")
    while found is not None and found.type not in _NAMES:
        inner = found.child_by_field_name("declarator") or found.child_by_field_name("name")
        if inner is None:
            inner = next((child for child in found.named_children if child.type in _NAMES), None)
        if inner is None:
            break
        found = inner
    if found is None or found.text is None or len(found.text) > _MOST_CONSTANT_CHARS:
        return ""
    return found.text.decode("utf-8", "replace").rpartition("::")[2]


def _definitions(
    node: Node, grammar: Grammar, path: str, lines: list[str], depth: int
) -> Iterator[Definition]:
    for child in node.named_children:
        kind = child.type
        if kind in grammar.definitions:
            row = child.start_point.row
            # An implementation adds members to a type that is defined elsewhere.
            if kind != "impl_item" and _tells(child) and (name := _name(child)):
                yield Definition(name, path, row, _signature(child, grammar, lines))
            if kind in grammar.containers and depth < _MOST_DEPTH:
                body = child.child_by_field_name("body")
                if body is not None:
                    yield from _definitions(body, grammar, path, lines, depth + 1)
        elif kind in grammar.transparent and depth < _MOST_DEPTH:
            yield from _definitions(child, grammar, path, lines, depth + 1)
        elif grammar is PYTHON and kind == "expression_statement" and child.start_point.column == 0:
            target = child.named_children[0] if child.named_children else None
            left = None if target is None else target.child_by_field_name("left")
            if left is not None and left.type == "identifier" and left.text is not None:
                row = child.start_point.row
                head = lines[row][:_MOST_CONSTANT_CHARS]
                yield Definition(left.text.decode("utf-8", "replace"), path, row, head)


def _tells(node: Node) -> bool:
    """Not a mere mention: C's `struct point p;` and `int x;` define nothing others look up."""
    if node.type.endswith("_specifier"):
        return node.child_by_field_name("body") is not None
    if node.type == "preproc_def":
        # Without a value it guards a header.
        return node.child_by_field_name("value") is not None
    if node.type == "declaration":
        declarator = node.child_by_field_name("declarator")
        return declarator is not None and "function" in declarator.type
    return True


def _signature(node: Node, grammar: Grammar, lines: list[str]) -> str:
    """Head and first line of the documentation, indented as in the file."""
    first, last = _rows(node)
    body = node.child_by_field_name("body")
    if body is None and (value := node.child_by_field_name("value")) is not None:
        body = value.child_by_field_name("body")
    head = lines[first : min(last + 1, first + _MOST_HEAD_LINES)]
    if body is not None:
        row, column = body.start_point
        if grammar is PYTHON:
            head = lines[first : max(first + 1, min(row, first + _MOST_HEAD_LINES))]
            # Comments between head and body belong to neither.
            while len(head) > 1 and head[-1].lstrip().startswith("#"):
                head.pop()
            head += _docstring(body, first, lines)
        elif row - first < _MOST_HEAD_LINES:
            cut = lines[row].encode("utf-8", "replace")[:column].decode("utf-8", "replace")
            head = [*lines[first:row], cut.rstrip()]
    if grammar is not PYTHON:
        head = _comment(node, lines) + [line for line in head if line.strip()]
    return "\n".join(head)[:_MOST_HEAD_CHARS]


def _docstring(body: Node, head_row: int, lines: list[str]) -> list[str]:
    statement = body.named_children[0] if body.named_children else None
    if statement is None or statement.type != "expression_statement":
        return []
    string = statement.named_children[0] if statement.named_children else None
    if string is None or string.type != "string":
        return []
    row = string.start_point.row
    if row == head_row:
        return []
    line = lines[row].rstrip()
    if string.end_point.row == row:
        return [line]
    quotes = "'''" if line.lstrip("rRuUbB \t").startswith("'''") else '"""'
    return [line + quotes]


def _comment(node: Node, lines: list[str]) -> list[str]:
    """The first line that says something of the comment above a definition."""
    row = node.start_point.row
    while (outer := node.parent) and outer.parent and outer.start_point.row == row:
        # What exports it, or makes a template of it.
        node = outer
    before = node.prev_named_sibling
    while before is not None and "comment" in before.type:
        earlier = before.prev_named_sibling
        if earlier is None or "comment" not in earlier.type:
            break
        before = earlier
    if before is None or "comment" not in before.type:
        return []
    first, last = _rows(before)
    for row in range(first, last + 1):
        words = lines[row].strip().strip("/*!").strip()
        if words:
            indentation = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
            return [f"{indentation}// {words}"]
    return []
