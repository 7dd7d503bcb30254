from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from completion import pivot
from completion.engine import CompletionEngine
from completion.prompt import Prompt
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    DecodePolicy,
    Hidden,
    HiddenReason,
    Mode,
    Outcome,
    Pivot,
    PivotPolicy,
    Policies,
    Suggestion,
)
from models.backend import GenerateRequest, GenerateResult, StopReason
from models.generate import decode_greedily
from models.local import LocalBackend
from tests.completion.scripted import ScriptedBackend, small_tokenizer

BLOCK = "def read(path):\n    "
DIRECT, WORDS, CODE = "return None", "read the file", "return path.read_text()"
STRIP = PivotPolicy(Pivot.STRIP, deadline_ms=None, margin=0.2)


def complete(
    backend: ScriptedBackend, policy: PivotPolicy, text: str = BLOCK, **decode: object
) -> Outcome:
    wish = replace(DecodePolicy(block_lines=6, deadline_ms=None), **decode)  # type: ignore[arg-type]
    policies = Policies(decode=wish, pivot=policy, confidence=ConfidencePolicy(None))
    request = CompletionRequest(text + "\n", len(text), policies=policies)
    return CompletionEngine(backend).complete(request)


class Scored(ScriptedBackend):
    """Its answers come with a log-probability a token."""

    def __init__(self, *answers: tuple[str, float], stop: StopReason = StopReason.NEWLINE) -> None:
        super().__init__(*(text for text, _ in answers), stop=stop)
        self.scores = [score for _, score in answers]

    def generate(self, request: GenerateRequest) -> GenerateResult:
        result = super().generate(request)
        score = self.scores[len(self.requests) - 1]
        return replace(result, logprobs=(score,) * len(result.token_ids))


def three(comment: float) -> Scored:
    return Scored((DIRECT, -0.5), (WORDS, -2.0), (CODE, comment))


def test_code_behind_a_comment_is_shown_where_it_wins_by_the_margin() -> None:
    for score, insert, taken in ((-0.1, CODE, "comment"), (-0.4, DIRECT, "direct")):
        outcome = complete(three(score), STRIP)
        assert isinstance(outcome, Suggestion)
        assert (outcome.insert, outcome.record.pivot) == (insert, taken)
        assert outcome.record.pivot_gain == pytest.approx(score + 0.5)


def test_the_comment_is_kept_by_setting() -> None:
    outcome = complete(three(-0.1), replace(STRIP, mode=Pivot.KEEP))
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == f"# {WORDS}\n    {CODE}"
    # The words were forced on the model: only the code is judged.
    assert outcome.record.logprob_sum is not None
    assert outcome.record.logprob_sum > -2.0


def test_both_start_from_the_same_prompt_and_the_second_comment_is_forbidden() -> None:
    backend = three(-0.1)
    complete(backend, STRIP)
    direct, words, code = backend.requests
    assert words.prompt_ids == direct.prompt_ids
    assert words.heal == direct.heal + b"# "
    assert (words.max_lines, words.comments) == (1, True)
    token_bytes = backend.tokenizer.token_bytes
    shared = len(direct.prompt_ids)
    assert code.prompt_ids[:shared] == direct.prompt_ids
    written = b"".join(map(token_bytes, code.prompt_ids[shared:])) + code.heal
    assert written == direct.heal + f"# {WORDS}\n    ".encode()
    assert not code.comments
    assert {request.cache_key for request in backend.requests} == {direct.cache_key}


def test_the_comment_is_at_most_sixteen_tokens() -> None:
    backend = three(-0.1)
    complete(backend, STRIP)
    words = backend.requests[1]
    forced = len(backend.tokenizer.encode(words.heal.decode()))
    assert words.max_tokens == forced + 16


