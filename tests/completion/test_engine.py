from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

import pytest

from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    DecodePolicy,
    Hidden,
    HiddenReason,
    Mode,
    Outcome,
    Policies,
    ShapePolicy,
    Source,
    Suggestion,
    Trigger,
    TriggerPolicy,
)
from models.backend import StopReason
from models.errors import PromptError
from tests.completion.scripted import ScriptedBackend

CURSOR = "█"
RAW = Policies(
    trigger=TriggerPolicy(enabled=False),
    shape=ShapePolicy(enabled=False),
    confidence=ConfidencePolicy(min_logprob=None),
)


def request(marked: str, **changes: object) -> CompletionRequest:
    """A request for the document `marked`, the cursor at █."""
    offset = marked.index(CURSOR)
    made = CompletionRequest(marked.replace(CURSOR, ""), offset, uri="file:///a.py")
    return replace(made, **changes)


def applied(asked: CompletionRequest, outcome: Outcome) -> str:
    """The document after accepting."""
    assert isinstance(outcome, Suggestion), outcome
    assert outcome.start <= asked.offset <= outcome.end
    return asked.text[: outcome.start] + outcome.insert + asked.text[outcome.end :]


def reason(outcome: Outcome) -> HiddenReason:
    assert isinstance(outcome, Hidden), outcome
    assert outcome.detail
    return outcome.reason


def test_a_suggestion_and_its_record() -> None:
    backend = ScriptedBackend("compute(1)")
    asked = request("x = █\ny = 2\n")
    outcome = CompletionEngine(backend).complete(asked)
    assert applied(asked, outcome) == "x = compute(1)\ny = 2\n"
    record = outcome.record
    assert record.source is Source.MODEL
    assert record.stop == "newline"
    assert record.logprob_sum == pytest.approx(-0.2)
    assert record.prompt_tokens == len(backend.requests[0].prompt_ids)
    assert (record.prefill_ms, record.decode_ms) == (1.0, 2.0)
    assert record.total_ms >= record.prompt_ms + record.shape_ms


def test_the_decode_policy_reaches_the_backend() -> None:
    backend = ScriptedBackend("a()")
    policies = Policies(decode=DecodePolicy(max_tokens=7, max_lines=3, deadline_ms=5000.0))
    received = time.perf_counter()
    asked = request("x = █\n", policies=policies, received=received)
    CompletionEngine(backend).complete(asked)
    (sent,) = backend.requests
    assert (sent.max_tokens, sent.max_lines, sent.cache_key) == (
        7 + 1,
        3,
        asked.uri,
    )  # one is healed
    assert sent.cancel is asked.cancel
    assert sent.deadline is not None
    assert math.isclose(sent.deadline, received + 5.0)


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_and_mark_are_normalised_and_restored(ending: str) -> None:
    backend = ScriptedBackend("if y:\n\treturn 1")
    policies = Policies(decode=DecodePolicy(max_lines=4))
    text = f"\ufeffx = 1{ending}{CURSOR}{ending}end{ending}"
    asked = request(text, policies=policies)
    done = applied(asked, CompletionEngine(backend).complete(asked))
    assert done == f"\ufeffx = 1{ending}if y:{ending}\treturn 1{ending}end{ending}"
    decoded = backend.tokenizer.decode(backend.requests[0].prompt_ids)
    assert "\r" not in decoded
    assert "\ufeff" not in decoded


def test_trigger_reasons_come_before_the_model() -> None:
    backend = ScriptedBackend()
    engine = CompletionEngine(backend)
    small = Policies(trigger=TriggerPolicy(max_file_bytes=3))
    assert reason(engine.complete(request("x = █ word"))) is HiddenReason.MID_WORD
    assert reason(engine.complete(request("x = █", language="rust"))) is HiddenReason.LANGUAGE
    assert reason(engine.complete(request("x = █", policies=small))) is HiddenReason.TOO_LARGE
    assert backend.requests == []


def test_an_invoked_request_may_stand_in_a_line() -> None:
    asked = request("x = █ + tax\n", trigger=Trigger.INVOKED)
    engine = CompletionEngine(ScriptedBackend("price + tax"))
    assert applied(asked, engine.complete(asked)) == "x = price + tax\n"


