from __future__ import annotations

import pytest

from completion.trigger import closing_only, skip_document, skip_position
from completion.types import HiddenReason, Trigger, TriggerPolicy

PYTHON = frozenset({"python"})


def reason(
    right: str = "",
    *,
    text: str = "x = 1\n",
    language: str = "python",
    trigger: Trigger = Trigger.AUTOMATIC,
    policy: TriggerPolicy | None = None,
) -> HiddenReason | None:
    policy = policy or TriggerPolicy()
    skipped = skip_document(text, language, policy, PYTHON) or skip_position(right, trigger, policy)
    if skipped:
        assert skipped.detail
    return skipped.reason if skipped else None


@pytest.mark.parametrize("right", ["", "   ", ")", '")', "):", "])\t", "};", " + -", "'`>"])
def test_runs_before_closers_and_few_other_characters(right: str) -> None:
    assert reason(right) is None


@pytest.mark.parametrize("right", ["a", ")a", " = value", "_", "é", "# note", "+-*/+-*/+"])
def test_skips_before_words_and_many_other_characters(right: str) -> None:
    assert reason(right) is HiddenReason.MID_WORD
    assert reason(right, trigger=Trigger.INVOKED) is None


def test_language_is_the_models_or_the_policys() -> None:
    assert reason(language="rust") is HiddenReason.LANGUAGE
    assert reason(language="rust", trigger=Trigger.INVOKED) is HiddenReason.LANGUAGE
    policy = TriggerPolicy(languages=frozenset({"rust"}))
    assert reason(language="rust", policy=policy) is None
    assert reason(language="python", policy=policy) is HiddenReason.LANGUAGE


@pytest.mark.parametrize(
    ("text", "large"), [("a" * 12, False), ("a" * 13, True), ("é" * 6, False), ("é" * 7, True)]
)
def test_size_is_counted_in_bytes(text: str, large: bool) -> None:
    expected = HiddenReason.TOO_LARGE if large else None
    assert reason(text=text, policy=TriggerPolicy(max_file_bytes=12)) is expected


def test_lone_surrogates_do_not_break_the_size_check() -> None:
    assert reason(text="\ud800" * 3, policy=TriggerPolicy(max_file_bytes=4)) is None


def test_disabled_runs_always() -> None:
    policy = TriggerPolicy(enabled=False, max_file_bytes=1)
    assert reason("word", language="rust", policy=policy) is None


def test_closing_only_is_bounded() -> None:
    assert closing_only("")
    assert closing_only(")" * 8)
    assert not closing_only(")" * 9)
    assert not closing_only("x)")
