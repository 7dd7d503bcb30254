from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.continuation import ContinuationRequest, Continuer, StopStrings
from models.backend import GenerateRequest, GenerateResult, StopReason
from models.cancellation import Cancellation
from models.errors import PromptError
from models.local import LocalBackend
from tests.completion.scripted import ScriptedBackend


@pytest.fixture
def continuer(tiny_backend: LocalBackend) -> Continuer:
    return Continuer(tiny_backend)


def request(**options: object) -> ContinuationRequest:
    given = {"prefix": "import os\nvalue = os", "suffix": "\nprint()\n", "uri": "u"}
    return ContinuationRequest(**(given | {"max_tokens": 20} | options))


def test_pieces_join_to_the_text(continuer: Continuer) -> None:
    told: list[str] = []
    (only,) = continuer.run(request(on_text=told.append))
    assert only.stop is StopReason.MAX_TOKENS
    assert "".join(told) == only.text == "".join(only.pieces)
    assert len(told) > 1
    assert len(only.pieces) == len(only.logprobs)


@given(st.data())
def test_a_stop_string_is_never_told(continuer_text: str, shared: Continuer, data) -> None:
    start = data.draw(st.integers(0, len(continuer_text) - 1))
    length = data.draw(st.integers(1, 6))
    stop = continuer_text[start : start + length]
    told: list[str] = []
    (only,) = shared.run(request(on_text=told.append, stop=(stop, "\x00never")))
    assert only.text == continuer_text[: continuer_text.index(stop)]
    assert "".join(told) == only.text
    assert "".join(only.pieces) == only.text
    assert only.stop is StopReason.STOPPED


class Telling(ScriptedBackend):
    """Tells its answers character by character, as a model does token by token."""

    def generate(self, request: GenerateRequest) -> GenerateResult:
        result = super().generate(request)
        for end in range(1, len(result.text) + 1):
            if request.on_text is not None and request.on_text(result.text[:end]):
                return replace(result, text=result.text[:end], stop=StopReason.STOPPED)
        return result


def test_the_lines_below_are_not_written_again() -> None:
    told: list[str] = []
    backend = Telling(".getcwd()\nprinter()\nprint()\nmore()")
    (only,) = Continuer(backend).run(request(on_text=told.append))
    assert only.text == "".join(told) == ".getcwd()\nprinter()"
    assert only.stop is StopReason.STOPPED


def test_the_rest_of_the_line_is_not_written_again() -> None:
    told: list[str] = []
    backend = Telling(".getcwd()) or path\nprint()")
    (only,) = Continuer(backend).run(request(suffix=" or path\nmore()\n", on_text=told.append))
    assert only.text == "".join(told) == ".getcwd())"
    assert only.stop is StopReason.STOPPED


@pytest.fixture(scope="module")
def shared(tiny_weights) -> Continuer:
    return Continuer(LocalBackend.load(tiny_weights, threads=1))


@pytest.fixture(scope="module")
def continuer_text(shared: Continuer) -> str:
    return shared.run(request())[0].text


def test_further_continuations_differ_or_repeat_the_first(continuer: Continuer) -> None:
    found = continuer.run(request(count=4))
    assert len(found) == 4
    assert found[1].text != found[0].text
    for one in found:
        assert "".join(one.pieces) == one.text
        assert len(one.pieces) == len(one.logprobs)


def test_cancelled_before_it_began(continuer: Continuer) -> None:
    cancel = Cancellation()
    cancel.set()
    (only,) = continuer.run(request(cancel=cancel))
    assert (only.text, only.stop) == ("", StopReason.CANCELLED)


def test_too_many_tokens_are_refused(continuer: Continuer) -> None:
    with pytest.raises(PromptError, match="leave no room"):
        continuer.run(request(max_tokens=5000))


@given(st.text("ab\n", max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_what_is_safe_never_turns_out_to_be_a_stop_string(text: str, stop: list[str]) -> None:
    strings = StopStrings(tuple(stop))
    told = 0
    for length in range(len(text) + 1):
        cut = strings.cut(text[:length])
        if cut is not None:
            assert told <= cut
            break
        told = max(told, strings.safe(text[:length]))
