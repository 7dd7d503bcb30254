"""Work done while the user rests, and what the next keystrokes get from it."""

from __future__ import annotations

import pytest

from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    DecodePolicy,
    Hidden,
    HiddenReason,
    Policies,
    Source,
    Suggestion,
    TriggerPolicy,
    WindowPolicy,
)
from models.backend import StopReason
from models.errors import PromptError
from tests.completion.scripted import ScriptedBackend

CURSOR = "█"
LONG = "".join(f"value_{n} = compute({n})\n" for n in range(60))
NARROW = Policies(
    window=WindowPolicy(
        prefix_tokens=300, fresh_prefix_tokens=40, rest_prefix_tokens=150, suffix_tokens=30
    )
)


def request(text: str, policies: Policies | None = None) -> CompletionRequest:
    before, after = text.split(CURSOR)
    return CompletionRequest(
        before + after, len(before), uri="file:///a.py", policies=policies or Policies()
    )


def test_the_next_line_is_ready_when_it_is_begun() -> None:
    backend = ScriptedBackend("run(x):", "\n        return one", logprobs=(-0.1,) * 9)
    engine = CompletionEngine(backend)
    asked = request("def █\n")
    first = engine.complete(asked)
    assert isinstance(first, Suggestion)
    engine.prepare(asked)
    imagined = backend.requests[1]
    assert [one.ahead for one in backend.requests] == [False, True]
    assert backend.tokenizer.decode(imagined.prompt_ids).endswith("def run(x")
    assert imagined.heal == b"):"
    done = engine.complete(request("def run(x):█\n"))
    assert isinstance(done, Hidden)
    assert done.reason is HiddenReason.EXHAUSTED
    for typed, rest in (("        ", "return one"), ("        ret", "urn one")):
        outcome = engine.complete(request(f"def run(x):\n{typed}█\n"))
        assert isinstance(outcome, Suggestion)
        assert outcome.insert == rest
        assert outcome.record.source is Source.TYPED_THROUGH
    assert outcome.suggestion_id != first.suggestion_id
    assert len(backend.requests) == 2


def test_the_next_line_is_decoded_once() -> None:
    backend = ScriptedBackend("run(x):", "\n    return one")
    engine = CompletionEngine(backend)
    asked = request("def █\n")
    engine.complete(asked)
    for _ in range(3):
        engine.prepare(asked)
    assert len(backend.requests) == 2


def test_behind_a_suggestion_of_several_lines_nothing_is_decoded() -> None:
    backend = ScriptedBackend("run(x):\n    return one")
    engine = CompletionEngine(backend)
    asked = request("def █\n", Policies(decode=DecodePolicy(max_lines=3)))
    assert isinstance(engine.complete(asked), Suggestion)
    engine.prepare(asked)
    assert len(backend.requests) == 1


def test_an_uncertain_next_line_is_not_shown() -> None:
    backend = ScriptedBackend("run(x):", "\n    return one")
    engine = CompletionEngine(backend)
    asked = request("def █\n")
    engine.complete(asked)
    backend.logprobs = (-0.1,) * 3 + (-5.0,) * 3
    engine.prepare(asked)
    outcome = engine.complete(request("def run(x):\n    █\n"))
    assert isinstance(outcome, Hidden)
    assert outcome.reason is HiddenReason.LOW_CONFIDENCE
    assert len(backend.requests) == 2


@pytest.mark.parametrize("typed", ["def run(x):\n█\n", "other█\n", "█\n"])
def test_a_next_line_that_does_not_fit_is_dropped(typed: str) -> None:
    backend = ScriptedBackend("run(x):", "\n    return one", "two()", "three()")
    engine = CompletionEngine(backend)
    asked = request("def █\n")
    engine.complete(asked)
    engine.prepare(asked)
    engine.complete(request("zzz█\n"))
    outcome = engine.complete(request(typed))
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "three()"


@pytest.mark.parametrize("continuation", ["", " + 1", "\n\n\nx = 1", "\n"])
def test_what_is_no_next_line_is_dropped(continuation: str) -> None:
    backend = ScriptedBackend("run(x)", continuation, "other()")
    engine = CompletionEngine(backend)
    asked = request("x = █\n")
    engine.complete(asked)
    engine.prepare(asked)
    outcome = engine.complete(request("x = run(x)\n█\n"))
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "other()"


def test_an_aborted_line_is_finished_and_shown_once_its_uncertain_part_is_typed() -> None:
    # The first token covers the healed bracket, the second one the uncertain "zz".
    backend = ScriptedBackend("zz", stop=StopReason.UNLIKELY, logprobs=(-0.1, -3.0))
    engine = CompletionEngine(backend)
    asked = request("x(█\n")
    engine.complete(asked)
    backend.answers.append("zz, 1, 2)")
    backend.stop, backend.logprobs = StopReason.NEWLINE, (-0.1, -3.0, -0.1, -0.1)
    engine.prepare(asked)
    assert backend.requests[1].min_logprob is None
    assert isinstance(engine.complete(asked), Hidden)
    outcome = engine.complete(request("x(zz█\n"))
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == ", 1, 2)"
    assert len(backend.requests) == 2


