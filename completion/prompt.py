"""From the text around the cursor to prompt ids, built so that typing only appends.

Layouts (training used the same, in `models.training`):

- joint: `<|eot|> <|suffix|> S <|prefix|> P`, the last token of P dropped and handed over for
  healing: the model continues P, and the word under the cursor is tokenised as in training.
- sep: `<|eot|> <|suffix|> S <|prefix|> P <|middle|>`, nothing healed: the model writes the span
  between P and S and ends it with `<|eom|>`.

The KV cache of a prompt is worth its longest common prefix with the previous one, so a document
keeps a window. The prefix part starts at a fixed place and grows with typing up to
`WindowPolicy.prefix_tokens`; only then is it cut back to `fresh_prefix_tokens`, at a line
boundary. The suffix part stands before it, where any change costs everything: it is taken once
and kept until the text near the cursor differs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from completion.types import Mode, WindowPolicy
from models.backend import PromptError
from models.tokenizer import Tokenizer, split_lines

_DOCUMENTS = 64
# The window's first characters; finding them again proves that it may be kept.
_ANCHOR_CHARACTERS = 256
# A suffix taken earlier is still right while this many lines after the cursor are unchanged.
_SUFFIX_LINES = 10
# Text longer than this per token of budget is cut before tokenising (measured mean: 3.9).
_CHARACTERS_PER_TOKEN = 16
# A line longer than the window starts here; dense text (digits, Chinese) takes more tokens.
_CUT_CHARACTERS_PER_TOKEN = 2
# After an overflow the window must have room to grow, or every keystroke would overflow again.
_OVERFLOW_SHARE = 0.6
_MARKERS = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt ids and, in joint mode, the bytes the first generated tokens must reproduce."""

    ids: list[int]
    heal: bytes = b""


@dataclass(frozen=True, slots=True)
class _Suffix:
    """The part of a suffix that is in the prompt, and whether text follows that is not."""

    text: str
    ids: list[int]
    truncated: bool

    def fits(self, suffix: str, budget: int) -> bool:
        """Whether it may stand for `suffix`: the same, or different only far from the cursor."""
        if len(self.ids) > budget:
            return False
        if suffix == self.text or (self.truncated and suffix.startswith(self.text)):
            return True
        near = self.text.split("\n", _SUFFIX_LINES)[:-1]
        return len(near) == _SUFFIX_LINES and suffix.startswith("\n".join([*near, ""]))


@dataclass(frozen=True, slots=True)
class _Window:
    """What the last prompt of a document covered.

    Attributes:
        start: offset of the first prefix character in the prompt.
        anchor: the first characters behind `start`.
        length: length of the whole document then; edits above the window shift `start`.
        suffix: the suffix part in use.
    """

    start: int
    anchor: str
    length: int
    suffix: _Suffix

    def find(self, prefix: str, length: int) -> int | None:
        """Where the window starts in `prefix` of a document of `length`, None where it is gone."""
        for start in (self.start, self.start + length - self.length):
            if 0 <= start <= len(prefix) and prefix.startswith(self.anchor, start):
                return start
        return None


class PromptBuilder:
    """Builds prompts and keeps the window of each document. Not thread-safe."""

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        """`context_length`: prompt plus generated tokens, as in `Backend.context_length`."""
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._windows: OrderedDict[tuple[str, WindowPolicy], _Window] = OrderedDict()

    def build(
        self,
        prefix: str,
        suffix: str,
        *,
        uri: str,
        window: WindowPolicy,
        mode: Mode,
        max_tokens: int,
    ) -> Prompt:
        """Prompt for the cursor between `prefix` and `suffix` (normalised text).

        Never longer than the context length less `max_tokens`.

        Raises:
            PromptError: `max_tokens` leaves no room for a prompt.
        """
        room = self._context_length - max_tokens - _MARKERS
        if room < 1:
            raise PromptError(
                f"{max_tokens} tokens to generate leave no room for a prompt in a context of "
                f"{self._context_length}"
            )
        length = len(prefix) + len(suffix)
        old = self._windows.get((uri, window))
        most = min(window.suffix_tokens, room // 2)
        kept = old.suffix if old and old.suffix.fits(suffix, most) else None
        after = kept or self._take_suffix(suffix, most)
        cap = min(window.prefix_tokens, room - len(after.ids))
        # With another suffix nothing of the KV cache survives: a short window is quick to read.
        start = old.find(prefix, length) if old and kept else None
        overflow = start is not None and len(prefix) - start > cap * _CHARACTERS_PER_TOKEN
        if start is None or overflow:
            start = self._window_start(prefix, min(window.fresh_prefix_tokens, cap))
        before = self._tokenizer.encode(prefix[start:])
        if len(before) > cap:
            shorter = min(window.fresh_prefix_tokens, int(cap * _OVERFLOW_SHARE))
            start = self._window_start(prefix, shorter)
            before = self._tokenizer.encode(prefix[start:])
            before = before[max(0, len(before) - cap) :]
        anchor = prefix[start : start + _ANCHOR_CHARACTERS]
        self._remember((uri, window), _Window(start, anchor, length, after))
        return self._lay_out(after.ids, before, mode)

    def forget(self, uri: str) -> None:
        """Drop the window of a closed document."""
        for key in [key for key in self._windows if key[0] == uri]:
            del self._windows[key]

    def _lay_out(self, suffix: list[int], prefix: list[int], mode: Mode) -> Prompt:
        special = self._tokenizer.special
        ids = [special.eot, special.suffix, *suffix, special.prefix, *prefix]
        if mode is Mode.SEP:
            return Prompt([*ids, special.middle])
        if not prefix:
            return Prompt(ids)
        return Prompt(ids[:-1], self._tokenizer.token_bytes(ids[-1]))

    def _take_suffix(self, suffix: str, budget: int) -> _Suffix:
        """The first `budget` tokens of `suffix`."""
        taken, ids = 0, list[int]()
        head = suffix[: budget * _CHARACTERS_PER_TOKEN]
        for piece in split_lines(head):
            if len(ids) >= budget:
                break
            ids += self._tokenizer.encode(piece)
            taken += len(piece)
        truncated = taken < len(suffix) or len(ids) > budget
        return _Suffix(suffix[:taken], ids[:budget], truncated)

    def _window_start(self, prefix: str, budget: int) -> int:
        """The earliest line start from which `prefix` takes about `budget` tokens at most.

        A last line longer than that is cut inside, by characters.
        """
        limit = max(0, len(prefix) - budget * _CHARACTERS_PER_TOKEN)
        start, end, used = len(prefix), len(prefix), 0
        while start > 0:
            line_feed = prefix.rfind("\n", limit, end)
            if line_feed < 0 and limit > 0:
                break
            used += len(self._tokenizer.encode(prefix[max(line_feed, 0) : end]))
            if used > budget:
                break
            start, end = line_feed + 1, line_feed
        if start == len(prefix):
            return max(limit, len(prefix) - _CUT_CHARACTERS_PER_TOKEN * budget)
        return start

    def _remember(self, key: tuple[str, WindowPolicy], window: _Window) -> None:
        self._windows[key] = window
        self._windows.move_to_end(key)
        while len(self._windows) > _DOCUMENTS:
            self._windows.popitem(last=False)
