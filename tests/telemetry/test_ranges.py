from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.ranges import Edit, Range, distance, locate, refine

short = st.text(alphabet="ab\n ", max_size=12)


def levenshtein(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@given(short, short)
def test_distance_is_levenshteins(left: str, right: str) -> None:
    assert distance(left, right) == levenshtein(left, right)


def apply(text: str, edit: Edit) -> str:
    assert text[edit.start : edit.end] == edit.removed
    return text[: edit.start] + edit.inserted + text[edit.end :]


@given(short, short, short, short)
def test_refined_edits_do_the_same(head: str, old: str, new: str, tail: str) -> None:
    text = head + old + tail
    for part in refine(Edit(len(head), old, new)):
        text = apply(text, part)
    assert text == head + new + tail


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), short), max_size=8))
def test_a_range_stays_in_the_document(edits: list[tuple[int, int, str]]) -> None:
    text, place = "0123456789" * 2, Range(5, 12)
    for start, length, inserted in edits:
        start = min(start, len(text))
        edit = Edit(start, text[start : start + length], inserted)
        for part in refine(edit):
            place.follow(part)
        text = apply(text, edit)
        assert 0 <= place.start <= place.end <= len(text)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), short), max_size=6))
def test_undoing_everything_brings_a_range_back(edits: list[tuple[int, int, str]]) -> None:
    original = text = "abcdefghijklmnopqrstuvwxyz"
    place, done = Range(5, 12), []
    for start, length, inserted in edits:
        start = min(start, len(text))
        removed = text[start : start + length]
        # An editor deletes and inserts; both come back in reverse.
        for edit in (Edit(start, removed, ""), Edit(start, "", inserted)):
            place.follow(edit)
            text = apply(text, edit)
            done.append(edit)
    for edit in reversed(done):
        back = Edit(edit.start, edit.inserted, edit.removed)
        place.follow(back)
        text = apply(text, back)
    assert text == original
    assert original[5:12] in text[place.start : place.end] or place.start == place.end


@pytest.mark.parametrize(
    ("text", "near", "found"),
    [
        ("x = foo(1)\n", 4, "foo(1)"),
        ("foo(1) # foo(1)", 9, "foo(1)"),
        ("x = foo(22)\n", 0, "foo(22"),  # no more than is alike
        ("nothing alike here", 3, ""),
        ("", 9, ""),
    ],
)
def test_text_is_found_again(text: str, near: int, found: str) -> None:
    place = locate(text, "foo(1)", near)
    assert text[place.start : place.end] == found


def test_the_nearest_of_equal_texts_is_taken() -> None:
    text = "ab.." * 50
    for near in (0, 1, 77, 102, 199):
        assert abs(locate(text, "ab", near).start - near) <= 3
