from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.text import BYTE_ORDER_MARK, CursorError, normalise, offset_at

lines = st.lists(st.text(alphabet="ab\té🙂", max_size=5), min_size=1, max_size=6)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, str, bool]:
    content = "\n".join(draw(lines))
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return content, ending, draw(st.booleans())


@given(documents(), st.integers(0, 40))
def test_the_model_sees_the_same_text_whatever_the_line_ending(
    document: tuple[str, str, bool], at: int
) -> None:
    content, ending, mark = document
    at = min(at, len(content))
    head, tail = content[:at].replace("\n", ending), content[at:].replace("\n", ending)
    text = BYTE_ORDER_MARK * mark + head + tail
    normalised = normalise(text, mark + len(head))
    assert (normalised.prefix, normalised.suffix) == (content[:at], content[at:])
    assert normalised.cursor == mark + len(head)
    if "\n" in content:
        assert normalised.restore("a\n\tb") == f"a{ending}\tb"


@given(st.text(alphabet="a\r\n\ufeff", max_size=12), st.data())
def test_every_cursor_is_accepted_and_leads_back(text: str, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(text)))
    normalised = normalise(text, offset)
    assert "\r" not in normalised.prefix + normalised.suffix
    assert abs(normalised.cursor - offset) <= 1
    again = normalise(text, normalised.cursor)
    assert (again.prefix, again.suffix, again.cursor) == (
        normalised.prefix,
        normalised.suffix,
        normalised.cursor,
    )


def test_a_cursor_never_splits_a_line_ending() -> None:
    normalised = normalise("a\r\nb", 2)
    assert (normalised.prefix, normalised.suffix, normalised.cursor) == ("a", "\nb", 1)


def test_the_most_frequent_line_ending_wins() -> None:
    assert normalise("a\nb\r\nc\r\n", 0).restore("\n") == "\r\n"
    assert normalise("a\nb\nc\r\n", 0).restore("\n") == "\n"
    assert normalise("no line break", 0).restore("\n") == "\n"


@pytest.mark.parametrize("offset", [-1, 4])
def test_a_cursor_outside_the_document_is_an_error(offset: int) -> None:
    with pytest.raises(CursorError, match="outside the document"):
        normalise("abc", offset)


@given(documents(), st.data())
def test_positions_count_characters_of_each_line(
    document: tuple[str, str, bool], data: st.DataObject
) -> None:
    content, ending, mark = document
    rows = content.split("\n")
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(rows[row])))
    text = BYTE_ORDER_MARK * mark + content.replace("\n", ending)
    offset = offset_at(text, row + 1, column + 1)
    rest = normalise(text, offset).suffix
    assert rest == "\n".join([rows[row][column:], *rows[row + 1 :]])


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [(0, 1, "no line 0"), (4, 1, "no line 4"), (1, 0, "no column 0"), (1, 5, "no column 5")],
)
def test_positions_beyond_the_text_are_errors(line: int, column: int, message: str) -> None:
    with pytest.raises(CursorError, match=message):
        offset_at("abc\r\nde\r\n", line, column)
