"""One benchmark case: a document, a cursor, the text that was there, and how to judge a try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    DecodePolicy,
    Mode,
    Outcome,
    Policies,
    ShapePolicy,
    Suggestion,
    TriggerPolicy,
    WindowPolicy,
)

Judge = Callable[[str], bool]
"""Takes the completion, tells whether it is functionally right. May run it: see `sandbox`."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cursor of a suite.

    Attributes:
        case_id: name inside the suite.
        text: the document without the gold text.
        offset: cursor, code points into `text`.
        gold: the text that stood at the cursor.
        cluster: the file or problem it was cut from; cases of one cluster are not independent.
        decode: prompt layout and stop rules of the suite.
        judge: functional check, or None where only the text is compared.
        truncate: cuts the completion as the benchmark's authors do before judging it.
    """

    case_id: str
    text: str
    offset: int
    gold: str
    cluster: str
    decode: DecodePolicy
    judge: Judge | None = None
    truncate: Callable[[str], str] | None = None

    def policies(self, *, as_shown: bool) -> Policies:
        """Return what a user has (`as_shown`), or the bare model in the suite's own mode.

        Neither has a deadline (results may not depend on the machine), and both read the window
        that a user has after a rest.
        """
        window = WindowPolicy().rested()
        if as_shown:
            return Policies(window=window, decode=replace(DecodePolicy(), deadline_ms=None))
        return Policies(
            window=window,
            trigger=TriggerPolicy(enabled=False),
            decode=self.decode,
            shape=ShapePolicy(enabled=False),
            confidence=ConfidencePolicy(min_logprob=None),
        )

    def request(self, uri: str, *, as_shown: bool = False) -> CompletionRequest:
        """Build the engine's request under the given document name."""
        return CompletionRequest(
            text=self.text, offset=self.offset, uri=uri, policies=self.policies(as_shown=as_shown)
        )

    def completion(self, outcome: Outcome) -> str | None:
        """Return the text a suggestion puts at the cursor, or None where nothing is shown.

        A suggestion may also replace text on both sides of the cursor; what counts is the
        document it leaves, so the text behind the cursor is taken off that again.
        """
        if not isinstance(outcome, Suggestion):
            return None
        document = self.text[: outcome.start] + outcome.insert + self.text[outcome.end :]
        inserted = document[self.offset :].removesuffix(self.text[self.offset :])
        return inserted if self.truncate is None else self.truncate(inserted)

    def exact(self, completion: str) -> bool:
        """Compare with the gold text; line endings and blanks at the end do not count."""
        return _comparable(completion) == _comparable(self.gold)


def _comparable(text: str) -> str:
    return text.replace("\r\n", "\n").strip("\n").rstrip()


def line_policy(max_tokens: int = 64) -> DecodePolicy:
    """Return the serving mode for the rest of a line: joint, no deadline."""
    return DecodePolicy(mode=Mode.JOINT, max_tokens=max_tokens, max_lines=1, deadline_ms=None)


def span_policy(before: str, max_tokens: int = 256) -> DecodePolicy:
    """Return the mode for a span of any length, whose end the model must find itself.

    Where the cursor's line has begun, joint goes on from the middle of a word; on a blank line
    sep is as good or better (dev/LOG.md, 2026-11-28).

    Args:
        before: the document left of the cursor.
        max_tokens: at most so many.
    """
    begun = before.rpartition("\n")[2].strip()
    mode = Mode.JOINT if begun else Mode.SEP
    return DecodePolicy(mode=mode, max_tokens=max_tokens, max_lines=0, deadline_ms=None)
