"""The model calls of the typing trace, recorded once and played back through any engine.

Which calls are made depends on what was suggested before; recorded calls are the same for every
engine, token by token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.replay import Cause
from benchmarks.trace import Place, Session, keystrokes
from completion.engine import CompletionEngine
from completion.types import CompletionRequest, DecodePolicy, Policies
from models.backend import GenerateRequest, GenerateResult
from models.local import LocalBackend


@dataclass(frozen=True, slots=True)
class Call:
    """One model call and what made the editor ask."""

    cause: Cause
    request: GenerateRequest


class _Recorder(LocalBackend):
    """Our backend; remembers what it was asked and reads as much as there is time for."""

    cause = Cause.OPEN
    calls: list[Call]

    def generate(self, request: GenerateRequest) -> GenerateResult:
        self.calls.append(Call(self.cause, replace(request, deadline=None)))
        return super().generate(request)

    def affordable_tokens(self, seconds: float) -> int | None:
        return None


def record(backend: LocalBackend, files: Iterable[Session]) -> list[list[Call]]:
    """The calls that typing each file causes, without accepting suggestions or resting.

    `backend` is used and its KV caches are left empty.
    """
    # A second object on the same loaded session: nothing is loaded twice.
    recorder = object.__new__(_Recorder)
    recorder.__dict__.update(backend.__dict__)
    policies = Policies(decode=DecodePolicy(deadline_ms=None))
    recorded = []
    for session in files:
        recorder.calls = []
        engine = CompletionEngine(recorder)
        _type(engine, recorder, session, policies)
        engine.forget(session.name)
        recorded.append(recorder.calls)
    return recorded


def _type(
    engine: CompletionEngine, recorder: _Recorder, session: Session, policies: Policies
) -> None:
    missing = {line for place in session.places for line in range(place.start, place.end)}

    def text_around(line: int, typed: str) -> tuple[str, str]:
        """Document before and after the end of `typed`, which follows the lines before `line`."""
        before = [text for n, text in enumerate(session.lines) if n < line and n not in missing]
        after = [text for n, text in enumerate(session.lines) if n >= line and n not in missing]
        return "\n".join(before) + typed, "\n" + "\n".join(after)

    def ask(cause: Cause, before: str, after: str) -> None:
        recorder.cause = cause
        request = CompletionRequest(before + after, len(before), session.name, policies=policies)
        engine.complete(request)

    for index, place in enumerate(session.places):
        typed = ""
        ask(Cause.JUMP if index else Cause.OPEN, *text_around(place.start, typed))
        for number, key in enumerate(_keys(session, place), start=1):
            typed += key
            ask(Cause.KEY, *text_around(place.start, typed))
            if number == place.glance.after and place.glance.line not in missing:
                before, after = text_around(place.start, typed)
                lines, row = (before + after).split("\n"), _row(place, missing, typed)
                ask(Cause.JUMP, "\n".join(lines[: row + 1]), "\n" + "\n".join(lines[row + 1 :]))
                ask(Cause.JUMP, before, after)
        missing -= set(range(place.start, place.end))


def _keys(session: Session, place: Place) -> list[str]:
    return keystrokes(session.lines[place.start : place.end])


def _row(place: Place, missing: set[int], typed: str) -> int:
    """Row of the glanced-at line in the document that holds `typed`."""
    line = place.glance.line
    row = line - sum(1 for other in missing if other < line)
    return row + typed.count("\n") if line >= place.start else row
