from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.prompt import Prompt, PromptBuilder, cache_key
from completion.types import Mode, WindowPolicy
from models.errors import PromptError
from tests.completion.scripted import small_tokenizer

TOKENIZER = small_tokenizer()
SPECIAL = TOKENIZER.special
WIDE = WindowPolicy(prefix_tokens=400, fresh_prefix_tokens=400, suffix_tokens=100)
NARROW = WindowPolicy(prefix_tokens=100, fresh_prefix_tokens=40, suffix_tokens=30)
LINES = "".join(f"    value_{n} = compute({n})\n" for n in range(60))


def build(
    builder: PromptBuilder,
    prefix: str,
    suffix: str = "",
    *,
    uri: str = "a",
    window: WindowPolicy = WIDE,
    mode: Mode = Mode.JOINT,
    max_tokens: int = 16,
) -> Prompt:
    return builder.build(prefix, suffix, uri=uri, window=window, mode=mode, max_tokens=max_tokens)


def new() -> PromptBuilder:
    return PromptBuilder(TOKENIZER, 512)


def common(first: Prompt, second: Prompt) -> int:
    pairs = enumerate(zip(first.ids, second.ids, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first.ids), len(second.ids)))


def prefix_part(prompt: Prompt) -> str:
    ids = prompt.ids[prompt.ids.index(SPECIAL.prefix) + 1 :]
    return (b"".join(map(TOKENIZER.token_bytes, ids)) + prompt.heal).decode()


def suffix_part(prompt: Prompt) -> str:
    return TOKENIZER.decode(prompt.ids[2 : prompt.ids.index(SPECIAL.prefix)])


def test_joint_layout_heals_the_last_word() -> None:
    prefix, suffix = "def f(self):\n    ret", "\n\nx = 1\n"
    before, after = TOKENIZER.encode(prefix), TOKENIZER.encode(suffix)
    prompt = build(new(), prefix, suffix)
    assert prompt.ids == [
        SPECIAL.eot,
        SPECIAL.suffix,
        *after,
        SPECIAL.prefix,
        *before[: -prompt.healed],
    ]
    assert prompt.heal == b"ret"
    assert prompt.heal == b"".join(map(TOKENIZER.token_bytes, before[-prompt.healed :]))


def test_a_slow_machine_reads_less_after_a_jump_and_keeps_what_it_has() -> None:
    builder = new()
    prompt = builder.build(
        LINES, LINES, uri="a", window=WIDE, mode=Mode.JOINT, max_tokens=16, affordable=160
    )
    assert 100 < len(prompt.ids) <= 160 + 4
    assert 20 < len(TOKENIZER.encode(suffix_part(prompt))) <= 40
    hopeless = new().build(
        LINES, LINES, uri="a", window=WIDE, mode=Mode.JOINT, max_tokens=16, affordable=0
    )
    assert 30 < len(hopeless.ids) <= 64 + 16 + 4
    # What is in the KV cache costs nothing.
    again = builder.build(
        LINES + "x", LINES, uri="a", window=WIDE, mode=Mode.JOINT, max_tokens=16, affordable=0
    )
    assert common(prompt, again) >= len(prompt.ids) - 1


def test_a_window_without_its_cache_is_not_read_again_whole() -> None:
    """It grew while it was typed in; after a jump there is no time for all of it."""
    held: set[str] = set()
    builder = PromptBuilder(TOKENIZER, 512, held.__contains__)

    def length(affordable: int | None) -> int:
        prompt = builder.build(
            LINES,
            LINES,
            uri="a",
            window=WIDE,
            mode=Mode.JOINT,
            max_tokens=16,
            affordable=affordable,
        )
        return len(prompt.ids)

    whole = length(None)
    held.add("a")
    assert length(160) == whole
    held.clear()
    assert length(160) <= 160 + 4 < whole