def test_a_short_window_is_extended_in_a_second_cache() -> None:
    # The empty ones are what follows each suggestion.
    backend = ScriptedBackend("one()", "", "two()", "")
    engine = CompletionEngine(backend)
    asked = request(LONG + "x = █\nlast\n", NARROW)
    engine.complete(asked)
    engine.prepare(asked)
    short, _, long = backend.requests
    assert len(short.prompt_ids) < 80 < 130 < len(long.prompt_ids) <= 180
    assert long.max_tokens == 0
    assert long.cache_key != short.cache_key
    assert backend.renamed == [(long.cache_key, short.cache_key)]
    engine.complete(request(LONG + "x = 1 + █\nlast\n", NARROW))
    shared = len(long.prompt_ids) - 1
    assert backend.requests[-1].prompt_ids[:shared] == long.prompt_ids[:shared]
    engine.prepare(request(LONG + "x = 1 + █\nlast\n", NARROW))
    assert len(backend.renamed) == 1, "the window is good now"


def test_what_there_was_no_time_to_read_is_read_in_rest() -> None:
    backend = ScriptedBackend("one()", "", "two()")
    backend.affordable = 40
    engine = CompletionEngine(backend)
    asked = request(LONG + "x = █\n" + LONG, NARROW)
    engine.complete(asked)
    engine.prepare(asked)
    engine.complete(request(LONG + "x = 1 + █\n" + LONG, NARROW))
    prefix = backend.tokenizer.special.prefix
    suffixes = [sent.prompt_ids.index(prefix) - 2 for sent in backend.requests]
    assert suffixes[0] < 20 < suffixes[2] == suffixes[3] == 30


def test_a_window_that_is_nearly_full_is_cut_in_rest() -> None:
    backend = ScriptedBackend(*["ab"] * 200, stop=StopReason.MAX_TOKENS)
    engine = CompletionEngine(backend)
    text, longest = LONG, 0
    for n in range(60):
        text += f"value_{n} = compute({n})\n"
        asked = request(text + "█\n", NARROW)
        engine.complete(asked)
        prompt = len(backend.requests[-1].prompt_ids)
        assert prompt >= longest * 0.4 or backend.renamed
        longest = max(longest, prompt)
        engine.prepare(asked)
    assert longest < 300
    assert len(backend.renamed) > 2


def test_an_interrupted_window_is_not_used_and_goes_on_where_it_stopped() -> None:
    backend = ScriptedBackend("one()", "", "two()", "", "")
    engine = CompletionEngine(backend)
    asked = request(LONG + "x = █\nlast\n", NARROW)
    engine.complete(asked)
    generate = backend.generate
    backend.generate = lambda sent: (  # type: ignore[method-assign]
        sent.cancel.set() if sent.max_tokens == 0 else None,
        generate(sent),
    )[1]
    engine.prepare(asked)
    assert backend.renamed == []
    begun = backend.requests[-1].prompt_ids
    backend.generate = generate  # type: ignore[method-assign]
    onward = request(LONG + "x = 1 + █\nlast\n", NARROW)
    engine.complete(onward)
    assert len(backend.requests[-1].prompt_ids) < 80
    engine.prepare(onward)
    assert backend.requests[-1].prompt_ids[: len(begun) - 1] == begun[:-1]
    assert len(backend.renamed) == 1


def test_nothing_is_done_for_a_cancelled_rest_a_foreign_language_or_a_benchmark() -> None:
    backend = ScriptedBackend("one()")
    engine = CompletionEngine(backend)
    asked = request(LONG + "x = █\n", NARROW)
    engine.complete(asked)
    asked.cancel.set()
    engine.prepare(asked)
    engine.prepare(request("x = █", Policies(trigger=TriggerPolicy(enabled=False))))
    engine.prepare(CompletionRequest("x", 1, language="rust"))
    assert [sent.max_tokens for sent in backend.requests if sent.max_tokens] == [48 + 1]
    assert backend.renamed == []


def test_a_failing_model_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend("one()", PromptError("the prompt is odd"), "two()")
    engine = CompletionEngine(backend)
    asked = request("x = █\n")
    engine.complete(asked)
    engine.prepare(asked)
    assert "the prompt is odd" in caplog.text
    assert isinstance(engine.complete(request("x = 1 + █\n")), Suggestion)


def test_a_closed_document_is_forgotten() -> None:
    backend = ScriptedBackend("run(x):", "\n    return one", "x()", "y()")
    engine = CompletionEngine(backend)
    asked = request("def █\n")
    engine.complete(asked)
    engine.prepare(asked)
    engine.forget(asked.uri)
    engine.complete(asked)
    outcome = engine.complete(request("def run(x):\n    █\n"))
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "y()"
