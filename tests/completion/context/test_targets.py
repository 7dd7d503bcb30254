from __future__ import annotations

import ast
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.context.targets import MOST_LINES, Kind, Miner, syntax_gaps, typed_gap
from tests.completion.scripted import ScriptedBackend

TEXT = """import os


async def e(first, second=2):
    # naïve
    name = first.strip("é ").join([second, os.sep])
    if name:
        return os.path.join(name, mode="x")
    return None


class Holder:
    def __init__(self) -> None: self.value = [(1, 2), 3]
"""


def texts(kind: Kind) -> list[str]:
    return [TEXT[begin:end] for begin, end in syntax_gaps(TEXT)[kind]]


def test_calls_begin_with_their_last_name() -> None:
    assert texts(Kind.CALL) == [
        'strip("é ")', 'join([second, os.sep])', 'join(name, mode="x")'
    ]  # fmt: skip


def test_arguments_are_whole() -> None:
    assert texts(Kind.ARGUMENT) == ['"é "', "[second, os.sep]", "name", 'mode="x"']


def test_definitions_begin_behind_their_keyword() -> None:
    assert texts(Kind.DEFINITION) == [
        "e(first, second=2):", "Holder:", "__init__(self) -> None: self.value = [(1, 2), 3]"
    ]  # fmt: skip


def test_returned_values_and_blocks() -> None:
    assert texts(Kind.RETURN) == ['os.path.join(name, mode="x")', "None"]
    assert [text.split("\n")[0] for text in texts(Kind.BLOCK)] == [
        'name = first.strip("é ").join([second, os.sep])',
        'return os.path.join(name, mode="x")',
        "def __init__(self) -> None: self.value = [(1, 2), 3]",
        "self.value = [(1, 2), 3]",
    ]


def test_gaps_are_no_longer_than_what_is_suggested() -> None:
    long = "def f():\n" + "    x = 1\n" * (MOST_LINES + 1)
    assert set(syntax_gaps(long)) == {Kind.DEFINITION}
    assert Kind.BLOCK in syntax_gaps("def f():\n" + "    x = 1\n" * MOST_LINES)


@pytest.mark.parametrize("text", ["def f(:\n", "x = 1\x00", "x = 1\f\ny = f(2)\n", ""])
def test_what_is_no_plain_python_has_none(text: str) -> None:
    assert syntax_gaps(text) == {}


@given(st.randoms(use_true_random=False), st.sampled_from([Kind.LINE, Kind.WORD, Kind.BRACKET]))
def test_typed_gaps_stand_on_their_line(rng: random.Random, kind: Kind) -> None:
    lines = TEXT.split("\n")
    line = rng.choice([n for n, own in enumerate(lines) if len(own.strip()) > 3])
    gap = typed_gap(TEXT, line, kind, rng)
    if gap is None:
        assert kind is not Kind.LINE
        return
    begin, end = gap
    assert TEXT.count("\n", 0, begin) == line
    assert TEXT[begin:end].strip()
    assert TEXT[begin:end].count("\n") < MOST_LINES
    if kind is Kind.WORD:
        assert TEXT[begin - 1].isalnum() or TEXT[begin - 1] == "_"
        assert TEXT[begin].isalnum() or TEXT[begin] == "_"
        assert TEXT[end] == "\n"
    if kind is Kind.BRACKET:
        assert TEXT[end] in ")]}"
        assert ast.parse(TEXT[:begin] + TEXT[begin:end] + TEXT[end:])


def test_brackets_in_strings_are_no_brackets() -> None:
    rng = random.Random(1)
    assert typed_gap("x = '(a)'", 0, Kind.BRACKET, rng) is None
    found = {typed_gap("f(')', a)", 0, Kind.BRACKET, rng) for _ in range(50)}
    assert {end for gap in found if gap for end in gap[1:]} == {8}


@pytest.mark.parametrize(
    ("answer", "fails"), [("value\n", False), ("valued\n", True), ("", True), ("value + 1\n", True)]
)
def test_the_miner_compares_the_line_that_is_left(answer: str, fails: bool) -> None:
    text = "def double(value):\n    return value\n"
    begin = text.rindex("value")
    miner = Miner(ScriptedBackend(answer))
    assert miner.fails(text, (begin, begin + 5)) is fails
