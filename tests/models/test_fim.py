import json

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from benchmarks.trained import code, foreign_tokenizer
from completion.prompt import PromptBuilder
from completion.types import Mode, WindowPolicy
from models.errors import TokenizerError
from models.export.fim import detect
from models.template import OWN_TEMPLATE, Slot
from models.tokenizer import Tokenizer

EOT = "<|endoftext|>"
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
FAMILIES = {
    "qwen": ("qwen2", ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]),
    "starcoder": ("gpt_bigcode", ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]),
    "starcoder2": ("starcoder2", ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]),
    "santacoder": ("gpt_bigcode", ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"]),
    "deepseek": ("llama", ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"]),
    "codestral": ("llama", ["[PREFIX]", "[SUFFIX]"]),
}
SUFFIX_FIRST = {"starcoder", "santacoder"}
PREFIX, SUFFIX = "import os\n\n\ndef f(path):\n    retu", "\n\nprint(f('x'))\n"


def foreign(name, begin=()):
    """A serving tokenizer of a family and its definition."""
    model_type, markers = FAMILIES[name]
    definition = json.loads(foreign_tokenizer([EOT, *begin, *markers]).to_str())
    found = detect(definition, model_type, vocab_size=320, begin=list(begin), end=EOT)
    return Tokenizer(definition, found.template), found, definition


def prompt(tokenizer, mode, prefix=PREFIX, suffix=SUFFIX):
    builder = PromptBuilder(tokenizer, 1024)
    return builder.build(prefix, suffix, uri="a", window=WindowPolicy(), mode=mode, max_tokens=16)


def spell(tokenizer, ids):
    """Prompt ids as text, special tokens by their names."""
    names = {number: text for text, number in tokenizer.special_texts.items()}
    text = b"".join(
        names[i].encode() if i in tokenizer.special_ids else tokenizer.token_bytes(i) for i in ids
    )
    return text.decode()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_documented_layout_is_the_sep_one(name):
    tokenizer, found, _ = foreign(name)
    assert found.notices == ()
    first, second, *middle = FAMILIES[name][1]
    got = spell(tokenizer, prompt(tokenizer, Mode.SEP).ids)
    if name == "codestral":
        assert got + " n" == f"{second}{SUFFIX}{first}{PREFIX} n"
    else:
        assert got == f"{first}{PREFIX}{second}{SUFFIX}{middle[0]}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layout_for_typing_ends_with_text_that_typing_extends(name):
    tokenizer, _, _ = foreign(name)
    first, second, *middle = FAMILIES[name][1]
    got = prompt(tokenizer, Mode.JOINT)
    text = spell(tokenizer, got.ids) + got.heal.decode()
    assert got.heal
    lines, line = PREFIX[: PREFIX.rindex("\n") + 1], PREFIX[PREFIX.rindex("\n") + 1 :]
    if name == "codestral":
        assert text == f"{second}{SUFFIX}{first}{PREFIX}"
    elif name in SUFFIX_FIRST:
        assert text == f"{first}{second}{SUFFIX}{middle[0]}{PREFIX}"
    else:
        assert text == f"{first}{lines}{second}{SUFFIX}{middle[0]}{line}"


@pytest.mark.parametrize("name", FAMILIES)
def test_typing_within_a_line_keeps_the_prompt_but_its_end(name):
    tokenizer, _, _ = foreign(name)
    builder = PromptBuilder(tokenizer, 1024)

    def ids(prefix):
        options = {"uri": "a", "window": WindowPolicy(), "mode": Mode.JOINT, "max_tokens": 16}
        return builder.build(prefix, SUFFIX, **options).ids

    before = ids(PREFIX)
    after = ids(PREFIX + "rn os.path")
    shared = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 99)
    assert min(shared, len(before)) >= len(before) - 3


def test_a_cursor_at_the_start_of_a_line_has_nothing_to_heal():
    tokenizer, _, _ = foreign("qwen")
    got = prompt(tokenizer, Mode.JOINT, prefix="import os\n")
    assert got.heal == b""
    assert spell(tokenizer, got.ids).endswith("<|fim_middle|>")


def test_what_begins_every_text_begins_the_prompt():
    tokenizer, found, _ = foreign("deepseek", DEEPSEEK[:1])
    assert found.template["sep"]["layout"][0] == DEEPSEEK[0]
    ids = prompt(tokenizer, Mode.SEP).ids
    assert ids[0] == 1


def test_without_markers_the_model_just_continues_and_says_so():
    definition = json.loads(foreign_tokenizer([EOT]).to_str())
    found = detect(definition, "llama", vocab_size=320, begin=[], end=None)
    assert found.family == "none"
    assert "no fill-in-the-middle tokens" in found.notices[0]
    tokenizer = Tokenizer(definition, found.template)
    got = prompt(tokenizer, Mode.JOINT)
    assert spell(tokenizer, got.ids) + got.heal.decode() == EOT + PREFIX
    assert prompt(tokenizer, Mode.JOINT, prefix="").ids == [0]


