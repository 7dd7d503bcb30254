"""Drafts: what is guessed, when it is worth it, and that the output never changes."""

import numpy as np
import pytest

from models.backend import GenerateRequest, StopReason
from models.generate import decode_greedily
from models.local import LocalBackend
from models.speculate import MAX_DRAFT, Drafter, Speculation


@pytest.fixture
def drafter(tiny_tokenizer):
    def make(prompt, max_tokens=20, speculation=None):
        return Drafter(speculation or Eager(), tiny_tokenizer, prompt, max_tokens)

    return make


class Eager(Speculation):
    """Verifies every draft whole."""

    def length(self, ngram, available, fed=1):
        return available


def test_what_followed_the_last_tokens_is_drafted(drafter):
    assert drafter([50, 51, 52, 60, 61, 62, 50, 51, 52]).propose(3) == [60, 61, 62]


def test_one_token_is_enough_for_a_match(drafter):
    assert drafter([50, 60, 40, 50]).propose(1) == [60]


def test_a_longer_match_wins_over_a_later_one(drafter):
    prompt = [49, 50, 51, 60, 40, 50, 51, 70, 49, 50, 51]
    assert drafter(prompt).propose(1) == [60]


def test_the_latest_of_equal_matches_wins(drafter):
    assert drafter([50, 51, 60, 50, 51, 70, 41, 50, 51]).propose(1) == [70]


@pytest.mark.parametrize("prompt", [[], [50], [50, 51, 52, 53]])
def test_nothing_is_drafted_without_a_match(drafter, prompt):
    assert drafter(prompt).propose(5) == []


def test_generated_tokens_are_searched_too(drafter):
    asked = drafter([50, 51])
    for token in (52, 53, 50, 51):
        assert not asked.accepts(token)
    assert asked.propose(2) == [52, 53]


def test_a_draft_is_bounded(drafter):
    assert len(drafter([50, 51, *range(60, 80), 50, 51]).propose(50)) == MAX_DRAFT
    assert drafter([50, 51, 60, 50, 51]).propose(0) == []
    assert drafter([50, 51, 60, 50, 51]).propose(-1) == []


def test_special_tokens_and_what_follows_are_not_drafted(drafter, tiny_tokenizer):
    special = tiny_tokenizer.special
    assert drafter([50, 51, 60, special.prefix, 61, 50, 51]).propose(5) == [60]
    assert drafter([50, 51, special.prefix, 61, 50, 51]).propose(5) == []


def test_a_draft_ends_before_the_line_break_that_ends_the_text(drafter, tiny_tokenizer):
    (line_break,) = tiny_tokenizer.encode("\n")
    prompt = [50, 51, 60, line_break, 61, line_break, 50, 51]
    assert drafter(prompt).propose(5, lines=1) == [60]
    assert drafter(prompt).propose(5, lines=2) == [60, line_break, 61]
    assert drafter(prompt).propose(4) == [60, line_break, 61, line_break]


def test_while_healing_a_draft_begins_with_the_healed_bytes(drafter, tiny_tokenizer):
    (first,), (second,) = tiny_tokenizer.encode(" self"), tiny_tokenizer.encode(" f")
    prompt = [50, 51, first, 60, 50, 51, second, 61, 50, 51]
    assert drafter(prompt).propose(2) == [second, 61]
    assert drafter(prompt).propose(2, unhealed=b" se") == [first, 60]
    (typed,) = tiny_tokenizer.encode(" q")[:-1]
    assert drafter(prompt).propose(2, unhealed=b" q") == [typed]


def test_the_word_under_the_cursor_is_drafted_as_far_as_it_is_settled(drafter, tiny_tokenizer):
    word = tiny_tokenizer.encode(" qwxz")
    assert len(word) > 1
    asked = drafter([50, 51, 60, 61])
    assert asked.propose(8, unhealed=b" qwxz") == word[: len(asked._draft)]
    assert 0 < len(asked._draft) < len(word)


def test_acceptance_is_counted(drafter):
    asked = drafter([50, 51, 60, 61, 62, 50, 51])
    assert asked.propose(3) == [60, 61, 62]
    assert [asked.accepts(token) for token in (60, 61, 70)] == [True, True, False]
    assert (asked.proposed, asked.accepted, asked.rejected) == (3, 2, 1)


def seen(**times):
    """A machine on which runs of m tokens take the given milliseconds."""
    speculation = Speculation()
    for _ in range(100):
        for name, milliseconds in times.items():
            speculation.observe_run(int(name[1:]), milliseconds / 1e3)
    return speculation


def test_cheap_verification_makes_long_drafts_and_dear_verification_none():
    cheap = seen(**{f"m{rows}": 5 + 0.01 * rows for rows in range(2, MAX_DRAFT + 2)})
    assert cheap.length(3, MAX_DRAFT) == MAX_DRAFT
    dear = seen(m2=5.0, m3=18.0, m4=19.0, m5=20.0, m6=21.0)
    assert dear.length(3, MAX_DRAFT) == 1, "the second row is computed anyway"
    assert dear.length(3, MAX_DRAFT, fed=2) == 0


def test_wrong_drafts_are_given_up_and_tried_again_now_and_then():
    speculation = seen(m2=5.0, m3=6.5, m4=7.0, m5=8.0, m6=9.0)
    assert speculation.length(2, MAX_DRAFT, fed=2) > 0
    for _ in range(200):
        speculation.observe_draft(2, 2, 0)
    lengths = [speculation.length(2, MAX_DRAFT, fed=2) for _ in range(100)]
    assert lengths.count(0) >= 95
    assert any(lengths), "or a change would never be noticed"
    for _ in range(200):
        speculation.observe_draft(2, 2, 2)
    assert speculation.length(2, MAX_DRAFT, fed=2) > 0


