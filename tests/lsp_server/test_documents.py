from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.documents import (
    Document,
    DocumentError,
    Documents,
    Encoding,
    split_lines,
    to_character,
    to_column,
)

CODECS = {Encoding.UTF8: "utf-8", Encoding.UTF16: "utf-16-le", Encoding.UTF32: "utf-32-le"}
UNIT_BYTES = {Encoding.UTF8: 1, Encoding.UTF16: 2, Encoding.UTF32: 4}
TEXT = st.text(alphabet="ab\n\r\x0c\u2028é漢😀", max_size=20)


def document(text: str, encoding: Encoding = Encoding.UTF16) -> Document:
    return Document(text, "python", encoding)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a\n", ["a\n", ""]),
        ("a\r\nb\rc\n\n", ["a\r\n", "b\r", "c\n", "\n", ""]),
        # Not line ends in LSP, though `str.splitlines` takes them for such.
        ("a\x0cb\u2028c\x85\x1cd\n", ["a\x0cb\u2028c\x85\x1cd\n", ""]),
    ],
)
def test_lines_end_where_the_specification_says(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines


@pytest.mark.parametrize(
    ("encoding", "character", "column"),
    [
        # x = "é漢😀" has the quote at these units in each encoding.
        (Encoding.UTF8, 5 + 2 + 3 + 4, 8),
        (Encoding.UTF16, 5 + 1 + 1 + 2, 8),
        (Encoding.UTF32, 8, 8),
        (Encoding.UTF8, 999, 9),
        (Encoding.UTF16, 999, 9),
        # Inside a character: its start.
        (Encoding.UTF8, 5 + 1, 5),
        (Encoding.UTF16, 5 + 2 + 1, 7),
    ],
)
def test_columns_of_non_ascii_lines(encoding: Encoding, character: int, column: int) -> None:
    assert to_column('x = "é漢😀"\r\n', character, encoding) == column


@settings(deadline=None)
@given(st.text(alphabet="ab é漢😀"), st.sampled_from(Encoding), st.data())
def test_positions_count_code_units(line: str, encoding: Encoding, data: st.DataObject) -> None:
    column = data.draw(st.integers(0, len(line)))
    units = len(line[:column].encode(CODECS[encoding])) // UNIT_BYTES[encoding]
    assert to_character(line, column, encoding) == units
    assert to_column(line + "\n", units, encoding) == column


def test_a_cursor_outside_is_clamped() -> None:
    text = "ab\r\ncd"
    assert document(text).cursor(0, 99).offset == 2
    assert document(text).cursor(99, 0).offset == len(text)
    assert document("").cursor(5, 5).offset == 0


def test_a_cursor_below_a_form_feed() -> None:
    cursor = document("a\n\x0c\nb = 1\n").cursor(2, 5)
    assert (cursor.line_start, cursor.offset, cursor.line_text) == (4, 9, "b = 1\n")


def test_offsets_on_other_lines_have_no_character() -> None:
    cursor = document("ab\ncd\n").cursor(1, 1)
    assert [cursor.character(offset) for offset in (3, 4, 5)] == [0, 1, 2]
    for offset in (2, 6):
        with pytest.raises(ValueError, match="not on the cursor's line"):
            cursor.character(offset)


@settings(deadline=None)
@given(TEXT, TEXT, st.data())
def test_edits_equal_those_of_the_whole_text(text: str, insert: str, data: st.DataObject) -> None:
    """Also where an edit joins or parts a carriage return and a line feed."""
    # Between "\r" and "\n" there is no position.
    places = [i for i in range(len(text) + 1) if text[i - 1 : i + 1] != "\r\n"]
    start, end = sorted(data.draw(st.tuples(*[st.sampled_from(places)] * 2)))
    changed = document(text)
    changed.edit(_position(text, start), _position(text, end), insert)
    expected = text[:start] + insert + text[end:]
    assert changed.cursor(0, 0).text == expected
    for line, content in enumerate(re.split("\r\n|\r|\n", expected)):
        cursor = changed.cursor(line, 10**6)
        assert cursor.text[cursor.line_start : cursor.offset] == content


def _position(text: str, offset: int) -> tuple[int, int]:
    lines = re.split("\r\n|\r|\n", text[:offset])
    return len(lines) - 1, len(lines[-1].encode("utf-16-le")) // 2


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    changed = document("a\ud83d\n")
    changed.edit((0, 0), (0, 0), "\udc00")
    assert changed.cursor(0, 0).text == "\ufffda\ufffd\n"


def test_a_backward_range_is_refused() -> None:
    with pytest.raises(DocumentError, match="ends before"):
        document("abc").edit((0, 2), (0, 1), "x")


def test_closed_documents_are_unknown() -> None:
    documents = Documents()
    documents.open("untitled:1", "a", "python")
    documents.require("untitled:1")
    documents.close("untitled:1")
    documents.close("untitled:1")
    assert documents.get("untitled:1") is None
    with pytest.raises(DocumentError, match="untitled:1 is not open"):
        documents.require("untitled:1")