@pytest.mark.parametrize(
    ("vocab_size", "trained", "message"),
    [
        (2, lambda token: True, "do not fit the model"),
        (320, lambda token: token == 0, "not trained"),
    ],
)
def test_markers_that_the_model_never_saw_are_not_used(vocab_size, trained, message):
    _, _, definition = foreign("qwen")
    found = detect(definition, "qwen2", vocab_size=vocab_size, begin=[], end=EOT, trained=trained)
    assert found.family == "none"
    assert message in found.notices[0]


def test_a_vocabulary_that_ends_nothing_is_refused():
    definition = json.loads(foreign_tokenizer(["<a>"]).to_str())
    with pytest.raises(TokenizerError, match="no token that ends a text"):
        detect(definition, "llama", vocab_size=320, begin=[], end=None)


def test_our_own_vocabulary_keeps_its_template(tiny_tokenizer_file):
    definition = json.loads(tiny_tokenizer_file.read_text(encoding="utf-8"))
    found = detect(definition, "qwen3", vocab_size=700, begin=[], end=None)
    assert (found.template, found.family) == (OWN_TEMPLATE, "snowcoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint": None}, "malformed"),
        ({"sep": {"layout": ["<|nobody|>", "{prefix}"], "heal_last_token": False}}, "nobody"),
        ({"sep": {"layout": ["{suffix}"], "heal_last_token": False}}, "no place for the text"),
        ({"roles": {"eot": "<|nobody|>"}}, "nobody"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(change, message):
    _, found, definition = foreign("qwen")
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(definition, {**found.template, **change})


def test_layouts_know_what_they_need():
    template = foreign("qwen")[0].template
    assert template.joint.splits_line
    assert not template.sep.splits_line
    assert template.joint.markers == 3
    assert Slot.SUFFIX in template.sep.parts


@pytest.mark.parametrize("text", ["", "x", "a b\n\n    c):\n", "é😀\t\n", EOT, "<|fim_prefix|>"])
def test_a_foreign_vocabulary_round_trips_and_never_gives_special_ids(text):
    tokenizer, _, _ = foreign("qwen")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.special_ids.isdisjoint(ids)


def test_a_foreign_text_is_encoded_whole():
    """`):` and the line feed may be one token there; our own vocabularies cut before it."""
    reference = Library(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(["f(x):\n", "g(y):\n"] * 50, trainer)
    definition = json.loads(reference.to_str())
    found = detect(definition, "llama", vocab_size=400, begin=[], end=EOT)
    tokenizer = Tokenizer(definition, found.template)
    text = "f(x):\n" * 3
    assert tokenizer.encode(text) == reference.encode(text).ids
    assert any(b":\n" in tokenizer.token_bytes(i) for i in tokenizer.encode(text))


@pytest.fixture(scope="module")
def sentencepiece():
    """A vocabulary as Llama has it: `▁` for spaces, bytes for the rest, a space before all."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    library.train_from_iterator(code()[:60_000].split(" "), trainer)
    definition = json.loads(library.to_str())
    texts = set(special)
    definition["added_tokens"] = [t for t in definition["added_tokens"] if t["content"] in texts]
    found = detect(definition, "llama", vocab_size=700, begin=["<s>"], end="</s>")
    assert found.family == "codellama"
    return Tokenizer(definition, found.template)


@pytest.mark.parametrize("text", ["", "def f(x):", "    return x\n", " a", "é\t😀\x00\n", "▁"])
def test_a_sentencepiece_vocabulary_gives_the_text_without_a_space_before_it(sentencepiece, text):
    decoded = sentencepiece.decode(sentencepiece.encode(text))
    assert decoded == text.replace("▁", " "), "its own mark for a space cannot be told from one"


def test_healing_finds_sentencepiece_tokens_by_their_bytes(sentencepiece):
    allowed = {sentencepiece.token_bytes(i) for i in sentencepiece.allowed(b" se").tolist()}
    assert sentencepiece.token_bytes(sentencepiece.encode(" se")[0]) in allowed
    assert all(data.startswith(b" se") or b" se".startswith(data) for data in allowed)
    assert len(sentencepiece.allowed("é".encode())) > 0


def test_a_vocabulary_of_another_kind_is_refused():
    definition = json.loads(foreign_tokenizer([EOT]).to_str())
    definition["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}
    template = {"joint": {}, "sep": {}, "roles": {"eot": EOT}}
    with pytest.raises(TokenizerError, match="unsupported kind of tokenizer: Unigram"):
        Tokenizer(definition, template)


def test_runs_of_spaces_among_the_added_tokens_are_text():
    library = foreign_tokenizer([EOT])
    library.add_tokens(["        "])
    definition = json.loads(library.to_str())
    found = detect(definition, "llama", vocab_size=400, begin=[], end=EOT)
    tokenizer = Tokenizer(definition, found.template)
    ids = tokenizer.encode("x        y")
    assert ids == library.encode("x        y").ids
    assert tokenizer.decode(ids) == "x        y"
    assert 320 in ids