def test_typing_through_keeps_the_id_and_spares_the_model() -> None:
    backend = ScriptedBackend("compute(a, b)", "return x")
    engine = CompletionEngine(backend)
    first = engine.complete(request("x = █\n"))
    assert isinstance(first, Suggestion)
    for typed in ("com", "compute(", "comp", "compute(a, b"):
        asked = request(f"x = {typed}█\n")
        again = engine.complete(asked)
        assert applied(asked, again) == "x = compute(a, b)\n"
        assert isinstance(again, Suggestion)
        assert again.suggestion_id == first.suggestion_id
        assert again.record.source is Source.TYPED_THROUGH
    # The editor closes the bracket that the user types.
    asked = request("x = compute(█)\n")
    assert applied(asked, engine.complete(asked)) == "x = compute(a, b)\n"
    full = request("x = compute(a, b)█\n")
    assert reason(engine.complete(full)) is HiddenReason.EXHAUSTED
    assert len(backend.requests) == 1
    other = request("x = compute(a, b)\n█\n")
    assert applied(other, engine.complete(other)) == "x = compute(a, b)\nreturn x\n"


def test_a_slip_that_is_deleted_and_a_look_elsewhere_need_no_model() -> None:
    backend = ScriptedBackend("compute()", "ueue()", "other()")
    engine = CompletionEngine(backend)
    first = engine.complete(request("x = █\ny = 1\n"))
    engine.complete(request("x = q█\ny = 1\n"))
    engine.complete(request("x = \ny = █1\n", trigger=Trigger.INVOKED))
    assert len(backend.requests) == 3
    asked = request("x = █\ny = 1\n")
    again = engine.complete(asked)
    assert applied(asked, again) == "x = compute()\ny = 1\n"
    assert isinstance(first, Suggestion)
    assert isinstance(again, Suggestion)
    assert again.suggestion_id != first.suggestion_id
    assert again.record.source is Source.CACHE
    typed = engine.complete(request("x = comp█\ny = 1\n"))
    assert isinstance(typed, Suggestion)
    assert typed.suggestion_id == again.suggestion_id
    assert typed.record.source is Source.TYPED_THROUGH
    assert len(backend.requests) == 3


def test_an_explicit_request_runs_even_where_a_suggestion_was_exhausted() -> None:
    backend = ScriptedBackend("one()", " + two()")
    engine = CompletionEngine(backend)
    engine.complete(request("x = █\n"))
    asked = request("x = one()█\n", trigger=Trigger.INVOKED)
    assert applied(asked, engine.complete(asked)) == "x = one() + two()\n"


def test_an_accepted_suggestion_is_not_offered_again() -> None:
    backend = ScriptedBackend("compute()", "other()")
    engine = CompletionEngine(backend)
    first = engine.complete(request("x = █\n"))
    assert isinstance(first, Suggestion)
    engine.accepted(first.suggestion_id)
    assert reason(engine.complete(request("x = compute()█\n"))) is HiddenReason.EXHAUSTED
    asked = request("x = █\n")
    assert applied(asked, engine.complete(asked)) == "x = other()\n"


def test_auto_closed_brackets_stay_out_of_the_prompt() -> None:
    backend = ScriptedBackend("a, b)", "zed)")
    engine = CompletionEngine(backend)
    asked = request("f(█)\nend\n")
    assert applied(asked, engine.complete(asked)) == "f(a, b)\nend\n"
    engine.complete(request("f(█\nend\n", uri="other"))
    assert backend.requests[0].prompt_ids == backend.requests[1].prompt_ids


def test_low_confidence_is_hidden() -> None:
    backend = ScriptedBackend("compute()", logprobs=(-1.0, -1.0))
    outcome = CompletionEngine(backend).complete(request("x = █\n"))
    assert reason(outcome) is HiddenReason.LOW_CONFIDENCE
    assert outcome.record.logprob_sum == pytest.approx(-2.0)


def test_an_uncertain_suggestion_is_shown_once_its_uncertain_part_is_typed() -> None:
    # The first token covers the healed bracket, the second one the uncertain "zz".
    backend = ScriptedBackend("zz, 1, 2)", logprobs=(-0.1, -3.0, -0.1, -0.1))
    engine = CompletionEngine(backend)
    assert reason(engine.complete(request("x(█\n"))) is HiddenReason.LOW_CONFIDENCE
    assert reason(engine.complete(request("x(█\n"))) is HiddenReason.LOW_CONFIDENCE
    asked = request("x(zz█\n")
    outcome = engine.complete(asked)
    assert applied(asked, outcome) == "x(zz, 1, 2)\n"
    assert outcome.record.source is Source.TYPED_THROUGH
    assert len(backend.requests) == 1
    # Once shown it stays, also when the user deletes some of it again.
    asked = request("x(█\n")
    assert applied(asked, engine.complete(asked)) == "x(zz, 1, 2)\n"
    assert len(backend.requests) == 1


