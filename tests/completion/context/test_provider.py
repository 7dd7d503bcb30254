"""Context on its way through the engine: where it stands, and when it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.context.memory import MemoryIndex
from completion.context.provider import ContextProvider
from completion.context.recent import Recent
from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    ContextPolicy,
    Policies,
    ShapePolicy,
    Suggestion,
    TriggerPolicy,
    WindowPolicy,
)
from tests.completion.scripted import ScriptedBackend

LIBRARY = "def load_settings(path, strict=False):\n    return read_settings_file(path)\n"
CONTEXT = ContextPolicy(enabled=True, gated=False, tokens=120, jump_tokens=60)
POLICIES = Policies(
    trigger=TriggerPolicy(enabled=False),
    shape=ShapePolicy(enabled=False),
    window=WindowPolicy(
        prefix_tokens=200, fresh_prefix_tokens=60, rest_prefix_tokens=100, suffix_tokens=60
    ),
    context=CONTEXT,
)
START = "from lib import load_settings\n\nsettings = load_settings("
FAR = "".join(f"line_{n} = {n}\n" for n in range(40))


class Growing(MemoryIndex):
    """One whose generation a test can raise."""

    now = 0

    @property
    def generation(self) -> int:
        return self.now


class Setup:
    def __init__(self, answers: int = 12, files: dict[str, str] | None = None) -> None:
        self.backend = ScriptedBackend(*["x)"] * answers)
        self.index = Growing({"lib.py": LIBRARY} if files is None else files)
        provider = ContextProvider(self.find, self.backend.tokenizer)
        self.engine = CompletionEngine(self.backend, provider)

    def find(self, uri: str) -> tuple[Growing, str] | None:
        return (self.index, uri.rpartition("/")[2]) if uri.startswith("file:///w/") else None

    def complete(
        self,
        before: str,
        after: str = "",
        uri: str = "file:///w/a.py",
        policies: Policies = POLICIES,
    ) -> Suggestion:
        request = CompletionRequest(before + after, len(before), uri, policies=policies)
        outcome = self.engine.complete(request)
        assert isinstance(outcome, Suggestion)
        return outcome

    def context(self) -> str:
        """Text between `<|eot|>` and `<|suffix|>` of the last prompt."""
        ids = self.backend.requests[-1].prompt_ids
        return self.backend.tokenizer.decode(
            ids[1 : ids.index(self.backend.tokenizer.special.suffix)]
        )


def test_context_stands_first_and_is_recorded() -> None:
    setup = Setup()
    record = setup.complete(START).record
    assert setup.context().startswith("lib.py\ndef load_settings(path, strict=False):")
    assert record.context_tokens == sum(chunk.tokens for chunk in record.chunks) > 0
    assert [(chunk.file, chunk.line) for chunk in record.chunks] == [("lib.py", 1)]
    assert set(record.chunks[0].sources) <= {"bm25", "similar", "definitions"}
    assert "definitions" in record.chunks[0].sources


@pytest.mark.parametrize(
    ("uri", "context"),
    [
        ("file:///w/a.py", ContextPolicy()),
        ("untitled:1", CONTEXT),
        ("file:///elsewhere/a.py", CONTEXT),
    ],
)
def test_no_context_where_it_is_off_or_nothing_is_indexed(uri: str, context: ContextPolicy) -> None:
    setup = Setup()
    record = setup.complete(START, uri=uri, policies=replace(POLICIES, context=context)).record
    assert setup.context() == ""
    assert (record.context_tokens, record.chunks) == (0, [])


def test_why_there_is_none_is_recorded() -> None:
    assert Setup().complete(START).record.context_rule == ""
    empty = Setup(files={}).complete(START).record
    assert "nothing was found" in empty.context_rule
    assert empty.context_gain is None
    tight = replace(POLICIES, context=replace(CONTEXT, jump_tokens=10))
    assert "room" in Setup().complete(START, policies=tight).record.context_rule
    gated = replace(POLICIES, context=replace(CONTEXT, gated=True))
    setup = Setup(files={"lib.py": "def load_settings(path): ...\n"})
    far = setup.complete(f"{FAR}\nx = load_settings(", policies=gated).record
    assert far.chunks == []
    assert far.context_rule == "not worth reading, of 1 found"
    assert far.context_gain is not None
    typed = setup.complete(f"{FAR}\nx = load_settings(y", policies=gated).record
    assert typed.context_rule == far.context_rule, "as long as the window is the same"


def test_typing_only_appends() -> None:
    setup = Setup()
    setup.complete(START)
    first = setup.backend.requests[-1].prompt_ids
    setup.index.now += 1  # an index that moves on changes nothing while the user types
    setup.complete(START + "pa")
    assert setup.backend.requests[-1].prompt_ids[: len(first)] == first
    assert setup.backend.requests[-1].cache_key == setup.backend.requests[-2].cache_key


def test_a_jump_retrieves_anew() -> None:
    setup = Setup(
        files={"lib.py": LIBRARY, "shapes.py": "def make_square(side):\n    return side\n"}
    )
    setup.complete(START, f")\n{FAR}area = make_square(4)\n")
    assert "load_settings" in setup.context()
    setup.complete(f"{START})\n{FAR}area = make_square(", ")\n")
    assert "make_square" in setup.context()


def test_rest_reads_more_and_a_save_renews_it() -> None:
    files = {
        f"m{n}.py": f"def load_settings_{n}(path):\n    return settings_{n}\n" * 9 for n in range(4)
    }
    setup = Setup(files=files)
    request = CompletionRequest(START, len(START), "file:///w/a.py", policies=POLICIES)
    setup.engine.complete(request)
    jumped = setup.context()
    setup.engine.prepare(replace(request, policies=replace(POLICIES, trigger=TriggerPolicy())))
    rested = setup.context()
    assert len(rested) > len(jumped)
    assert setup.backend.renamed
    count = len(setup.backend.requests)
    setup.engine.prepare(replace(request, policies=replace(POLICIES, trigger=TriggerPolicy())))
    assert len(setup.backend.requests) == count
    setup.complete(START + "x")
    assert setup.context() == rested
    newer = Growing({"new.py": "def load_settings(path):\n    return settings\n"})
    newer.now = 1
    setup.index = newer
    resting = replace(POLICIES, trigger=TriggerPolicy())
    typed = START + "x"
    setup.engine.prepare(CompletionRequest(typed, len(typed), request.uri, policies=resting))
    assert "new.py" in setup.context()


@given(st.integers(0, 600), st.integers(0, 600), st.integers(0, 512))
def test_the_whole_prompt_fits(before: int, after: int, tokens: int) -> None:
    setup = Setup(1, {f"m{n}.py": LIBRARY * 40 for n in range(3)})
    policies = replace(
        POLICIES,
        window=WindowPolicy(),
        context=replace(CONTEXT, tokens=tokens, jump_tokens=tokens),
    )
    setup.complete("load_settings(a)\n" * before, "\nvalue = 1" * after, policies=policies)
    request = setup.backend.requests[-1]
    assert len(request.prompt_ids) + request.max_tokens <= setup.backend.context_length


def test_a_closed_document_is_no_source() -> None:
    setup = Setup(files={})
    other = "def configure_everything(path):\n    return path\n" * 12
    setup.complete(other, uri="file:///w/b.py")
    setup.engine.forget("file:///w/b.py")
    setup.complete(other[:-20])
    assert setup.context() == ""


def test_recent_edits_follow_the_text() -> None:
    recent, lines = Recent(), [f"line {n}\n" for n in range(50)]
    recent.observe("a", "".join(lines))
    assert recent.edits() == []
    lines[30] = "changed\n"
    recent.observe("a", "".join(lines))
    lines.insert(0, "first\n")
    recent.observe("a", "".join(lines))
    texts = [chunk.text for _, chunk in recent.edits()]
    assert "first\n" in texts[0]
    assert "changed\n" in texts[1]
    recent.forget("a")
    assert recent.edits() == []
    assert recent.texts() == {}


@given(st.lists(st.text("ab\n", max_size=40), min_size=2, max_size=6))
def test_any_sequence_of_texts_gives_lines_of_the_last(texts: list[str]) -> None:
    recent = Recent()
    for text in texts:
        recent.observe("a", text)
    for _, chunk in recent.edits():
        assert chunk.text in texts[-1]
