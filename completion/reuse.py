"""Typed-through: while the user types what was suggested, the model does not run.

An `Offer` remembers the document around a suggestion. As long as the document is that one plus
the first characters of the suggestion, what is left of it is the answer, under the same
suggestion id; accepting it gives the same document at every keystroke. Brackets and quotes that
the editor closes while the user types are replaced along with what the offer replaced.

Suggestions that were too uncertain to show are remembered as well: the more of one the user
types, the more certain its rest is, and most of those keystrokes need no model either. One whose
decoding was given up for its uncertainty is never shown: it only tells where the model need not
run, because what is known of it is still too uncertain.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from completion.confidence import TokenLogprobs
from completion.shape import Shaped
from completion.trigger import closing_only
from completion.types import Policies, Source
from models.backend import GenerateResult, StopReason
from models.tokenizer import Tokenizer

_KEPT = 100
_KEPT_CHARACTERS = 4_000_000
"""Of the documents that offers were made for; most are a hundredth of this."""
_ENDED = frozenset({StopReason.NEWLINE, StopReason.END_OF_MIDDLE})


@dataclass(frozen=True, slots=True)
class Offer:
    r"""A suggestion and the document it was made for (normalised, `\n` line ends).

    Attributes:
        suggestion_id: comes back with every remainder.
        prefix: document before the cursor.
        suffix: document after the cursor.
        insert: the suggested text.
        replace_right: how many characters of `suffix` it replaces; none is a line break.
        logprobs: how certain the model was of each part.
        complete: the model ended it; when not, it goes on where it stops.
        aborted: decoding was given up; the text is the raw beginning of something uncertain.
        shown: it was certain enough to show; it stays so while it is typed.
        accepted: the user took it; what is deleted of it is not offered again.
        dismissed: the user turned it down; it is not shown while the text stays the same or is
            typed along it.
    """

    suggestion_id: str
    prefix: str
    suffix: str
    insert: str
    replace_right: int
    logprobs: TokenLogprobs = field(default_factory=TokenLogprobs)
    complete: bool = True
    aborted: bool = False
    shown: bool = True
    accepted: bool = False
    dismissed: bool = False


def make_offer(
    prefix: str,
    suffix: str,
    result: GenerateResult,
    heal: bytes,
    shaped: Shaped,
    tokenizer: Tokenizer,
    *,
    shown: bool,
) -> Offer:
    """An offer of `shaped`, which came out of `result` for the cursor behind `prefix`."""
    lengths = [len(tokenizer.token_bytes(token)) for token in result.token_ids]
    return Offer(
        uuid.uuid4().hex,
        prefix,
        suffix,
        shaped.insert,
        shaped.replace_right,
        TokenLogprobs.align(lengths, result.logprobs, len(heal)),
        complete=result.stop in _ENDED,
        aborted=result.stop is StopReason.UNLIKELY,
        shown=shown,
    )


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is left of an offer; an empty `insert` means all of it is in the document.

    `recalled` tells that another offer was the document's latest.
    """

    offer: Offer
    insert: str
    replace_right: int
    recalled: bool = False

    @property
    def source(self) -> Source:
        """Where a suggestion that is made of it comes from."""
        return Source.CACHE if self.recalled else Source.TYPED_THROUGH

    @property
    def logprob_bounds(self) -> tuple[float, float]:
        """Least and greatest log-probability of what is left, see `TokenLogprobs.bounds`."""
        typed = self.offer.insert[: len(self.offer.insert) - len(self.insert)]
        return self.offer.logprobs.bounds(len(typed.encode("utf-8", "replace")))


def remainder(offer: Offer, prefix: str, suffix: str) -> Remainder | None:
    """What is left of `offer` in the document `prefix` + `suffix`, or None where it does not fit.

    Whatever comes back satisfies: `prefix + insert + suffix[replace_right:]` equals the document
    that the offer itself leads to.
    """
    typed = len(prefix) - len(offer.prefix)
    if not 0 <= typed <= len(offer.insert) or not prefix.startswith(offer.prefix):
        return None
    if not offer.insert.startswith(prefix[len(prefix) - typed :] if typed else ""):
        return None
    kept = len(offer.suffix) - offer.replace_right
    replace_right = len(suffix) - kept
    if replace_right < 0 or not suffix.endswith(offer.suffix[offer.replace_right :]):
        return None
    # Right of the cursor stands either what the offer replaced anyway or what an editor closed.
    right = suffix[:replace_right]
    if "\n" in right or not (closing_only(right) or right == offer.suffix[: offer.replace_right]):
        return None
    rest = offer.insert[typed:]
    if (offer.accepted and rest) or not (offer.complete or rest or (offer.aborted and not typed)):
        return None
    return Remainder(offer, rest, replace_right)


