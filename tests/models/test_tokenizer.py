import json
from itertools import chain
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import TokenizerError
from models.registry import DEFAULT_MODEL
from models.tokenizer import Tokenizer, decode_complete, split_lines

SHIPPED = Path("models/weights") / DEFAULT_MODEL / "tokenizer.json"
SPECIAL_TEXTS = ["<|eom|>", "<|eot|>", "<|prefix|>", "<|spare_0|>"]

any_text = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from([*SPECIAL_TEXTS, "\n", "\r\n", "\t", "    ", "\x0c", "\u2028", " def "]),
    ),
    max_size=12,
).map("".join)
# The fixtures are read-only, so sharing them between examples is safe.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def tokenizer_file(request, tiny_tokenizer_file):
    if request.param == "shipped" and not SHIPPED.is_file():
        pytest.skip("no shipped weights in this checkout")
    return SHIPPED if request.param == "shipped" else tiny_tokenizer_file


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return Tokenizer.from_file(tokenizer_file)


@relaxed
@given(any_text)
def test_encoding_is_lossless(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@relaxed
@given(any_text)
def test_text_never_becomes_a_special_token(tokenizer, text):
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode(text))


@relaxed
@given(any_text)
def test_lines_one_by_one_equal_the_whole(tokenizer, tokenizer_file, text):
    library = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    library.encode_special_tokens = True
    whole = library.encode(text, add_special_tokens=False).ids
    assert list(chain.from_iterable(tokenizer.encode_lines(text))) == whole
    assert tokenizer.encode(text) == whole


@given(any_text)
def test_pieces_begin_at_line_feeds_and_join_to_the_text(text):
    pieces = list(split_lines(text))
    assert "".join(pieces) == text
    assert all(piece.startswith("\n") for piece in pieces[1:])
    assert all("\n" not in piece[1:] for piece in pieces)


@relaxed
@given(
    st.one_of(st.text(min_size=1, max_size=6).map(str.encode), st.binary(min_size=1, max_size=4))
)
def test_allowed_tokens_overrun_the_bytes_or_begin_them_as_any_text_does(tokenizer, remaining):
    pieces = {
        token_id: data
        for token_id in range(tokenizer.vocab_size)
        if (data := tokenizer.token_bytes(token_id))
    }
    overrun = {token_id for token_id, data in pieces.items() if data.startswith(remaining)}
    try:
        begun = {tokenizer.encode(remaining.decode())[0]}
    except UnicodeDecodeError:  # inside a character anything that leads on will do
        begun = {token_id for token_id, data in pieces.items() if remaining.startswith(data)}
    assert tokenizer.allowed(remaining).tolist() == sorted(overrun | begun)


@relaxed
@given(any_text, any_text)
def test_all_but_the_open_tokens_stay_whatever_is_written_next(tokenizer, text, more):
    ids = tokenizer.encode(text)
    opened = tokenizer.open_tokens(text, ids)
    assert (0 < opened <= len(ids)) if ids else opened == 0
    kept = ids[: len(ids) - opened]
    # A word of more tokens than are ever opened may come out otherwise in the middle.
    if opened < 16:
        assert tokenizer.encode(text + more)[: len(kept)] == kept


def test_open_tokens_are_those_of_the_last_word(tokenizer):
    for text, word in (
        ("def f():\n    retu", "retu"), ("x = unlikely_nam", " unlikely_nam"),
        ("x = y(", "("), ("a.sel", ".sel"), ("\n    ", "\n    "), ("x  ", "  "),
    ):  # fmt: skip
        ids = tokenizer.encode(text)
        opened = tokenizer.open_tokens(text, ids)
        assert tokenizer.decode(ids[len(ids) - opened :]) == word


def test_special_tokens_are_found_by_text_and_have_no_bytes(tokenizer):
    named = tokenizer.special.by_text()
    assert list(named) == [
        f"<|{name}|>"
        for name in ("eot", "suffix", "prefix", "middle", "eom", "file", "repo", "pad")
    ]
    assert all(tokenizer.token_bytes(token_id) == b"" for token_id in tokenizer.special_ids)
    assert tokenizer.decode([tokenizer.special.eom, *tokenizer.encode("x"), 0]) == "x"


def test_lone_surrogates_do_not_break_encoding(tiny_tokenizer):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode("a\ud83d b")) == "a\ufffd b"
    text = "x = a\ud83d"
    ids = tiny_tokenizer.encode(text)
    opened = tiny_tokenizer.open_tokens(text, ids)
    assert tiny_tokenizer.decode(ids[-opened:]) == "\ufffd"


def test_decoding_drops_a_character_cut_at_the_end_only():
    assert decode_complete("né".encode()[:-1]) == "n"
    assert decode_complete(b"a\xffb") == "a\ufffdb"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"absent\.json"):
        Tokenizer.from_file(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"added_tokens": []}', b"\xff"])
def test_corrupt_file_is_a_tokenizer_error(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError):
        Tokenizer.from_file(path)


def test_missing_special_token_is_named(tiny_tokenizer_file):
    definition = json.loads(tiny_tokenizer_file.read_text())
    definition["added_tokens"] = [
        token for token in definition["added_tokens"] if token["content"] != "<|eom|>"
    ]
    with pytest.raises(TokenizerError, match=r"<\|eom\|>"):
        Tokenizer(definition)


def test_vocabulary_that_is_not_byte_level_is_refused(tiny_tokenizer_file):
    definition = json.loads(tiny_tokenizer_file.read_text())
    definition["model"]["vocab"]["\u4e2d"] = len(definition["model"]["vocab"])
    with pytest.raises(TokenizerError, match="byte-level"):
        Tokenizer(definition)
