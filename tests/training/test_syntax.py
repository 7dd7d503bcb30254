"""Spans along the syntax are what Python's own parser says."""

import ast

import pytest

from models.training.syntax import Syntax


def test_syntax_spans_are_whole_nodes_whatever_the_script() -> None:
    text = (
        'names = ["ä", "日本"]\n'
        "for key, value in sorted(names):\n"
        '    if "ü" in key and value > 2:\n'
        "        print(key)\n"
        "        total += [x for x in names if x][0]\n"
    )
    control, expressions, statements = (
        [text[a:b] for a, b in spans] for spans in Syntax(text).kinds
    )
    assert control == ["key, value in sorted(names)", '"ü" in key and value > 2', "x in names"]
    assert '["ä", "日本"]' in expressions
    assert "print(key)\n        total += [x for x in names if x][0]" in statements
    assert all(ast.parse(f"({e})") for e in expressions)


@pytest.mark.parametrize("text", ["def f(:\n", "a = 1\r\nb = 2\n", "a = 1\n\f\nb = 2\n", "x\0"])
def test_syntax_of_what_cannot_be_read_has_no_spans(text: str) -> None:
    assert Syntax(text).within(0, len(text)) == []


def test_syntax_spans_within_begin_there(documents) -> None:
    for document in documents:
        middle = len(document.text) // 2
        syntax = Syntax(document.text)
        for spans in syntax.within(middle, len(document.text)):
            assert all(middle <= a < b <= len(document.text) for a, b in spans)
        assert len(syntax.within(0, len(document.text))) > 0