_Key = tuple[str, Policies]


class Offers:
    """Offers by document and policies (an experiment arm sees only its own), the latest first.

    Args:
        most: offers kept of all documents; the least recently used go first.
        characters: of the documents they were made for, in all.
    """

    def __init__(self, most: int = _KEPT, characters: int = _KEPT_CHARACTERS) -> None:
        self._most = most
        self._characters = characters
        self._kept: list[tuple[_Key, Offer]] = []
        self._ahead: dict[_Key, Offer] = {}

    def find(self, uri: str, policies: Policies, prefix: str, suffix: str) -> Remainder | None:
        """What is left of the offer for `uri`, of the one that follows it, or of an earlier one."""
        key = (uri, policies)
        own = [offer for other, offer in self._kept if other == key]
        if not own:
            return None
        rest = remainder(own[0], prefix, suffix)
        if rest is None:
            following = self._ahead.pop(key, None)
            rest = remainder(following, prefix, suffix) if following else None
        if rest is None:
            rest = self._recall(own[1:], prefix, suffix)
        if rest is not None:
            self._push(key, rest.offer)
        return rest

    def put(self, uri: str, policies: Policies, offer: Offer) -> None:
        """Remember `offer` as the document's latest."""
        key = (uri, policies)
        previous = next((one for other, one in self._kept if other == key), None)
        if previous is None or previous.suggestion_id != offer.suggestion_id:
            self._ahead.pop(key, None)
        self._push(key, offer)

    def _recall(self, earlier: Sequence[Offer], prefix: str, suffix: str) -> Remainder | None:
        """What is left of an offer for an earlier state; one that is used up says nothing."""
        for offer in earlier:
            rest = remainder(offer, prefix, suffix)
            if rest is not None and rest.insert:
                self._kept = [entry for entry in self._kept if entry[1] is not offer]
                again = replace(offer, suggestion_id=uuid.uuid4().hex)
                return replace(rest, offer=again, recalled=True)
        return None

    def _push(self, key: _Key, offer: Offer) -> None:
        others = [one for one in self._kept if one[1].suggestion_id != offer.suggestion_id]
        self._kept, room = [(key, offer)], self._characters - _size(offer)
        for entry in others:
            room -= _size(entry[1])
            if room < 0 or len(self._kept) == self._most:
                alive = {one for one, _ in self._kept}
                self._ahead = {one: after for one, after in self._ahead.items() if one in alive}
                break
            self._kept.append(entry)

    def has_ahead(self, uri: str, policies: Policies) -> bool:
        """Whether it is known what follows the current offer for `uri`."""
        return (uri, policies) in self._ahead

    def put_ahead(self, uri: str, policies: Policies, offer: Offer) -> None:
        """Remember what follows once the current offer for `uri` is in the document."""
        self._ahead[(uri, policies)] = offer

    def accepted(self, suggestion_id: str) -> None:
        """The user took the suggestion: done until another edit. Unknown ids are ignored.

        Earlier offers of the document go: they might bring back what is deleted of this one.
        """
        kept: list[tuple[_Key, Offer]] = []
        taken: _Key | None = None
        for key, offer in self._kept:
            if offer.suggestion_id == suggestion_id:
                taken = key
                kept.append((key, replace(offer, accepted=True)))
            elif key != taken:
                kept.append((key, offer))
        self._kept = kept

    def dismissed(self, suggestion_id: str) -> None:
        """The user turned the suggestion down. Unknown ids are ignored."""
        for index, (key, offer) in enumerate(self._kept):
            if offer.suggestion_id == suggestion_id:
                self._kept[index] = (key, replace(offer, dismissed=True))

    def forget(self, uri: str) -> None:
        """Drop what is known of a closed document."""
        self._kept = [entry for entry in self._kept if entry[0][0] != uri]
        self._ahead = {key: offer for key, offer in self._ahead.items() if key[0] != uri}


def _size(offer: Offer) -> int:
    return len(offer.prefix) + len(offer.suffix)
