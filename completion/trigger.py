"""Whether to run the model at all, decided before anything costs time.

Follows Cody (no word character right of the cursor) and llama.vim (no more than eight other
characters there); both allow the closing brackets and quotes that editors insert themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from completion.types import HiddenReason, Trigger, TriggerPolicy

MAX_RIGHT_CHARACTERS = 8
_CLOSING = re.compile(r"[\s)\]}>\"'`:;,]*")


@dataclass(frozen=True, slots=True)
class Skip:
    """Why the model does not run, and a sentence for the user."""

    reason: HiddenReason
    detail: str


def closing_only(right: str) -> bool:
    """Whether `right` (cursor to line end) is only what editors close by themselves.

    Closing brackets, quotes, `: ; ,` and blanks, at most eight of them. The empty string too.
    """
    visible = len(right.strip())
    return visible <= MAX_RIGHT_CHARACTERS and _CLOSING.fullmatch(right) is not None


def serves(language: str, policy: TriggerPolicy, model_languages: frozenset[str]) -> bool:
    """Whether `language` (LSP id) is served under `policy`."""
    return language in (model_languages if policy.languages is None else policy.languages)


def too_large(text: str, limit: int) -> bool:
    """Whether `text` takes more than `limit` bytes in UTF-8."""
    if len(text) > limit:
        return True
    # One code point takes at most four bytes: most files are decided without encoding them.
    return len(text) * 4 > limit and len(text.encode("utf-8", "replace")) > limit


def mid_word(right: str) -> bool:
    """Whether `right` (cursor to line end) holds text that a suggestion would have to fit into."""
    other = _CLOSING.sub("", right)
    return len(other) > MAX_RIGHT_CHARACTERS or re.search(r"\w", other) is not None


def skip_document(
    text: str, language: str, policy: TriggerPolicy, model_languages: frozenset[str]
) -> Skip | None:
    """Why the document is not completed at all, or None to go on.

    Args:
        text: the document.
        language: its LSP language id.
        policy: limits; `enabled=False` always goes on.
        model_languages: LSP language ids that the model card lists.
    """
    if not policy.enabled:
        return None
    if not serves(language, policy, model_languages):
        return Skip(
            HiddenReason.LANGUAGE, f"the model does not serve {language or 'this language'}"
        )
    if too_large(text, policy.max_file_bytes):
        return Skip(HiddenReason.TOO_LARGE, f"the file exceeds {policy.max_file_bytes} bytes")
    return None


def skip_position(right: str, trigger: Trigger, policy: TriggerPolicy) -> Skip | None:
    """Why nothing is suggested at this cursor, or None to go on.

    An explicit request (`Trigger.INVOKED`) may stand in the middle of a line.

    Args:
        right: from the cursor to the end of its line, line break excluded.
        trigger: how the completion was asked for.
        policy: `enabled=False` always goes on.
    """
    if policy.enabled and trigger is Trigger.AUTOMATIC and mid_word(right):
        return Skip(HiddenReason.MID_WORD, "there is text right of the cursor")
    return None