@pytest.mark.parametrize(
    ("text", "decode"),
    [
        (BLOCK, {"block_lines": 1}),
        ("x = ", {}),
        ("def read(path):\n    x = 1\n    ", {}),
    ],
)
def test_where_no_block_begins_there_is_one_candidate(text: str, decode: dict[str, int]) -> None:
    backend = ScriptedBackend(DIRECT)
    complete(backend, STRIP, text, **decode)
    assert len(backend.requests) == 1


def test_off_is_the_default() -> None:
    backend = ScriptedBackend(DIRECT)
    outcome = complete(backend, Policies().pivot)
    assert len(backend.requests) == 1
    assert outcome.record.pivot == ""


@pytest.mark.parametrize(
    ("before", "after", "text", "expected"),
    [
        ("def f():\n    ", "\n", "return 1", True),
        ('def f():\n    """Doc."""\n    ', "\n    return 2\n", "x = 1", True),
        ("def f():\n", "\n", "    return 1", True),
        ("x = 1\n# add one\n", "\ny = 2\n", "x += 1", True),
        ("def f():\n    ", "\n    return 2\n", "x = 1", False),
        ("def f():\n    ", "\n", "# already\n    x", False),
        ("def f():\n    ", "\n", "", False),
        ('x = """text"""\n', "\n", "y = 1", False),
        ("def f():\n    ", " + 1\n", "x", False),
    ],
)
def test_where_a_comment_may_help(before: str, after: str, text: str, expected: bool) -> None:
    decode = DecodePolicy(max_lines=0)
    assert pivot.wanted(STRIP, decode, before, after, text) is expected


def test_a_span_that_begins_with_its_own_indentation() -> None:
    code = "return path.read_text()\n"
    backend = Scored(("    return None\n", -0.5), (WORDS, -2.0), (code, -0.1))
    policies = Policies(
        decode=DecodePolicy(Mode.SEP, max_lines=0, deadline_ms=None),
        pivot=replace(STRIP, mode=Pivot.KEEP),
        confidence=ConfidencePolicy(None),
    )
    policies = replace(policies, shape=replace(policies.shape, enabled=False))
    request = CompletionRequest("def read(path):\n\n", 16, policies=policies)
    outcome = CompletionEngine(backend).complete(request)
    assert isinstance(outcome, Suggestion)
    assert outcome.insert == f"    # {WORDS}\n    {code}"
    assert backend.requests[1].heal == b"\n    # "


def test_without_time_the_direct_candidate_is_shown() -> None:
    backend = three(-0.1)
    outcome = complete(backend, replace(STRIP, deadline_ms=0.001))
    assert isinstance(outcome, Suggestion)
    assert (outcome.insert, outcome.record.pivot) == (DIRECT, "late")
    assert len(backend.requests) == 1


@pytest.mark.parametrize("cut_off", [1, 2])
def test_a_candidate_that_is_cut_off_is_not_shown(cut_off: int) -> None:
    class Late(Scored):
        def generate(self, request: GenerateRequest) -> GenerateResult:
            result = super().generate(request)
            late = len(self.requests) == cut_off + 1
            return replace(result, stop=StopReason.DEADLINE) if late else result

    outcome = complete(Late((DIRECT, -0.5), (WORDS, -2.0), (CODE, -0.1)), STRIP)
    assert isinstance(outcome, Suggestion)
    assert (outcome.insert, outcome.record.pivot_gain) == (DIRECT, None)


@pytest.mark.parametrize("answers", [(DIRECT, "  "), (DIRECT, WORDS, "\n")])
def test_an_empty_comment_or_no_code_behind_it_is_no_candidate(answers: tuple[str, ...]) -> None:
    outcome = complete(ScriptedBackend(*answers), STRIP)
    assert isinstance(outcome, Suggestion)
    assert (outcome.insert, outcome.record.pivot) == (DIRECT, "direct")


def test_a_request_cancelled_meanwhile_shows_nothing() -> None:
    class Cancelled(Scored):
        def generate(self, request: GenerateRequest) -> GenerateResult:
            if self.requests:
                request.cancel.set()
            return super().generate(request)

    outcome = complete(Cancelled((DIRECT, -0.5), (WORDS, -2.0)), STRIP)
    assert isinstance(outcome, Hidden)
    assert outcome.reason is HiddenReason.CANCELLED