def test_an_uncertain_decode_may_be_given_up() -> None:
    backend = ScriptedBackend("compute()")
    policies = Policies(confidence=ConfidencePolicy(min_logprob=-0.7))
    CompletionEngine(backend).complete(request("x = █\n", policies=policies))
    assert backend.requests[0].min_logprob == -0.7


def test_an_aborted_suggestion_spares_the_model_only_where_it_stays_uncertain() -> None:
    # The first token covers the healed bracket, the second one the uncertain "zz".
    aborted = ScriptedBackend("zz", "whole(1)", stop=StopReason.UNLIKELY, logprobs=(-0.1, -3.0))
    engine = CompletionEngine(aborted)
    for _ in range(2):
        outcome = engine.complete(request("x(█\n"))
        assert reason(outcome) is HiddenReason.LOW_CONFIDENCE
        assert outcome.record.logprob_sum == pytest.approx(-3.1)
    assert len(aborted.requests) == 1
    # All that was uncertain is typed now; what follows was never decoded.
    aborted.stop, aborted.logprobs = StopReason.NEWLINE, (-0.1, -0.1)
    asked = request("x(zz█\n")
    assert applied(asked, engine.complete(asked)) == "x(zzwhole(1)\n"
    assert len(aborted.requests) == 2


def test_aborted_text_is_never_shown_even_when_what_is_known_of_it_is_certain() -> None:
    backend = ScriptedBackend(
        "a, zz", "tail", stop=StopReason.UNLIKELY, logprobs=(-0.1, -3.0, -0.1, -0.1, -0.1, -0.1)
    )
    engine = CompletionEngine(backend)
    assert reason(engine.complete(request("x(█\n"))) is HiddenReason.LOW_CONFIDENCE
    backend.stop, backend.logprobs = StopReason.NEWLINE, (-0.1, -0.1)
    asked = request("x(a, █\n")
    assert applied(asked, engine.complete(asked)) == "x(a, tail\n"


def test_a_suggestion_given_up_before_its_first_character_is_remembered_too() -> None:
    backend = ScriptedBackend("", "compute()", stop=StopReason.UNLIKELY, logprobs=(-3.0,))
    engine = CompletionEngine(backend)
    for _ in range(2):
        assert reason(engine.complete(request("x = █\n"))) is HiddenReason.LOW_CONFIDENCE
    assert len(backend.requests) == 1
    backend.stop, backend.logprobs = StopReason.NEWLINE, (-0.1, -0.1)
    asked = request("x = c█\n")
    assert applied(asked, engine.complete(asked)) == "x = ccompute()\n"


def test_drafts_are_the_policys_choice_and_are_recorded() -> None:
    backend = ScriptedBackend("compute()")
    policies = Policies(decode=DecodePolicy(drafts=False))
    outcome = CompletionEngine(backend).complete(request("x = █\n", policies=policies))
    assert backend.requests[0].drafts is False
    assert (outcome.record.drafted_tokens, outcome.record.accepted_tokens) == (4, 3)


def test_a_suggestion_that_was_cut_short_goes_on_where_it_stops() -> None:
    backend = ScriptedBackend("compute", "(1, 2)", stop=StopReason.MAX_TOKENS)
    engine = CompletionEngine(backend)
    engine.complete(request("x = █\n"))
    asked = request("x = compute█\n")
    assert applied(asked, engine.complete(asked)) == "x = compute(1, 2)\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", HiddenReason.EMPTY),
        ("\nreturn 1", HiddenReason.EMPTY),
        ("ab ab ab ab ab ab ab", HiddenReason.REPETITION),
        ("1", HiddenReason.EMPTY),
    ],
)
def test_useless_text_is_hidden(answer: str, expected: HiddenReason) -> None:
    engine = CompletionEngine(ScriptedBackend(answer))
    assert reason(engine.complete(request("x = █\n"))) is expected


def test_repeating_the_next_line_is_hidden() -> None:
    engine = CompletionEngine(ScriptedBackend("return x"))
    outcome = engine.complete(request("def f():\n    █\n    return x\n"))
    assert reason(outcome) is HiddenReason.REPEATS_SUFFIX


def test_the_deadline_bounds_what_is_read_anew() -> None:
    text = "".join(f"value_{n} = compute({n})\n" for n in range(60)) + "x = █\n"
    backend = ScriptedBackend("one()", "one()")
    backend.affordable = 80
    CompletionEngine(backend).complete(request(text))
    no_deadline = Policies(decode=DecodePolicy(deadline_ms=None))
    CompletionEngine(backend).complete(request(text, policies=no_deadline))
    assert len(backend.requests[0].prompt_ids) < 90 < len(backend.requests[1].prompt_ids)


