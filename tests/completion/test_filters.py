"""The filters and the stops of blocks, by example (`golden/filters`, `golden/blocks`)."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.block import (
    before_misfit,
    before_repeat,
    block_end,
    repeat_rule,
    stop_below,
    trim,
)
from completion.filters import looks_secret, reject
from completion.parse import breaks, in_empty_block
from completion.region import region
from completion.shape import Shaped, shape
from completion.types import ConfidencePolicy, HiddenReason
from models.backend import GenerateResult, StopReason

GOLDEN = Path(__file__).parent / "golden"
CURSOR = "█"


def cases(name: str) -> list[Any]:
    tables = tomllib.loads((GOLDEN / name).read_text(encoding="utf-8"))["case"]
    return [pytest.param(case, id=case["name"]) for case in tables]


@pytest.mark.parametrize("case", cases("filters/parse.toml") + cases("filters/secrets.toml"))
def test_filters(case: dict[str, Any]) -> None:
    prefix, suffix = case["input"].split(CURSOR)
    shaped = shape(case["raw"], prefix, suffix)
    assert isinstance(shaped, Shaped)
    rejected = reject(prefix, shaped.insert, suffix, shaped.replace_right)
    assert (rejected.value if rejected else None) == case.get("hidden")


@pytest.mark.parametrize("case", cases("blocks/open.toml"))
def test_open_blocks(case: dict[str, Any]) -> None:
    prefix, suffix = case["input"].split(CURSOR)
    assert in_empty_block(prefix, suffix) is case["open"]


def decoded(text: str, pieces: list[str], logprobs: list[float], stop: str) -> GenerateResult:
    return GenerateResult(
        text=text,
        token_ids=tuple(range(len(pieces) - 1)),
        logprobs=tuple(logprobs),
        stop=StopReason(stop),
        prompt_tokens=1,
        reused_tokens=0,
        prefill_ms=0.0,
        decode_ms=0.0,
    )


@pytest.mark.parametrize("case", cases("blocks/repeats.toml"))
def test_repeats_of_the_document(case: dict[str, Any]) -> None:
    raw, expected = case["raw"], case["expected"]
    suffix = case["input"].split(CURSOR)[1]
    # A token for each character, and the one that ends it.
    result = decoded(raw, [*raw, ""], [-0.01] * len(raw) + [0.0], "end_of_middle")
    cut = before_repeat(result, [1] * len(raw), 0, suffix)
    assert cut.text == expected
    assert len(cut.token_ids) == len(expected)
    ended = repeat_rule(suffix)
    stops = [end for end in range(len(raw) + 1) if ended is not None and ended(raw[:end])]
    # Nothing is given up before what repeats is whole, and then at once.
    assert not stops or raw[: stops[0]] == expected + stop_below(suffix)


@pytest.mark.parametrize("case", cases("blocks/misfits.toml"))
def test_lines_that_do_not_fit_into_the_document(case: dict[str, Any]) -> None:
    prefix, suffix = case["input"].split(CURSOR)
    raw, expected = case["raw"], case["expected"]
    result = decoded(raw, [*raw, ""], [-0.01] * len(raw) + [0.0], "end_of_middle")
    cut = before_misfit(result, [1] * len(raw), 0, prefix, suffix)
    assert cut.text == expected
    assert len(cut.token_ids) == len(expected)


@pytest.mark.parametrize("case", cases("blocks/ends.toml"))
def test_ends_of_blocks(case: dict[str, Any]) -> None:
    prefix, suffix = case["input"].split(CURSOR)
    lines = case["raw"].splitlines(keepends=True)
    # A token for each line, and the one that ends it.
    logprobs = [value for sure in case.get("sure", [-0.01] * len(lines)) for value in (sure, 0.0)]
    pieces = [piece for line in lines for piece in (line.rstrip("\n"), "\n")]
    result = decoded(case["raw"], pieces, logprobs, case.get("stop", "newline"))
    trimmed = trim(
        result,
        [len(piece) for piece in pieces[:-1]],
        0,
        left=prefix.rpartition("\n")[2],
        suffix=suffix,
        confidence=ConfidencePolicy(min_logprob=-1.5),
    )
    assert trimmed.text == case["expected"]
    kept = case["expected"].count("\n") + 1
    assert math.fsum(trimmed.logprobs) == pytest.approx(math.fsum(logprobs[: 2 * kept]))


code = st.text(alphabet="ab =:()[]'\"#\n    ", max_size=60)


@given(text=code, left=st.sampled_from(["", "    ", "x = "]), suffix=code)
def test_a_block_is_the_beginning_of_the_text(text: str, left: str, suffix: str) -> None:
    end = block_end(text, left, suffix)
    assert 0 <= end <= len(text)
    assert text[:end] == text[:end].rstrip()


@given(prefix=code, insert=code, suffix=code)
def test_nothing_is_never_worse_and_nothing_raises(prefix: str, insert: str, suffix: str) -> None:
    assert not breaks(prefix, "", suffix)
    breaks(prefix, insert, suffix)
    in_empty_block(prefix, suffix)
    looks_secret(insert)


LINES = (
    "x = f(1)",
    "return (a, 'b#')",
    "call(\n    one,\n    [two],\n)",
    "if a:\n    b = 1\nelse:\n    b = 2",
    "@wrap(\n    1\n)\ndef g(): ...",
    's = """a (\nb\n"""',
    "y = 1 + \\\n    2  # (",
    "with a as b:\n    pass",
)


@given(
    lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=6),
    indent=st.sampled_from(["", "    ", "\t"]),
    data=st.data(),
)
def test_the_text_that_was_there_is_never_refused(
    lines: list[str], indent: str, data: st.DataObject
) -> None:
    code = "\n".join(f"{indent}{line}" for text in lines for line in text.split("\n")) + "\n"
    text = f"def f():\n{code}" if indent else code
    offset = data.draw(st.integers(0, len(text) - 1))
    end = text.index("\n", offset)
    assert not breaks(text[:offset], text[offset:end], text[end:])


METHOD = '''    def method(self, one):
        """Say (what
        it does.

            def example(
        """
        return call(
            one,
        )

'''


def test_a_long_class_is_cut_where_a_method_begins() -> None:
    prefix = "class A:\n" + METHOD * 120 + METHOD.removesuffix("one,\n        )\n\n")
    before, _ = region(prefix, "\n        )\n")
    assert before.startswith("if 1:\n    def method(self, one):")
    assert prefix.endswith(before.removeprefix("if 1:\n"))
    assert reject(prefix, "one)", "\n        )\n") is HiddenReason.PARSE_ERROR
    assert reject(prefix, "one,", "\n        )\n") is None


def test_a_long_document_is_cut_where_statements_begin() -> None:
    function = "def f():\n    x = [\n1,\n]\n    return x\n\n\n"
    before, after = region(function * 1000 + "y = ", "\n" + function * 1000)
    assert before.startswith("def f():")
    assert before.endswith("y = ")
    assert 1000 < len(before) <= 8000
    assert after.endswith("\n")
    assert len(after) <= 2000
    assert region("a = ", "\n") == ("a = ", "\n")
