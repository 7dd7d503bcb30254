from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.shape import Shaped, shape
from completion.types import HiddenReason

GOLDEN = Path(__file__).parent / "golden"
CURSOR = "█"


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}: {case['name']}")
        for path in sorted(GOLDEN.glob("*.toml"))
        for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]
    ]


@pytest.mark.parametrize("case", cases())
def test_golden(case: dict[str, Any]) -> None:
    prefix, suffix = case["input"].split(CURSOR)
    shaped = shape(case["raw"], prefix, suffix, max_lines=case.get("max_lines", 1))
    if "hidden" in case:
        assert shaped == HiddenReason(case["hidden"])
        return
    assert isinstance(shaped, Shaped)
    assert prefix + shaped.insert + suffix[shaped.replace_right :] == case["expected"]
    assert shaped.insert == case.get("insert", shaped.insert)


code = st.text(alphabet="ab .:,()[]\"'#\n", max_size=30)


@given(raw=code, prefix=code, suffix=code, max_lines=st.sampled_from([0, 1, 3]))
def test_any_text_is_shaped_on_the_cursors_line(
    raw: str, prefix: str, suffix: str, max_lines: int
) -> None:
    shaped = shape(raw, prefix, suffix, max_lines=max_lines)
    if isinstance(shaped, HiddenReason):
        return
    assert raw.startswith(shaped.insert)
    if not suffix.partition("\n")[0].strip():
        assert shaped.insert == shaped.insert.rstrip()
    assert 0 <= shaped.replace_right <= len(suffix)
    assert "\n" not in suffix[: shaped.replace_right]
    if max_lines == 1:
        assert "\n" not in shaped.insert
