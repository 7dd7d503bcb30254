"""The decode loop against scripted logits: what the model wants is spelled out per test."""

import itertools
import json
import math
import time

import numpy as np
import pytest

from models.backend import GenerateRequest, StopReason
from models.generate import choose, common_prefix_length, decode_greedily
from models.tokenizer import Tokenizer

MARGIN = 20.0


class Script:
    """Wants the given tokens one after the other; each has `margin` over all others."""

    def __init__(self, tokenizer, ids):
        self.tokenizer = tokenizer
        self.ids = list(ids)
        self.fed = []
        self.margin = MARGIN

    def wanted(self):
        logits = np.zeros(self.tokenizer.vocab_size, np.float32)
        logits[self.ids[len(self.fed)]] = self.margin
        return logits[None]

    def step(self, ids, back):
        assert back == 0
        (token,) = ids
        self.fed.append(token)
        return self.wanted()

    def run(self, room=100, **options):
        request = GenerateRequest([0], **options)
        return decode_greedily(request, self.tokenizer, self.wanted(), self.step, room)


@pytest.fixture
def script(tiny_tokenizer):
    def make(*parts):
        ids = []
        for part in parts:
            ids += [part] if isinstance(part, int) else tiny_tokenizer.encode(part)
        return Script(tiny_tokenizer, ids)

    return make


def test_one_line_ends_before_its_line_break(script, tiny_tokenizer):
    result = script("return x\n    y = 1").run()
    assert (result.text, result.stop) == ("return x", StopReason.NEWLINE)
    assert tiny_tokenizer.decode(result.token_ids) == "return x"
    assert len(result.logprobs) == len(result.token_ids) + 1, "the stop token has a probability"


def test_the_third_of_three_lines_is_the_last(script):
    result = script("a\n  b\n  c\nd").run(max_lines=3)
    assert (result.text, result.stop) == ("a\n  b\n  c", StopReason.NEWLINE)


def test_a_line_break_that_comes_first_does_not_count(script):
    assert script("\n    pass\nx").run().text == "\n    pass"


def test_without_a_line_limit_only_the_model_stops(script, tiny_tokenizer):
    result = script("a\nb\n", tiny_tokenizer.special.eom).run(max_lines=0)
    assert (result.text, result.stop) == ("a\nb\n", StopReason.END_OF_MIDDLE)


@pytest.mark.parametrize("name", ["eom", "eot", "file", "pad"])
def test_every_special_token_ends_the_text(script, tiny_tokenizer, name):
    stop = getattr(tiny_tokenizer.special, name)
    result = script("ab", stop, "never").run()
    assert (result.text, result.stop) == ("ab", StopReason.END_OF_MIDDLE)
    assert stop not in result.token_ids
    assert len(result.logprobs) == len(result.token_ids) + 1


def test_a_token_with_an_inner_line_break_is_cut_there(tiny_tokenizer_file):
    definition = json.loads(tiny_tokenizer_file.read_text())
    inner = len(definition["model"]["vocab"])
    definition["model"]["vocab"][");Ċx"] = inner
    tokenizer = Tokenizer(definition)
    result = Script(tokenizer, [*tokenizer.encode("f("), inner]).run()
    assert (result.text, result.stop) == ("f();", StopReason.NEWLINE)
    assert inner not in result.token_ids


def test_max_tokens_bounds_the_ids_and_the_last_is_not_fed_back(script):
    scripted = script("one two three four five six")
    result = scripted.run(max_tokens=3)
    assert result.stop == StopReason.MAX_TOKENS
    assert len(result.token_ids) == len(result.logprobs) == 3
    assert scripted.fed == list(result.token_ids[:2])


def test_no_tokens_asked_for_gives_none(script):
    result = script("x").run(max_tokens=0)
    assert (result.text, result.token_ids, result.stop) == ("", (), StopReason.MAX_TOKENS)


def test_full_context_ends_the_text(script):
    scripted = script("one two three four five six")
    result = scripted.run(room=2)
    assert result.stop == StopReason.CONTEXT_FULL
    assert len(scripted.fed) == 2
    assert len(result.token_ids) == 3, "the last token needs no place in the context"


def test_a_passed_deadline_ends_the_text(script):
    result = script("abc").run(deadline=time.perf_counter() - 1)
    assert (result.text, result.stop) == ("", StopReason.DEADLINE)


def test_cancel_between_tokens_keeps_what_is_there(tiny_tokenizer):
    request = GenerateRequest([0])
    scripted = Script(tiny_tokenizer, tiny_tokenizer.encode("one two three four"))

    def step(ids, back):
        if len(scripted.fed) == 1:
            request.cancel.set()
        return scripted.step(ids, back)

    result = decode_greedily(request, tiny_tokenizer, scripted.wanted(), step, 100)
    assert result.stop == StopReason.CANCELLED
    assert list(result.token_ids) == scripted.fed
    assert len(scripted.fed) == 2


