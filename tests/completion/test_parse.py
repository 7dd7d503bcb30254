from __future__ import annotations

import pytest

from completion.parse import count_errors


@pytest.mark.parametrize("text", ["", "x = 1\n", "def f():\n    pass\n", "# é😀\n", "x = 'ä'"])
def test_whole_code_has_no_errors(text: str) -> None:
    assert count_errors(text) == 0


@pytest.mark.parametrize(
    "text", ["def f(:\n    pass\n", "x = = 1\n", "f(1, 2\n\ny = 3\n", "\ud800 = ="]
)
def test_broken_code_has_some(text: str) -> None:
    assert count_errors(text) > 0
