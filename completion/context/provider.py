"""Retrieved code for the documents of one engine, the same from one keystroke to the next."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from completion.context import gate
from completion.context.recent import Recent
from completion.context.retrievers import RETRIEVERS, Candidate, Query, Retriever
from completion.context.select import Picked, context_ids, fuse, pick
from completion.context.types import Find, Index
from completion.prompt import ContextSupply
from completion.types import ContextPolicy, Record, UsedChunk
from models.backend import Backend
from models.tokenizer import Tokenizer

_SAME_PLACE_LINES = 10
"""So near to where it was retrieved, context stays: what it is compared with is still in view."""
_HELD = 64
_K = TypeVar("_K")
_V = TypeVar("_V")
_LEAST_BUDGET = 48


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What one look at the index gave.

    Attributes:
        proposed: candidates by retriever.
        picked: what a prompt may get, best first, before the gate.
        features: what the gate looks at.
        gain: nats expected of it.
    """

    proposed: Mapping[str, Sequence[Candidate]]
    picked: list[Picked]
    features: Mapping[str, float]
    gain: float


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a prompt gets; `rule` says why that is nothing."""

    ids: tuple[int, ...]
    rule: str
    gain: float | None


@dataclass(frozen=True, slots=True)
class _Held:
    generation: int
    line: int
    choice: _Choice


def retrieve(
    query: Query,
    index: Index,
    tokenizer: Tokenizer,
    budget: int,
    retrievers: Mapping[str, Retriever] = RETRIEVERS,
) -> Retrieved:
    """Ask all retrievers and choose, at most `budget` tokens. Deterministic."""
    proposed = {name: retriever(query, index) for name, retriever in retrievers.items()}
    picked = pick(fuse(proposed, {}), query, tokenizer, budget)
    values = gate.features(query, proposed, picked)
    return Retrieved(proposed, picked, values, gate.expected_gain(values))


class ContextProvider:
    """Finds context when a prompt's window begins, and keeps it. Confined to the engine's thread.

    Args:
        find: the index of a document; must not wait.
        tokenizer: of the model.
        retrievers: by name.
    """

    def __init__(
        self,
        find: Find,
        tokenizer: Tokenizer,
        retrievers: Mapping[str, Retriever] = RETRIEVERS,
    ) -> None:
        self._find = find
        self._tokenizer = tokenizer
        self._retrievers = retrievers
        self._recent = Recent()
        self._held: OrderedDict[tuple[str, int, ContextPolicy], _Held] = OrderedDict()
        self._chunks: OrderedDict[tuple[int, ...], list[UsedChunk]] = OrderedDict()
        self._last: OrderedDict[str, _Choice] = OrderedDict()
        self._spent_ms = 0.0

    def observe(self, uri: str, text: str) -> None:
        """A document has this text now."""
        self._recent.observe(uri, text)

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._recent.forget(uri)
        self._last.pop(uri, None)
        for key in [key for key in self._held if key[0] == uri]:
            del self._held[key]

    def supply(
        self,
        uri: str,
        prefix: str,
        policy: ContextPolicy,
        ms_per_token: float | None,
        *,
        resting: bool = False,
    ) -> ContextSupply | None:
        """What `PromptBuilder` asks for ids at this place; None where nothing can be retrieved.

        Args:
            uri, prefix: the document before the cursor, normalised.
            policy: of the request.
            ms_per_token: what reading a token costs.
            resting: nobody waits: more is read, and only a waiting user's time is charged.
        """
        found = self._find(uri) if policy.enabled else None
        if found is None:
            return None
        index, path = found
        most = policy.tokens if resting else policy.jump_tokens

        def ids(seen: int, suffix: str, left: int) -> tuple[int, ...]:
            began = time.perf_counter()
            budget, line = min(most, left), prefix.count("\n")
            key = (uri, budget, policy)
            held = self._held.get(key)
            near = held is not None and abs(held.line - line) < _SAME_PLACE_LINES
            if held is None or not near or held.generation != index.generation:
                # Read first: what changes meanwhile is found the next time.
                generation = index.generation
                query = self._query(uri, path, prefix, suffix, seen, index)
                price = None if resting else ms_per_token
                held = _Held(generation, line, self._choose(query, index, policy, budget, price))
                _keep(self._held, key, held)
            _keep(self._last, uri, held.choice)
            self._spent_ms += (time.perf_counter() - began) * 1000
            return held.choice.ids

        return ids

    def note(
        self, uri: str, context: tuple[int, ...], token_ms: float | None, record: Record
    ) -> None:
        """Write into `record` what the context in a prompt is, what it costs, and the time spent.

        Args:
            uri: of the document.
            context: ids that a `supply` gave.
            token_ms: what reading a token costs.
            record: of the request.
        """
        record.context_ms, self._spent_ms = self._spent_ms, 0.0
        record.context_tokens = len(context)
        record.context_cost_ms = None if token_ms is None else round(len(context) * token_ms, 1)
        record.chunks = list(self._chunks.get(context, []))
        if (last := self._last.get(uri)) is not None:
            record.context_rule = "" if context else last.rule
            record.context_gain = last.gain

    def _choose(
        self, query: Query, index: Index, policy: ContextPolicy, budget: int, price: float | None
    ) -> _Choice:
        if budget < _LEAST_BUDGET:
            return _Choice((), "no time or room for any", None)
        found = retrieve(query, index, self._tokenizer, budget, self._retrievers)
        if not found.picked:
            return _Choice((), "nothing was found that says anything new", None)
        picked = found.picked
        if policy.gated:
            picked = gate.affordable(found.gain, picked, price)
        ids = tuple(context_ids(picked))
        _keep(self._chunks, ids, [_used(one) for one in picked])
        rule = "" if picked else f"not worth reading, of {len(found.picked)} found"
        return _Choice(ids, rule, round(found.gain, 3))

    def _query(
        self, uri: str, path: str, prefix: str, suffix: str, seen: int, index: Index
    ) -> Query:
        recent = {}
        paths = {uri: path}
        for other, text in self._recent.texts().items():
            home = self._find(other)
            if other != uri and home is not None and home[0] is index:
                recent[home[1]] = text
                paths[other] = home[1]
        shown_from = prefix.count("\n", 0, max(0, len(prefix) - seen))
        edits = tuple(
            type(chunk)(paths[other], chunk.start_line, chunk.end_line, chunk.text)
            for other, chunk in self._recent.edits()
            if other in paths and not (other == uri and chunk.end_line > shown_from)
        )
        return Query(path, prefix, suffix, seen, recent, edits)


def ms_per_token(backend: Backend) -> float | None:
    """Milliseconds that reading a prompt token takes; None where it is not known."""
    one, two = backend.affordable_tokens(2.0), backend.affordable_tokens(3.0)
    return None if one is None or two is None or two <= one else 1000 / (two - one)


def _keep(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Put in what was used last; what was not for longest goes."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _HELD:
        kept.popitem(last=False)


def _used(one: Picked) -> UsedChunk:
    name = PurePosixPath(one.chunk.path).name
    sources = {source: round(score, 4) for source, score in one.sources.items()}
    return UsedChunk(name, one.chunk.start_line + 1, len(one.ids), round(one.score, 5), sources)