def test_healing_reproduces_the_bytes_against_the_models_wish(script, tiny_tokenizer):
    result = script("return\n\n\n").run(heal=b"sel", max_tokens=3)
    produced = b"".join(map(tiny_tokenizer.token_bytes, result.token_ids))
    assert produced.startswith(b"sel")
    assert produced == b"sel" + result.text.encode()


@pytest.mark.parametrize("heal", [b"s", b"sel", b"\n    ", "né".encode(), b" self."])
def test_the_text_begins_behind_the_healed_bytes(tiny_tokenizer, heal):
    wanted = tiny_tokenizer.encode(heal.decode() + "self)\n")
    result = Script(tiny_tokenizer, wanted).run(heal=heal)
    produced = b"".join(map(tiny_tokenizer.token_bytes, result.token_ids))
    assert produced == heal + b"self)"
    assert result.text == "self)"


def test_a_healed_token_may_overrun(tiny_tokenizer):
    (whole,) = tiny_tokenizer.encode(" self")
    result = Script(tiny_tokenizer, [whole, tiny_tokenizer.special.eom]).run(heal=b" se")
    assert result.token_ids == (whole,)
    assert result.text == "lf"


def test_text_is_empty_until_healing_is_done(script):
    result = script("xxxx").run(heal="世界".encode(), max_tokens=2)
    assert result.text == ""
    assert result.stop == StopReason.MAX_TOKENS


def test_healed_tokens_are_normalised_among_the_allowed(tiny_tokenizer):
    # Only the byte itself can reproduce it, so choosing it is certain.
    heal = b"\xf4"
    assert len(tiny_tokenizer.allowed(heal)) == 1
    scripted = Script(tiny_tokenizer, tiny_tokenizer.encode("xx"))
    assert scripted.run(heal=heal, max_tokens=1).logprobs == (0.0,)


def test_special_tokens_cannot_end_a_text_that_is_being_healed(script, tiny_tokenizer):
    result = script(tiny_tokenizer.special.eom, tiny_tokenizer.special.eom).run(heal=b"s")
    assert tiny_tokenizer.token_bytes(result.token_ids[0]).startswith(b"s")


def test_an_unlikely_text_is_given_up(script):
    # Without a margin every token is as likely as any other.
    certain = script("one two three four").run(max_lines=0, max_tokens=4, min_logprob=-0.1)
    assert certain.stop == StopReason.MAX_TOKENS
    unsure = script("one two three four")
    unsure.margin = 1.0
    result = unsure.run(max_lines=0, max_tokens=4, min_logprob=-7.0)
    assert result.stop == StopReason.UNLIKELY
    assert len(result.token_ids) == len(result.logprobs) == 2, "with the one that was too much"
    assert sum(result.logprobs) <= -7.0 < result.logprobs[0]


def test_the_end_of_a_text_counts_before_its_unlikeliness(script, tiny_tokenizer):
    ended = script("ab", tiny_tokenizer.special.eom)
    ended.margin = 1.0
    full = ended.run(max_tokens=9)
    assert full.stop == StopReason.END_OF_MIDDLE
    threshold = sum(full.logprobs)
    again = script("ab", tiny_tokenizer.special.eom)
    again.margin = 1.0
    assert again.run(max_tokens=9, min_logprob=threshold).stop == StopReason.END_OF_MIDDLE


def test_incomplete_utf8_at_the_end_is_dropped(script):
    rocket = "ab\N{ROCKET}"
    count = len(script(rocket).ids)
    assert script(rocket, "c").run(max_tokens=count).text == rocket
    assert script(rocket, "c").run(max_tokens=count - 1).text == "ab"


def test_choose_gives_the_log_probability():
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    token, logprob = choose(logits)
    assert token == 1
    assert logprob == pytest.approx(3 - math.log(sum(map(math.exp, (1, 2, 3)))), abs=1e-6)
    token, logprob = choose(logits, np.array([0, 2]))
    assert token == 2
    assert logprob == pytest.approx(2 - math.log(math.exp(1) + math.exp(2)), abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 9, 3], 1), ([5], [6], 0)],
)
def test_common_prefix_length(a, b, length):
    assert common_prefix_length(a, b) == common_prefix_length(b, a) == length


def test_whoever_listens_may_end_the_text(script):
    told = []

    def on_text(text):
        told.append(text)
        return "x" in text

    result = script("return x + y\n").run(on_text=on_text)
    assert result.stop is StopReason.STOPPED
    assert told[-1] == result.text == "return x"
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(told))