def test_a_comment_without_room_in_the_context_is_left() -> None:
    backend = three(-0.1)
    request = GenerateRequest([1] * backend.context_length)
    backend.answers.popleft()
    backend.scores = backend.scores[1:]
    origin = Prompt(request.prompt_ids)
    assert pivot.write(backend, request, origin, BLOCK, DIRECT) is None


def test_what_was_healed_does_not_count_in_the_mean() -> None:
    tokenizer = small_tokenizer()
    ids = tuple(tokenizer.encode("\n    return"))
    healed = len(tokenizer.token_bytes(ids[0]))
    assert tokenizer.token_bytes(ids[0]) == b"\n    "
    logprobs = (-9.0, *[-1.0] * (len(ids) - 1))
    result = GenerateResult("return", ids, logprobs, StopReason.NEWLINE, 1, 0, 0.0, 0.0)
    assert pivot.code_mean(result, b"\n    ", tokenizer) == -1.0
    assert healed == 5
    nothing = replace(result, logprobs=())
    assert pivot.code_mean(nothing, b"", tokenizer) == -math.inf


def test_a_model_without_a_fit_needs_the_common_margin() -> None:
    assert pivot.margin_of("nobody's") == pivot.UNFITTED_MARGIN


def test_lines_may_not_begin_with_a_comment_where_that_is_forbidden() -> None:
    tokenizer = small_tokenizer()
    (mark,), (letter,), (line_break,) = map(tokenizer.encode, ("#", "a", "\n"))
    logits = np.zeros(tokenizer.vocab_size, np.float32)
    logits[[mark, line_break, letter]] = 9.0, 8.0, 7.0

    def decode(comments: bool) -> str:
        request = GenerateRequest([1], max_tokens=4, max_lines=0, comments=comments)
        rows = logits[None]
        return decode_greedily(request, tokenizer, rows, lambda *_: rows, 10).text

    assert decode(comments=True) == "####"
    assert not re.search(r"^\s*#", decode(comments=False), re.MULTILINE)


def test_a_comment_behind_code_is_no_line_of_comment() -> None:
    tokenizer = small_tokenizer()
    (mark,), (letter,) = map(tokenizer.encode, ("#", "a"))
    rows = iter([letter, mark, letter])

    def step(*_: object) -> np.ndarray:
        logits = np.zeros((1, tokenizer.vocab_size), np.float32)
        logits[0, next(rows)] = 9.0
        return logits

    request = GenerateRequest([1], max_tokens=3, max_lines=0, comments=False)
    assert decode_greedily(request, tokenizer, step(), step, 10).text == "a#a"


def test_a_real_model_shares_the_cache_up_to_the_fork(tiny_backend: LocalBackend) -> None:
    reused: list[tuple[int, int]] = []

    class Watched:
        model_id = "tiny"
        languages = tiny_backend.languages
        tokenizer = tiny_backend.tokenizer
        context_length = tiny_backend.context_length
        forget = tiny_backend.forget
        rename = tiny_backend.rename
        holds = tiny_backend.holds
        affordable_tokens = tiny_backend.affordable_tokens

        def generate(self, request: GenerateRequest) -> GenerateResult:
            result = tiny_backend.generate(request)
            reused.append((result.reused_tokens, result.prompt_tokens))
            return result

    wish = DecodePolicy(max_lines=4, max_tokens=24, deadline_ms=None)
    policies = Policies(
        decode=wish, pivot=replace(STRIP, margin=-math.inf), confidence=ConfidencePolicy(None)
    )
    text = "class Reader:\n    def read(self, path):\n        "
    request = CompletionRequest(text + "\n", len(text), uri="pivot", policies=policies)
    CompletionEngine(Watched()).complete(request)
    assert len(reused) >= 2
    assert reused[1][0] == reused[1][1] - 1
