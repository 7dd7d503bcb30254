"""The probe of held-out cursors."""

import math
from dataclasses import replace

import pytest
import torch

from models.training.cursors import Cursor
from models.training.model import Model, ModelConfig
from models.training.probe import Probe, _Agreeing, _row

SHAPE = ModelConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, vocab_size=700,
)  # fmt: skip


@pytest.mark.parametrize("typed", ["Ġ", "r", "re", "retu", "ĊĠĠĠĠ", "(", "zzz", "defin"])
def test_tokens_agree_that_begin_with_what_is_typed_or_that_it_begins_with(tokenizer, typed):
    vocab = tokenizer.get_vocab()
    expected = {i for t, i in vocab.items() if t.startswith(typed) or typed.startswith(t)}
    found = _Agreeing(vocab).ids(typed)
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize("prefix", ["x = ret", "import o", "\nx = ret", "a = 1\nx = ret"])
def test_a_row_is_the_whole_text_on_any_line_and_the_typed_part_is_its_own(tokenizer, prefix):
    middle = "urn_value"
    ids, first, typed = _row(tokenizer, Cursor(prefix, middle, "\n"))
    text = tokenizer.decode(ids[: ids.index(1)] + ids[ids.index(2) + 1 :])
    assert text.endswith(prefix + middle)
    before = tokenizer.decode(ids[ids.index(2) + 1 : first])
    shown = typed.replace("Ġ", " ").replace("Ċ", "\n")
    assert before + shown == prefix


def test_a_model_without_an_opinion_needs_the_bits_of_its_choices(tokenizer):
    model = Model(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    cursors = [Cursor("def f(x):\n    ", "return x", "\n")]
    ids, first, typed = _row(tokenizer, cursors[0])
    assert typed
    choices = len(_Agreeing(tokenizer.get_vocab()).ids(typed))
    bits = math.log2(choices) + (len(ids) - first - 1) * math.log2(SHAPE.vocab_size)
    result = Probe(tokenizer, cursors).run(model.eval(), "cpu")
    assert result["bits_per_char"] == pytest.approx(bits / len("return x"), rel=1e-4)
    assert result["line_match"] == 0.0


def test_the_order_and_number_of_cursors_do_not_change_a_mean(tokenizer):
    torch.manual_seed(3)
    model = Model(replace(SHAPE, num_hidden_layers=2)).eval()
    cursors = [
        Cursor("a = 1\nb = a ", "+ 2", "\n"),
        Cursor("import o", "s", "\n"),
        Cursor("for i in ", "range(3):", "\n    print(i)\n"),
    ]
    whole = Probe(tokenizer, cursors).run(model, "cpu")
    again = Probe(tokenizer, cursors[::-1]).run(model, "cpu", batch=1)
    assert again == pytest.approx(whole, rel=1e-4)
