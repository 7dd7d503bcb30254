"""From the text around the cursor to prompt ids, built so that typing only appends.

Layouts of our own models (training used the same, in `models.training`); imported ones bring
theirs in the manifest, see `models.template`:

- joint: `<|eot|> <|suffix|> S <|prefix|> P`, the last word of P dropped and handed over for
  healing: the model continues P, and the word under the cursor is tokenised as in training.
- sep: `<|eot|> <|suffix|> S <|prefix|> P <|middle|>`: the model writes the span between P and S and
  ends it with `<|eom|>`. Only a blank line is healed, with its line break: in training a span of
  whole lines begins before the break, which is one token with the indent.
- retrieved code, where there is any, stands behind `<|eot|>`, each piece as `<|file|> path text`.

The KV cache of a prompt is worth its longest common prefix with the previous one, so a document
keeps a window. The prefix part starts at a fixed place and grows with typing up to
`WindowPolicy.prefix_tokens`; only then is it cut back to `fresh_prefix_tokens`, at a line
boundary. The suffix part stands before it, where any change costs everything: it is taken once
and kept until the text near the cursor differs; retrieved code goes with it, so that it changes
only with a jump, or in rest. After a cursor jump the window left behind is
kept, with a KV cache of its own: a look at another place and back costs one prompt, not two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from completion.shape import line_around
from completion.trigger import closing_only
from completion.types import CompletionRequest, Mode, WindowPolicy
from models.errors import PromptError
from models.template import Layout
from models.tokenizer import Tokenizer, split_lines

_DOCUMENTS = 64
# Windows kept per document: where the user is, and where they were before.
SLOTS = 2
# The window's first characters; finding them again proves that it may be kept.
_ANCHOR_CHARACTERS = 256
# A suffix taken earlier is still right while this many lines after the cursor are unchanged.
_SUFFIX_LINES = 10
# Text longer than this per token of budget is cut before tokenising (measured mean: 3.9).
_CHARACTERS_PER_TOKEN = 16
_MEAN_CHARACTERS_PER_TOKEN = 4
# A line longer than the window starts here; dense text (digits, Chinese) takes more tokens.
_CUT_CHARACTERS_PER_TOKEN = 2
# After an overflow the window must have room to grow, or every keystroke would overflow again.
_OVERFLOW_SHARE = 0.7
_MARKERS = 4
# Fewer tokens before the cursor than this are not worth a suggestion, however slow the machine.
_LEAST_PREFIX = 64
# Where time is short, the suffix gets one part in so many of what can be read, or this.
_SUFFIX_PART = 4
_LEAST_SUFFIX = 16
# In rest, a window is built anew when it covers less than this share of what it might, or when
# it is this near to overflowing.
_SHORT_SHARE = 0.6
_FULL_SHARE = 0.92


ContextSupply = Callable[[int, str, int], tuple[int, ...]]
"""Gives the ids of retrieved code for a new window: how many characters before the cursor the
window shows, the text behind the cursor that it shows, the most tokens there may be."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt ids and, in joint mode, the bytes the first generated tokens must reproduce.

    `slot` tells which of the document's KV caches has most of it, see `cache_key`; `context` is
    the part of the ids that was retrieved; `healed` is how many tokens `heal` was taken from.
    """

    ids: list[int]
    heal: bytes = b""
    slot: int = 0
    context: tuple[int, ...] = ()
    healed: int = 0


def cache_key(uri: str, slot: int) -> str:
    """Names one of a document's KV caches; no URI holds a line break."""
    return f"{uri}\n{slot}" if slot else uri


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
        slot: which of the document's KV caches it is in.
        reach: characters from `start` to the cursor then; what follows is not in the KV cache.
        context: ids of the retrieved code in front of it.
    """

    start: int
    anchor: str
    length: int
    suffix: _Suffix
    slot: int
    reach: int
    context: tuple[int, ...] = ()

    def find(self, prefix: str, length: int) -> int | None:
        """Where the window starts in `prefix` of a document of `length`, None where it is gone."""
        for start in (self.start, self.start + length - self.length):
            if 0 <= start <= len(prefix) and prefix.startswith(self.anchor, start):
                return start
        return None


_Key = tuple[str, WindowPolicy, bool]
"""Document, policy, and whether there may be retrieved code."""


class PromptBuilder:
    """Builds prompts and keeps the window of each document. Not thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_length: int,
        holds: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`context_length` and `holds` as in `Backend`.

        A window whose KV cache had to give way to others is forgotten: it may be too long to be
        read anew in time.
        """
        self._holds = holds
        self._tokenizer = tokenizer
        self._context_length = context_length
        # Most recently used first.
        self._windows: OrderedDict[_Key, list[_Window]] = OrderedDict()
        self._ahead: dict[_Key, _Window] = {}

    def build(
        self,
        prefix: str,
        suffix: str,
        *,
        uri: str,
        window: WindowPolicy,
        mode: Mode,
        max_tokens: int,
        affordable: int | None = None,
        imagined: bool = False,
        supply: ContextSupply | None = None,
    ) -> Prompt:
        """Prompt for the cursor between `prefix` and `suffix` (normalised text).

        Never longer than the context length less `max_tokens`. A new window holds about
        `affordable` tokens at most. An `imagined` document is what the user's may become: the
        window is not moved for it. `supply` is asked for retrieved code where a new window begins.

        Raises:
            PromptError: `max_tokens` leaves no room for a prompt.
        """
        layout = self._layout(mode)
        room = self._room(max_tokens, layout)
        length = len(prefix) + len(suffix)
        full = min(window.suffix_tokens, room // 2) if layout.has_suffix else 0
        key = (uri, window, supply is not None)
        known = self._windows.get(key, [])
        known[:] = [one for one in known if self._holds(cache_key(uri, one.slot))]
        old = self._fitting(known, prefix, suffix, full)
        most, fresh = min(window.fresh_suffix_tokens, full), window.fresh_prefix_tokens
        if affordable is not None:
            most = min(most, max(_LEAST_SUFFIX, affordable // _SUFFIX_PART))
            fresh = min(fresh, max(_LEAST_PREFIX, affordable - most))
        after = old.suffix if old else self._take_suffix(suffix, most)
        context = old.context if old else ()
        if old is None and supply is not None and not imagined:
            left = room - most - fresh if affordable is None else affordable - most - fresh
            shown = fresh * _MEAN_CHARACTERS_PER_TOKEN
            context = supply(shown, after.text, max(0, min(left, room - most - fresh)))
        cap = min(window.prefix_tokens, room - len(after.ids) - len(context))
        # With another suffix nothing of the KV cache survives: a short window is quick to read.
        start = old.find(prefix, length) if old else None
        if old and start is not None:
            characters = len(prefix) - start
            overflow = characters > cap * _CHARACTERS_PER_TOKEN
            if overflow or characters - old.reach > fresh * _MEAN_CHARACTERS_PER_TOKEN:
                start = None
        if start is None:
            start = self._window_start(prefix, min(fresh, cap))
        before, line = self._encode_prefix(prefix[start:], layout)
        if len(before) > cap:
            start = self._window_start(prefix, min(fresh, int(cap * _OVERFLOW_SHARE)))
            before, line = self._encode_prefix(prefix[start:], layout)
            before = before[max(0, len(before) - cap) :]
        slot = old.slot if old else self._free_slot(key)
        used = _Window(*_anchored(prefix, start), length, after, slot, len(prefix) - start, context)
        if not imagined:
            self._remember(key, used)
        return self._lay_out(used, prefix, before, min(line, len(before)), layout)

    def build_ahead(
        self,
        prefix: str,
        suffix: str,
        *,
        uri: str,
        window: WindowPolicy,
        mode: Mode,
        max_tokens: int,
        supply: ContextSupply | None = None,
    ) -> Prompt | None:
        """Prompt of a better window than the last one of `build`, to be read while the user rests.

        A short window is extended, one that is nearly full is cut; one whose retrieved code is no
        longer what `supply` gives gets the new one. `adopt` makes `build` use it;
        until then it stays where it begins, so that reading it may be interrupted.

        Returns:
            None where the window is good as it is, or gone.

        Raises:
            PromptError: `max_tokens` leaves no room for a prompt.
        """
        key, length = (uri, window, supply is not None), len(prefix) + len(suffix)
        current = next(iter(self._windows.get(key, [])), None)
        start = current.find(prefix, length) if current else None
        if current is None or start is None:
            return None
        layout = self._layout(mode)
        room = self._room(max_tokens, layout)
        most = min(window.suffix_tokens, room // 2) if layout.has_suffix else 0
        context: tuple[int, ...] = ()
        if supply is not None:
            shown = window.rest_prefix_tokens * _MEAN_CHARACTERS_PER_TOKEN
            left = max(0, room - most - min(window.rest_prefix_tokens, room - most))
            context = supply(shown, self._take_suffix(suffix, most).text, left)
        cap = min(window.prefix_tokens, room - most - len(context))
        target = min(window.rest_prefix_tokens, int(cap * _OVERFLOW_SHARE))
        used = len(self._tokenizer.encode(prefix[start:]))
        long_enough = start == 0 or used >= _SHORT_SHARE * target
        whole_suffix = not current.suffix.truncated or len(current.suffix.ids) >= most
        settled = context == current.context
        if used <= _FULL_SHARE * cap and long_enough and whole_suffix and settled:
            self._ahead.pop(key, None)
            return None
        begun = self._ahead.get(key)
        if begun and not (begun.suffix.fits(suffix, most) and begun.context == context):
            begun = None
        after = begun.suffix if begun else self._take_suffix(suffix, most)
        start = begun.find(prefix, length) if begun else None
        before, line = ([], 0) if start is None else self._encode_prefix(prefix[start:], layout)
        if start is None or len(before) > _FULL_SHARE * cap:
            start = self._window_start(prefix, target)
            before, line = self._encode_prefix(prefix[start:], layout)
            before = before[-cap:]
        slot, reach = current.slot, len(prefix) - start
        better = _Window(*_anchored(prefix, start), length, after, slot, reach, context)
        self._ahead[key] = better
        return self._lay_out(better, prefix, before, min(line, len(before)), layout)

    def adopt(self, uri: str, window: WindowPolicy, *, context: bool = False) -> None:
        """Go on with the window of the last `build_ahead`: the model has read it.

        `context`: whether that call had a `supply`.
        """
        key = (uri, window, context)
        self._remember(key, self._ahead.pop(key))

    def forget(self, uri: str) -> None:
        """Drop the windows of a closed document."""
        for key in [key for key in self._ahead if key[0] == uri]:
            del self._ahead[key]
        for key in [key for key in self._windows if key[0] == uri]:
            del self._windows[key]

    def _room(self, max_tokens: int, layout: Layout) -> int:
        """How many tokens of text a prompt may hold."""
        room = self._context_length - max_tokens - max(_MARKERS, layout.markers)
        if room < 1:
            raise PromptError(
                f"{max_tokens} tokens to generate leave no room for a prompt in a context of "
                f"{self._context_length}"
            )
        return room

    @staticmethod
    def _fitting(
        windows: list[_Window], prefix: str, suffix: str, suffix_tokens: int
    ) -> _Window | None:
        """The window whose suffix may stand for `suffix`, best one that starts in `prefix`."""
        length = len(prefix) + len(suffix)
        fitting = [one for one in windows if one.suffix.fits(suffix, suffix_tokens)]
        found = (one for one in fitting if one.find(prefix, length) is not None)
        return next(found, fitting[0] if fitting else None)

    def _free_slot(self, key: _Key) -> int:
        """A slot without a window, or that of the least recently used one."""
        windows = self._windows.get(key, [])
        used = {window.slot for window in windows}
        free = [slot for slot in range(SLOTS) if slot not in used]
        return free[0] if free else windows[-1].slot

    def _layout(self, mode: Mode) -> Layout:
        template = self._tokenizer.template
        return template.sep if mode is Mode.SEP else template.joint

    def _encode_prefix(self, prefix: str, layout: Layout) -> tuple[list[int], int]:
        """Ids, and how many at their end are the cursor's line where that stands apart."""
        if not layout.splits_line:
            return self._tokenizer.encode(prefix), 0
        cut = prefix.rfind("\n") + 1
        line = self._tokenizer.encode(prefix[cut:])
        return [*self._tokenizer.encode(prefix[:cut]), *line], len(line)

    def _lay_out(
        self, window: _Window, text: str, prefix: list[int], line: int, layout: Layout
    ) -> Prompt:
        """`prefix` is the end of what the prefix `text` encodes to."""
        context, slot = window.context, window.slot
        written = prefix[len(prefix) - line :] if layout.splits_line else prefix
        tokens, opened = self._tokenizer, 0
        if layout.heal and written:
            opened = tokens.open_tokens(text, written)
        elif layout.heal_blank_line:
            opened = tokens.blank_line_tokens(written)
        kept = prefix[: len(prefix) - opened]
        ids = layout.lay_out(window.suffix.ids, kept, max(0, line - opened), context)
        heal = b"".join(map(tokens.token_bytes, prefix[len(kept) :]))
        return Prompt(ids, heal, slot, context, opened)

    def _take_suffix(self, suffix: str, budget: int) -> _Suffix:
        """The first `budget` tokens of `suffix`."""
        taken, used = 0, 0
        head = suffix[: budget * _CHARACTERS_PER_TOKEN]
        for piece in split_lines(head):
            if used >= budget:
                break
            used += len(self._tokenizer.encode(piece))
            taken += len(piece)
        ids = self._tokenizer.encode(suffix[:taken])
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

    def _remember(self, key: _Key, window: _Window) -> None:
        others = [one for one in self._windows.get(key, []) if one.slot != window.slot]
        self._windows[key] = [window, *others]
        self._windows.move_to_end(key)
        while len(self._windows) > _DOCUMENTS:
            gone, _ = self._windows.popitem(last=False)
            self._ahead.pop(gone, None)


def _anchored(prefix: str, start: int) -> tuple[int, str]:
    return start, prefix[start : start + _ANCHOR_CHARACTERS]


def prompt_suffix(request: CompletionRequest, suffix: str) -> str:
    """The suffix as the model sees it.

    In single-line mode, brackets and quotes right of the cursor that an editor closed are left
    out: the model writes the line's end itself, `shape` puts both together again, and the KV
    cache survives an editor that adds and removes them with every bracket typed.
    """
    policies = request.policies
    if not policies.shape.enabled or policies.decode.mode is not Mode.JOINT:
        return suffix
    _, right = line_around("", suffix)
    one_line = policies.decode.max_lines == 1
    return suffix[len(right) :] if one_line and closing_only(right) else suffix
