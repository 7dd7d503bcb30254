from __future__ import annotations

import json

import pytest

from benchmarks.data import BenchmarkDataError
from benchmarks.layouts import layouts, reread
from benchmarks.trace import Glance, Place, Session, keystrokes
from benchmarks.trained import QWEN, foreign_tokenizer
from models.export.fim import detect
from models.template import OWN_TEMPLATE
from models.tokenizer import Tokenizer

LINES = tuple(f"value_{number} = compute({number})" for number in range(80))
PLACE = Place(
    project="p",
    file="a.py",
    sha256="",
    start=40,
    end=43,
    pause_ms=0,
    gaps_ms=(0,) * len(keystrokes(LINES[40:43])),
    glance=Glance(0, 0, 0, 0),
)


@pytest.fixture(scope="module")
def cost() -> dict[str, dict[str, float]]:
    definition = json.loads(foreign_tokenizer(QWEN).to_str())
    found = detect(definition, "qwen2", vocab_size=320, begin=[], end=QWEN[0])
    return {
        name: reread(
            Tokenizer(definition, found.template | {"joint": layout}),
            [Session("p/a.py", LINES, (PLACE,))],
        )
        for name, layout in layouts(found.template).items()
    }


def test_with_the_suffix_behind_the_prefix_every_key_reads_it_again(
    cost: dict[str, dict[str, float]],
) -> None:
    assert cost["psm"]["typed_mean"] > 100
    assert cost["psm"]["enter_mean"] > 100


def test_with_the_line_behind_it_only_a_line_break_does(cost: dict[str, dict[str, float]]) -> None:
    assert cost["line"]["typed_mean"] < 5
    assert cost["line"]["enter_mean"] > 100


def test_with_the_prefix_behind_it_nothing_does(cost: dict[str, dict[str, float]]) -> None:
    assert cost["spm"]["typed_mean"] < 5
    assert cost["spm"]["enter_mean"] < 5


def test_the_layouts_are_those_of_the_import() -> None:
    definition = json.loads(foreign_tokenizer(["<s>", *QWEN]).to_str())
    found = detect(definition, "qwen2", vocab_size=320, begin=["<s>"], end=QWEN[0])
    assert layouts(found.template)["psm"] == found.template["sep"]
    assert layouts(found.template)["line"] == found.template["joint"]
    _, prefix, middle, suffix, _ = QWEN
    assert layouts(found.template)["spm"]["layout"] == [
        "<s>", prefix, suffix, "{suffix}", middle, "{prefix}",
    ]  # fmt: skip


def test_a_model_of_another_order_is_refused() -> None:
    with pytest.raises(BenchmarkDataError, match="not a prefix-first model"):
        layouts(OWN_TEMPLATE)