def test_a_look_at_another_place_and_back_keeps_both_windows() -> None:
    builder = new()
    home, there = len(LINES) // 2, len(LINES) // 4
    first = build(builder, LINES[:home] + "x", LINES[home:])
    look = build(builder, LINES[:there], LINES[there:] + "x")
    back = build(builder, LINES[:home] + "xy", LINES[home:])
    again = build(builder, LINES[:there], LINES[there:] + "xy")
    assert (first.slot, look.slot, back.slot, again.slot) == (0, 1, 0, 1)
    assert common(first, back) >= len(first.ids) - 1
    assert look == again
    # A third place takes the slot of the one that was left first.
    third = build(builder, LINES[: there // 2], LINES[there // 2 :])
    assert third.slot == 0
    assert build(builder, LINES[:there], LINES[there:]).slot == 1


def test_a_jump_to_a_place_that_looks_alike_reads_no_more_than_a_fresh_window() -> None:
    builder, window = new(), WindowPolicy(400, 40, suffix_tokens=30)
    alike = "\n" + "pass\n" * 40
    build(builder, LINES[:200], alike, window=window)
    far = build(builder, LINES, alike, window=window)
    assert len(far.ids) < 40 + 30 + 4
    # Text that was typed or pasted in reasonable amounts is appended.
    onward = build(builder, LINES + LINES[:100], alike, window=window)
    assert common(far, onward) >= len(far.ids) - 1


def test_typing_stays_in_its_slot() -> None:
    builder = new()
    slots = {
        build(builder, LINES[:end], "\nend\n", window=NARROW).slot
        for end in range(10, len(LINES), 7)
    }
    assert slots == {0}


def test_slots_have_keys_of_their_own() -> None:
    assert cache_key("file:///a", 0) == "file:///a"
    assert cache_key("file:///a", 1) != cache_key("file:///a", 0)


def test_a_fast_machine_reads_the_whole_window() -> None:
    unlimited = build(new(), LINES, LINES)
    prompt = new().build(
        LINES, LINES, uri="a", window=WIDE, mode=Mode.JOINT, max_tokens=16, affordable=10_000
    )
    assert prompt == unlimited


def test_indentation_is_healed_too() -> None:
    prompt = build(new(), "class A:\n    def f(self):\n    ")
    assert prompt.heal == b"\n    "


@pytest.mark.parametrize("blank", ["\n", "\n    ", "\n \t "])
def test_sep_layout_heals_a_blank_line_with_its_break(blank: str) -> None:
    """A span of whole lines begins before the line break, see `models.training.fim`."""
    before, after = TOKENIZER.encode("x = 1"), TOKENIZER.encode("\ny")
    prompt = build(new(), "x = 1" + blank, "\ny", mode=Mode.SEP)
    assert prompt.heal == blank.encode()
    expected = [SPECIAL.eot, SPECIAL.suffix, *after, SPECIAL.prefix, *before, SPECIAL.middle]
    assert list(prompt.ids) == expected


def test_sep_layout_heals_no_word() -> None:
    before, after = TOKENIZER.encode("x = "), TOKENIZER.encode("\ny")
    prompt = build(new(), "x = ", "\ny", mode=Mode.SEP)
    expected = [SPECIAL.eot, SPECIAL.suffix, *after, SPECIAL.prefix, *before, SPECIAL.middle]
    assert prompt == Prompt(expected, b"")


def test_an_empty_document_still_has_a_prompt() -> None:
    assert build(new(), "", "") == Prompt([SPECIAL.eot, SPECIAL.suffix, SPECIAL.prefix], b"")


def test_special_tokens_in_the_text_stay_text() -> None:
    prompt = build(new(), "x = '<|eom|><|middle|>'", "<|prefix|>\n")
    assert [i for i in prompt.ids if i in TOKENIZER.special_ids] == [
        SPECIAL.eot,
        SPECIAL.suffix,
        SPECIAL.prefix,
    ]


@given(
    prefix=st.text(alphabet="ab1 \n\té漢", max_size=300),
    suffix=st.text(alphabet="ab1 \n\té漢", max_size=300),
    context=st.integers(24, 120),
    window=st.sampled_from([WIDE, NARROW, WindowPolicy(0, 0, 0), WindowPolicy(5, 50, 500)]),
    mode=st.sampled_from(Mode),
)
def test_a_prompt_leaves_room_for_what_is_generated(
    prefix: str, suffix: str, context: int, window: WindowPolicy, mode: Mode
) -> None:
    builder = PromptBuilder(TOKENIZER, context)
    for end in {len(prefix) // 2, len(prefix)}:
        prompt = build(builder, prefix[:end], suffix, window=window, mode=mode, max_tokens=12)
        assert 3 <= len(prompt.ids) <= context - 12
        ids = prompt.ids[prompt.ids.index(SPECIAL.prefix) + 1 :]
        assert len(ids) - (mode is Mode.SEP) + bool(prompt.heal) <= window.prefix_tokens


def test_no_room_is_an_error() -> None:
    with pytest.raises(PromptError, match="no room"):
        build(PromptBuilder(TOKENIZER, 20), "x", max_tokens=20)


def test_the_window_begins_at_a_line() -> None:
    prompt = build(new(), LINES, window=NARROW)
    assert LINES.endswith("\n" + prefix_part(prompt))
    assert 20 < len(prompt.ids) < 50


def test_typing_only_appends_and_rarely_moves_the_window() -> None:
    builder, suffix = new(), "\n\n" + LINES
    previous, cheap, moved = build(builder, LINES[:400], suffix, window=NARROW), 0, 0
    for end in range(401, 1000):
        prompt = build(builder, LINES[:end], suffix, window=NARROW)
        assert len(prompt.ids) <= 100 + 30 + 4
        # Healing takes back one token, and a new letter may join the last two.
        cheap += common(previous, prompt) >= len(previous.ids) - 3
        moved += len(prompt.ids) < len(previous.ids) - 20
        previous = prompt
    assert cheap >= 590
    assert 1 <= moved <= 6


def test_a_line_longer_than_the_window_is_cut_inside() -> None:
    builder, line = new(), "x = [" + "12, " * 2000
    lengths = [len(build(builder, line + "1, " * n, window=NARROW).ids) for n in range(60)]
    assert max(lengths) <= 104
    assert min(lengths) > 20


def test_a_cursor_jump_starts_a_short_window() -> None:
    builder = new()
    policy = WindowPolicy(prefix_tokens=300, fresh_prefix_tokens=60, suffix_tokens=30)
    for end in range(400, 1000, 20):
        grown = build(builder, LINES[:end], LINES[1200:], window=policy)
    jumped = build(builder, LINES[:900], LINES[900:], window=policy)
    assert len(grown.ids) > 150
    assert len(jumped.ids) < 100


def test_the_suffix_is_kept_while_only_distant_text_changes() -> None:
    builder, window = new(), WindowPolicy(200, 200, 400)
    builder_room = build(builder, "x = ", LINES[:700], window=window)
    distant = LINES[:600] + "changed\n" + LINES[608:700]
    assert build(builder, "x = ", distant, window=window) == builder_room
    near = "changed\n" + LINES[8:700]
    assert suffix_part(build(builder, "x = ", near, window=window)).startswith("changed\n")


def test_a_short_suffix_that_grows_is_taken_anew() -> None:
    builder = new()
    build(builder, "x = ", "")
    assert suffix_part(build(builder, "x = ", "\ny = 2\n")) == "\ny = 2\n"


def test_an_edit_above_the_window_keeps_it() -> None:
    builder = new()
    first = build(builder, LINES, "\nend\n", window=NARROW)
    second = build(builder, "import os\n" + LINES, "\nend\n", window=NARROW)
    assert second == first


def test_an_edit_at_the_window_start_takes_a_new_one() -> None:
    builder = new()
    first = build(builder, LINES, "\nend\n", window=NARROW)
    edited = LINES.replace("value", "other")
    second = build(builder, edited, "\nend\n", window=NARROW)
    assert "other" in prefix_part(second)
    assert "value" not in prefix_part(second)
    assert common(first, second) < len(first.ids)


def test_documents_do_not_share_windows_and_can_be_forgotten() -> None:
    builder = new()
    policy = WindowPolicy(prefix_tokens=400, fresh_prefix_tokens=60, suffix_tokens=30)
    for end in (200, 400, 600):  # typed, not jumped
        grown = build(builder, LINES[:end], "\n", window=policy)
    assert len(build(builder, LINES[:600], "\n", uri="b", window=policy).ids) < len(grown.ids)
    builder.forget("a")
    assert len(build(builder, LINES[:600], "\n", window=policy).ids) < len(grown.ids)


def test_rest_reads_more_of_the_suffix_and_typing_goes_on_from_it() -> None:
    builder = new()
    policy = WindowPolicy(
        prefix_tokens=400, fresh_prefix_tokens=60, suffix_tokens=90, fresh_suffix_tokens=12
    )
    suffix = "\n" + LINES[:900]
    first = build(builder, LINES[:600], suffix, window=policy)
    ahead = builder.build_ahead(
        LINES[:600], suffix, uri="a", window=policy, mode=Mode.JOINT, max_tokens=8
    )
    assert ahead is not None
    assert len(ahead.ids) > len(first.ids) + 70
    builder.adopt("a", policy)
    typed = build(builder, LINES[:600] + "value_", suffix, window=policy)
    assert common(ahead, typed) >= len(ahead.ids) - 2