def test_a_deadline_without_text_says_so_and_with_text_shows_it() -> None:
    engine = CompletionEngine(ScriptedBackend("", "compute", stop=StopReason.DEADLINE))
    assert reason(engine.complete(request("x = █\n"))) is HiddenReason.DEADLINE
    asked = request("x = █\n")
    assert applied(asked, engine.complete(asked)) == "x = compute\n"


def test_a_request_that_waited_too_long_does_not_run() -> None:
    backend = ScriptedBackend()
    late = request("x = █\n", received=time.perf_counter() - 10)
    assert reason(CompletionEngine(backend).complete(late)) is HiddenReason.DEADLINE
    assert backend.requests == []


def test_cancelled_before_and_while_decoding() -> None:
    backend = ScriptedBackend("compute()")
    engine = CompletionEngine(backend)
    asked = request("x = █\n")
    asked.cancel.set()
    assert reason(engine.complete(asked)) is HiddenReason.CANCELLED
    assert backend.requests == []

    while_decoding = request("x = █\n")
    generate = backend.generate
    backend.generate = lambda sent: (sent.cancel.set(), generate(sent))[1]  # type: ignore[method-assign]
    assert reason(engine.complete(while_decoding)) is HiddenReason.CANCELLED
    assert len(backend.requests) == 1


def test_a_failing_model_is_reported_and_the_engine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ScriptedBackend(PromptError("the prompt is odd"), "compute()")
    engine = CompletionEngine(backend)
    with caplog.at_level(logging.WARNING):
        outcome = engine.complete(request("x = █\n"))
    assert outcome == Hidden(HiddenReason.ERROR, "the prompt is odd", outcome.record)
    assert "the prompt is odd" in caplog.text
    asked = request("x = █\n")
    assert applied(asked, engine.complete(asked)) == "x = compute()\n"


@pytest.mark.parametrize("offset", [-1, 99])
def test_a_cursor_outside_the_document_is_an_error(offset: int) -> None:
    outcome = CompletionEngine(ScriptedBackend()).complete(CompletionRequest("x = 1", offset))
    assert reason(outcome) is HiddenReason.ERROR


@pytest.mark.parametrize("mode", list(Mode))
def test_without_policies_the_raw_decode_comes_back(mode: Mode) -> None:
    raw = " ab ab ab ab ab ab ab))\n\n  "
    backend = ScriptedBackend(raw, raw, "", logprobs=(-50.0,))
    engine = CompletionEngine(backend)
    policies = replace(RAW, decode=DecodePolicy(mode=mode, max_lines=0, deadline_ms=None))
    asked = request("x = █word\n", language="rust", policies=policies)
    for _ in range(2):
        outcome = engine.complete(asked)
        assert isinstance(outcome, Suggestion)
        assert (outcome.insert, outcome.start, outcome.end) == (raw, 4, 4)
        assert outcome.record.source is Source.MODEL
    assert reason(engine.complete(asked)) is HiddenReason.EMPTY
    special = backend.tokenizer.special
    assert (special.middle in backend.requests[0].prompt_ids) is (mode is Mode.SEP)
    assert bool(backend.requests[0].heal) is (mode is Mode.JOINT)


def test_lines_end_where_they_repeat_the_document() -> None:
    backend = ScriptedBackend("    total = 1\n    return total\nmore()")
    policies = replace(RAW, decode=DecodePolicy(mode=Mode.SEP, max_lines=0, deadline_ms=None))
    outcome = CompletionEngine(backend).complete(
        request("def f():\n█\n    return total\n", policies=policies)
    )
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == "    total = 1"
    ended = backend.requests[0].ended
    assert ended is not None
    assert ended("    total = 1\n    return total\n")
    assert not ended("    total = 1\n    return total")


def test_the_raw_prompt_has_the_whole_suffix() -> None:
    backend = ScriptedBackend("a")
    CompletionEngine(backend).complete(request("f(█)\n", policies=RAW))
    ids = backend.requests[0].prompt_ids
    suffix = ids[2 : ids.index(backend.tokenizer.special.prefix)]
    assert backend.tokenizer.decode(suffix) == ")\n"


def test_forgetting_a_document_reaches_every_cache() -> None:
    backend = ScriptedBackend("compute()", "other()")
    engine = CompletionEngine(backend)
    engine.complete(request("x = █\n"))
    engine.forget("file:///a.py")
    assert "file:///a.py" in backend.forgotten
    asked = request("x = █\n")
    assert applied(asked, engine.complete(asked)) == "x = other()\n"
