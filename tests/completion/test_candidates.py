from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from completion.block import stop_rule
from completion.candidates import branches
from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    DecodePolicy,
    Hidden,
    HiddenReason,
    Policies,
    Suggestion,
    Trigger,
)
from models.backend import GenerateRequest, GenerateResult, StopReason
from models.generate import choose, decode_greedily
from tests.completion.scripted import ScriptedBackend, small_tokenizer

SEVERAL = Policies(decode=DecodePolicy(candidates=3, block_lines=6, deadline_ms=None))


def result(logprobs: tuple[float, ...], ids: tuple[int, ...]) -> GenerateResult:
    return GenerateResult("", ids, logprobs, StopReason.NEWLINE, 1, 0, 0.0, 0.0)


def test_the_most_uncertain_tokens_come_first_and_sure_ones_never() -> None:
    decoded = result((-0.01, -0.5, -2.0, -0.05, -3.0), (11, 12, 13, 14))
    found = branches(decoded, [b"he", b"llo", b" wor", b"ld"], b"he", 3)
    assert [(branch.kept, branch.text, branch.heal, branch.avoid) for branch in found] == [
        ((11, 12), b"llo", b"", 13),
        ((11,), b"", b"", 12),
    ]


def test_a_branch_inside_healed_bytes_heals_the_rest() -> None:
    (branch,) = branches(result((-1.0,), (11,)), [b"print("], b"pri", 3)
    assert (branch.kept, branch.text, branch.heal, branch.avoid) == ((), b"", b"pri", 11)


def test_choosing_something_else() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    assert choose(logits)[0] == 1
    token, logprob = choose(logits, avoid=1)
    assert token == 2
    assert np.isclose(np.exp(logprob), np.exp(2) / np.exp([1, 3, 2]).sum())
    assert choose(logits, avoid=0)[0] == 1
    assert choose(logits, np.array([0, 1]), avoid=1)[0] == 0
    assert choose(logits, np.array([1]), avoid=1) == (1, -np.inf)


def test_only_the_first_token_is_avoided() -> None:
    tokenizer = small_tokenizer()
    first, second = tokenizer.encode(" a b")[:2]
    logits = np.zeros(tokenizer.vocab_size, np.float32)
    logits[first], logits[second] = 5.0, 4.0
    request = GenerateRequest([1], max_tokens=3, avoid=first)
    decoded = decode_greedily(request, tokenizer, logits[None], lambda *_: logits[None], 10)
    assert decoded.token_ids == (second, first, first)


def test_a_decode_ends_when_its_caller_has_enough() -> None:
    tokenizer = small_tokenizer()
    (letter,), (line_break,) = tokenizer.encode("a"), tokenizer.encode("\n")
    script = iter([letter, line_break, letter, line_break, letter])
    seen: list[str] = []

    def step(tokens: object, rejected: int) -> np.ndarray:
        logits = np.full((1, tokenizer.vocab_size), -50.0, np.float32)
        logits[0, next(script)] = 50.0
        return logits

    def ended(text: str) -> bool:
        seen.append(text)
        return text.count("\n") == 2

    request = GenerateRequest([1], max_tokens=9, max_lines=5, ended=ended)
    decoded = decode_greedily(request, tokenizer, step([], 0), step, 20)
    assert decoded.text == "a\na\n"
    assert decoded.stop is StopReason.NEWLINE
    assert seen == ["a\n", "a\na", "a\na\n"]


@pytest.mark.parametrize(
    ("text", "over"),
    [
        ("x = 1\n", False),
        ("x = 1\n    y", False),
        ("x = 1\n    y\n", False),
        ("x = 1\ny", True),
        ("x = 1\n    end", False),
        ("x = 1\n    ends()", False),
        ("x = 1\n    end\n", True),
    ],
)
def test_a_block_stops_when_it_is_over(text: str, over: bool) -> None:
    assert stop_rule("def f():\n    ", "\n    end\n")(text) is over


def test_an_explicit_request_gives_distinct_suggestions() -> None:
    backend = ScriptedBackend("compute(a)", "other(b)", "other(b)", logprobs=(-0.1, -0.5, -0.6))
    asked = CompletionRequest("x = \n", 4, trigger=Trigger.INVOKED, policies=SEVERAL)
    outcome = CompletionEngine(backend).complete(asked)
    assert isinstance(outcome, Suggestion)
    texts = [one.insert for one in (outcome, *outcome.alternatives)]
    assert texts[0] == "compute(a)"
    assert len(texts) == len(set(texts)) >= 2
    assert len({outcome.suggestion_id, *(one.suggestion_id for one in outcome.alternatives)}) > 1
    assert [request.avoid is None for request in backend.requests] == [True, False, False]


def test_an_automatic_request_gives_one() -> None:
    backend = ScriptedBackend("compute(a)", logprobs=(-0.1, -0.5))
    outcome = CompletionEngine(backend).complete(CompletionRequest("x = \n", 4, policies=SEVERAL))
    assert isinstance(outcome, Suggestion)
    assert outcome.alternatives == ()


def test_a_dismissed_suggestion_stays_away_until_the_text_differs() -> None:
    backend = ScriptedBackend("compute(a)", "compute(a)", "other()")
    engine = CompletionEngine(backend)
    asked = CompletionRequest("x = \n", 4)
    first = engine.complete(asked)
    assert isinstance(first, Suggestion)
    engine.dismissed(first.suggestion_id)
    for again in (asked, replace(asked, text="x = com\n", offset=7)):
        outcome = engine.complete(again)
        assert isinstance(outcome, Hidden)
        assert outcome.reason is HiddenReason.DISMISSED
    assert isinstance(engine.complete(replace(asked, trigger=Trigger.INVOKED)), Suggestion)
    other = engine.complete(CompletionRequest("yy = \n", 5))
    assert isinstance(other, Suggestion)


def test_a_block_is_asked_for_where_one_is_open() -> None:
    backend = ScriptedBackend("x = 1\n    return x\nrest", "y = 1")
    engine = CompletionEngine(backend)
    asked = CompletionRequest("def f():\n    \n", 13, policies=SEVERAL)
    outcome = engine.complete(asked)
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "x = 1\n    return x"
    engine.complete(CompletionRequest("y = 2\n\n", 6, uri="other", policies=SEVERAL))
    assert [request.max_lines for request in backend.requests] == [6, 1]
