from __future__ import annotations

import pytest

from completion.brackets import first_unmatched, open_before, scan


@pytest.mark.parametrize(
    ("text", "still_open", "unmatched"),
    [
        ("f(g[", ("(", "["), ()),
        ("f(g[1])", (), ()),
        (")]", (), (")", "]")),
        ("f(']'", ("(",), ()),
        ("f('\\'('", ("(",), ()),
        ("x  # (", (), ()),
        ("# (\nf(", ("(",), ()),
        ("'don\nf(", ("(",), ()),
        ('"""(\n(""" [', ("[",), ()),
        ("f('', \"\", (", ("(", "("), ()),
    ],
)
def test_scan(text: str, still_open: tuple[str, ...], unmatched: tuple[str, ...]) -> None:
    state = scan(text)
    assert state.open == still_open
    assert state.unmatched == unmatched


def test_scan_reports_what_it_ends_inside() -> None:
    assert scan("print('a").quote == "'"
    assert scan('"""a\nb').quote == '"""'
    assert scan("x # y").comment
    assert not scan("x # y\n").comment


def test_open_before_does_not_start_inside_a_docstring() -> None:
    # Scanned from within the docstring, its closing quotes would open a string.
    long_docstring = '"""' + "    words\n" * 4000 + '"""\n'
    assert open_before(long_docstring + "x = foo(\n    bar,\n") == ("(",)


def test_first_unmatched_asks_for_outer_brackets_only_when_needed() -> None:
    def unexpected() -> tuple[str, ...]:
        raise AssertionError

    assert first_unmatched("f(", "x)", unexpected) is None
    assert first_unmatched("f(", "x))", lambda: ()) == 2
    assert first_unmatched("f(", "x))", lambda: ("(",)) is None
    assert first_unmatched("f(", "x)]", lambda: ("(",)) == 2