def test_one_interrupted_run_does_not_spoil_the_costs():
    speculation = seen(m2=5.0, m3=6.0)
    before = speculation.cost(3), speculation.step_seconds
    speculation.observe_run(3, 3.0)
    speculation.observe_run(1, 3.0)
    assert speculation.cost(3) < 1.3 * before[0]
    assert speculation.step_seconds < 1.3 * before[1]


def test_the_cost_of_a_long_run_is_extrapolated():
    speculation = Speculation()
    assert speculation.cost(200) - speculation.cost(199) == pytest.approx(0.1)


class Verifier:
    """A model that wants `ids` in turn, and tells where its sequence stands."""

    def __init__(self, tokenizer, ids, prompt):
        self.tokenizer, self.ids, self.sequence = tokenizer, ids, []
        self.runs, self.prompt = 0, prompt

    def rows(self, tokens):
        logits = np.zeros((len(tokens), self.tokenizer.vocab_size), np.float32)
        for row, _ in enumerate(tokens):
            position = len(self.sequence) - len(tokens) + row + 1
            if position < len(self.ids):
                logits[row, self.ids[position]] = 20.0
        return logits

    def step(self, tokens, back):
        self.runs += 1
        del self.sequence[len(self.sequence) - back :]
        assert self.sequence == self.ids[: len(self.sequence)], "rejected tokens are taken back"
        self.sequence += tokens
        return self.rows(tokens)

    def run(self, drafter=None, **options):
        first = np.zeros((1, self.tokenizer.vocab_size), np.float32)
        first[0, self.ids[0]] = 20.0
        request = GenerateRequest(self.prompt, max_lines=0, **options)
        return decode_greedily(request, self.tokenizer, first, self.step, 500, drafter)


def test_scripted_drafts_save_runs_and_change_nothing(tiny_tokenizer, drafter):
    line = tiny_tokenizer.encode("self.first = first.strip()\n    self.second = first.strip()\n")
    wanted = [*line, *line, tiny_tokenizer.special.eom]
    prompt = tiny_tokenizer.encode("x = y\n" * 3)
    plain, drafting = (Verifier(tiny_tokenizer, wanted, prompt) for _ in range(2))
    expected = plain.run(max_tokens=400)
    asked = drafter(prompt, 400)
    result = drafting.run(asked, max_tokens=400)
    assert result == expected
    assert result.stop == StopReason.END_OF_MIDDLE
    assert drafting.runs == plain.runs - asked.accepted
    assert asked.accepted > 10


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_drafts_respect_the_number_of_tokens(tiny_tokenizer, drafter, max_tokens):
    wanted = [50, 51, 52] * 10
    verifier = Verifier(tiny_tokenizer, wanted, wanted[:6])
    result = verifier.run(drafter(wanted[:6], max_tokens), max_tokens=max_tokens)
    assert list(result.token_ids) == wanted[:max_tokens]
    assert len(verifier.sequence) < max_tokens


@pytest.fixture
def eager_backend(tiny_weights):
    backend = LocalBackend.load(tiny_weights, threads=1)
    backend._lane.speculation = Eager()
    return backend


def prompts(count):
    """Token sequences that repeat parts of themselves."""
    random = np.random.default_rng(7)
    for _ in range(count):
        parts = [random.integers(20, 600, random.integers(2, 8)).tolist() for _ in range(6)]
        yield [token for index in random.integers(0, 6, 12) for token in parts[index]]


def test_the_model_says_the_same_with_and_without_drafts(eager_backend, tiny_backend):
    drafted = accepted = 0
    for prompt in prompts(40):
        heal = eager_backend.tokenizer.token_bytes(prompt[-1])
        asked = {"prompt_ids": prompt[:-1], "heal": heal, "max_tokens": 24, "max_lines": 0}
        result = eager_backend.generate(GenerateRequest(**asked))
        plain = tiny_backend.generate(GenerateRequest(**asked, drafts=False))
        assert result.token_ids == plain.token_ids
        assert (result.text, result.stop) == (plain.text, plain.stop)
        assert result.logprobs == plain.logprobs
        assert (plain.drafted_tokens, plain.accepted_tokens) == (0, 0)
        drafted += result.drafted_tokens
        accepted += result.accepted_tokens
    assert 0 < accepted < drafted, "both accepted and rejected drafts were seen"


def test_rejected_drafts_leave_no_trace_in_the_cache(eager_backend, tiny_backend):
    for prompt in prompts(5):
        first = eager_backend.generate(GenerateRequest(prompt, max_tokens=8, max_lines=0))
        onward = GenerateRequest([*prompt, *first.token_ids, 44], max_tokens=8, max_lines=0)
        result = eager_backend.generate(onward)
        assert result.reused_tokens >= len(prompt) + len(first.token_ids) - 1
        assert result.token_ids == tiny_backend.generate(onward).token_ids


def test_drafts_stop_where_the_context_does(eager_backend, tiny_backend):
    part = next(prompts(1))[:7]
    prompt = (part * 200)[: eager_backend.context_length - 4]
    asked = {"prompt_ids": prompt, "max_tokens": 50, "max_lines": 0}
    result = eager_backend.generate(GenerateRequest(**asked))
    plain = tiny_backend.generate(GenerateRequest(**asked, drafts=False))
    assert (result.token_ids, result.stop) == (plain.token_ids, StopReason.CONTEXT_FULL)
