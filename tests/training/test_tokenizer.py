from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.training.tokenizer import SPECIAL_TOKENS, train

_TRAINED = train(["def f(a):\n    return a.b + 12  # été\n" * 20], vocab_size=400)
_TRAINED.encode_special_tokens = True
_TEXT = st.text(
    st.one_of(st.sampled_from("\n\t \r\f\u2028(a.b_1<|eom|>é"), st.characters(codec="utf-8"))
)


def encode(text: str) -> list[int]:
    return _TRAINED.encode(text).ids


@given(_TEXT)
@settings(max_examples=300)
def test_lossless(text: str) -> None:
    assert _TRAINED.decode(encode(text), skip_special_tokens=False) == text


@given(_TEXT)
@settings(max_examples=300)
def test_line_by_line_equals_whole(text: str) -> None:
    first, *rest = text.split("\n")
    by_line = encode(first) + [i for line in rest for i in encode("\n" + line)]
    assert by_line == encode(text)


def test_special_tokens_come_first_and_are_not_read_from_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer.id_to_token(i) for i in range(16)] == SPECIAL_TOKENS
    assert all(i >= 16 for i in tokenizer.encode("a <|eom|> b <|eot|>").ids)
