"""The one path from a request to a suggestion: trigger, reuse, prompt, decode, shape, confidence.

The server, the command line and the benchmarks all call `CompletionEngine.complete`; what differs
between them is the `Policies` in the request.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace

from completion import block, pivot
from completion.ahead import Ahead
from completion.candidates import branches
from completion.confidence import confident, logprob_sum
from completion.context.provider import ContextProvider, ms_per_token
from completion.filters import reject
from completion.prompt import SLOTS, Prompt, PromptBuilder, cache_key, prompt_suffix
from completion.reuse import Offer, Offers, make_offer
from completion.shape import Shaped, line_around, shape, visible_enough
from completion.text import CursorError, Normalised, normalise
from completion.trigger import Skip, skip_document, skip_position
from completion.types import (
    CompletionRequest,
    Hidden,
    HiddenReason,
    Outcome,
    Record,
    Source,
    Suggestion,
    Trigger,
)
from models.backend import Backend, GenerateRequest, GenerateResult, StopReason
from models.errors import ModelError

logger = logging.getLogger(__name__)

_ENDED = frozenset({StopReason.NEWLINE, StopReason.END_OF_MIDDLE})
_DETAILS = {
    HiddenReason.EMPTY: "the model has nothing to add here",
    HiddenReason.REPEATS_SUFFIX: "the suggestion repeats the next lines",
    HiddenReason.REPETITION: "the suggestion repeats itself",
    HiddenReason.SECRET: "the suggestion looks like a password or key",
    HiddenReason.PARSE_ERROR: "the suggestion would be a syntax error here",
}


@dataclass(frozen=True, slots=True)
class _Decoded:
    result: GenerateResult
    prompt: Prompt


class CompletionEngine:
    """Completes documents with one backend.

    Confined to one thread at a time, as the backend is; only `CompletionRequest.cancel` may be
    set from another.
    """

    def __init__(self, backend: Backend, context: ContextProvider | None = None) -> None:
        """`backend` stays the caller's; closing it is not the engine's business.

        `context` finds code of the repository for requests whose policy wants it.
        """
        self._backend = backend
        self._context = context
        self._prompts = PromptBuilder(backend.tokenizer, backend.context_length, backend.holds)
        self._offers = Offers()
        self._ahead = Ahead(backend, self._prompts, self._offers, context)

    def complete(self, request: CompletionRequest) -> Outcome:
        """Suggest text at the cursor, or say why not. Blocks; never raises for bad input."""
        started = time.perf_counter()
        received = started if request.received is None else request.received
        record = Record(queue_ms=max(0.0, started - received) * 1000)
        try:
            result = self._complete(request, received, record)
        except CursorError as error:
            result = Skip(HiddenReason.ERROR, str(error))
        except ModelError as error:
            logger.warning("the model failed: %s", error)
            result = Skip(HiddenReason.ERROR, str(error))
        record.total_ms = _milliseconds_since(started)
        return Hidden(result.reason, result.detail, record) if isinstance(result, Skip) else result

    def prepare(self, request: CompletionRequest) -> None:
        """Work ahead while the user rests at the place of `request`, already completed.

        Blocks; returns as soon as `request.cancel` is set. Suggests nothing itself.
        """
        try:
            self._ahead.prepare(request)
        except ModelError as error:
            logger.warning("working ahead failed: %s", error)

    def accepted(self, suggestion_id: str) -> None:
        """The user took a suggestion: nothing more is offered there until another edit."""
        self._offers.accepted(suggestion_id)

    def dismissed(self, suggestion_id: str) -> None:
        """The user turned a suggestion down: it is not shown again until the text differs."""
        self._offers.dismissed(suggestion_id)

    def forget(self, uri: str) -> None:
        """Drop everything kept for a closed document."""
        self._offers.forget(uri)
        self._prompts.forget(uri)
        if self._context is not None:
            self._context.forget(uri)
        for slot in range(SLOTS):
            self._backend.forget(cache_key(uri, slot))
        self._ahead.forget(uri)

    def _complete(
        self, request: CompletionRequest, received: float, record: Record
    ) -> Suggestion | Skip:
        if request.cancel.is_set():
            return Skip(HiddenReason.CANCELLED, "superseded before it began")
        trigger = request.policies.trigger
        if refused := skip_document(
            request.text, request.language, trigger, self._backend.languages
        ):
            return refused
        document = normalise(request.text, request.offset)
        _, right = line_around("", document.suffix)
        if early := skip_position(right, request.trigger, trigger) or self._reuse(
            request, document, record
        ):
            return early
        sized = block.sized(request, document.prefix, document.suffix)
        decoded = self._decode(sized, document, received, record)
        if isinstance(decoded, Skip):
            return decoded
        direct = decoded
        decoded = self._trim(sized, document, direct, record)
        if pivot.wanted(
            request.policies.pivot,
            sized.policies.decode,
            document.prefix,
            document.suffix,
            direct.result.text,
        ):
            decoded = self._pivot(sized, document, direct, decoded, received, record)
            if request.cancel.is_set():
                return Skip(HiddenReason.CANCELLED, "superseded or cancelled while decoding")
        if decoded.result.stop is StopReason.UNLIKELY:
            self._remember(request, document, decoded, Shaped(decoded.result.text), shown=False)
            return _not_confident(logprob_sum(decoded.result.logprobs))
        shaped = _shape(sized, document, decoded.result, record)
        if isinstance(shaped, Skip):
            return shaped
        judged = self._judge(request, document, decoded, shaped, record)
        if isinstance(judged, Skip) or not _wants_several(request):
            return judged
        return replace(
            judged, alternatives=self._alternatives(sized, document, decoded, judged, received)
        )

    def _pivot(
        self,
        request: CompletionRequest,
        document: Normalised,
        direct: _Decoded,
        best: _Decoded,
        received: float,
        record: Record,
    ) -> _Decoded:
        """The block behind a comment where it is better than `best`, which is `direct` trimmed."""
        policy, tokenizer = request.policies.pivot, self._backend.tokenizer
        began = time.perf_counter()
        if not pivot.affords(policy, direct.result, received):
            record.pivot = "late"
            return best
        deadline = pivot.deadline_of(policy, received)
        found = pivot.write(
            self._backend,
            replace(self._wish(request, document, direct.prompt), deadline=deadline),
            direct.prompt,
            document.prefix,
            direct.result.text,
        )
        if found is not None:
            # The whole of it is judged without the comment, which is never a line too many.
            code = _Decoded(found.result, found.prompt)
            found = replace(found, result=self._trim(request, document, code, Record()).result)
        record.pivot_ms = _milliseconds_since(began)
        record.pivot = "direct"
        if found is None or not found.result.text.strip():
            if deadline is not None and time.perf_counter() >= deadline:
                record.pivot = "late"
            return best
        record.pivot_gain = pivot.code_mean(
            found.result, found.prompt.heal, tokenizer
        ) - pivot.code_mean(best.result, best.prompt.heal, tokenizer)
        margin = pivot.margin_of(self._backend.model_id) if policy.margin is None else policy.margin
        if not record.pivot_gain > margin:
            return best
        result, prompt = found.shown(policy.mode)
        record.pivot, record.stop = "comment", result.stop.value
        record.generated_tokens = len(result.token_ids)
        record.logprob_sum = logprob_sum(result.logprobs) if result.logprobs else None
        return _Decoded(result, prompt)

    def _trim(
        self, request: CompletionRequest, document: Normalised, decoded: _Decoded, record: Record
    ) -> _Decoded:
        """A block cut to what is sure of it, other lines to what fits into the document."""
        decode, result = request.policies.decode, decoded.result
        if decode.max_lines == 1:
            return decoded
        lengths, healed = [len(piece) for piece in self._pieces(decoded)], len(decoded.prompt.heal)
        prefix, suffix = document.prefix, document.suffix
        if block.is_block(decode):
            left, _ = line_around(prefix, "")
            confidence = request.policies.confidence
            result = block.trim(
                result, lengths, healed, left=left, suffix=suffix, confidence=confidence
            )
        else:
            result = block.before_repeat(result, lengths, healed, suffix)
            result = block.before_misfit(result, lengths, healed, prefix, suffix)
        record.logprob_sum = logprob_sum(result.logprobs) if result.logprobs else None
        return replace(decoded, result=result)

    def _pieces(self, decoded: _Decoded) -> list[bytes]:
        token_bytes = self._backend.tokenizer.token_bytes
        return [token_bytes(token) for token in decoded.result.token_ids]

    def _alternatives(
        self,
        request: CompletionRequest,
        document: Normalised,
        decoded: _Decoded,
        first: Suggestion,
        received: float,
    ) -> tuple[Suggestion, ...]:
        """Other suggestions where the model hesitated, all within the request's deadline."""
        wanted = request.policies.decode.candidates - 1
        found: list[Suggestion] = []
        heal = decoded.prompt.heal
        for branch in branches(decoded.result, self._pieces(decoded), heal, wanted):
            record = Record()
            ids = [*decoded.prompt.ids, *branch.kept]
            prompt = replace(decoded.prompt, ids=ids, heal=branch.heal)
            other = self._generate(request, document, prompt, received, record, avoid=branch.avoid)
            if isinstance(other, Skip) or other.result.stop not in _ENDED:
                break
            text = branch.text.decode("utf-8", "replace") + other.result.text
            if request.policies.decode.max_lines > 1:
                left, _ = line_around(document.prefix, "")
                text = text[: block.block_end(text, left, document.suffix)]
            shaped = _shape(request, document, replace(other.result, text=text), record)
            if isinstance(shaped, Skip):
                continue
            suggestion = _suggestion(uuid.uuid4().hex, document, shaped, record)
            if suggestion.insert not in {one.insert for one in (first, *found)}:
                found.append(suggestion)
        return tuple(found)

    def _reuse(
        self, request: CompletionRequest, document: Normalised, record: Record
    ) -> Suggestion | Skip | None:
        """What is left of the suggestion that the user is typing through, if any."""
        if not request.policies.trigger.enabled or _wants_several(request):
            return None
        rest = self._offers.find(request.uri, request.policies, document.prefix, document.suffix)
        if rest is None:
            return None
        if rest.offer.dismissed:
            if request.trigger is Trigger.INVOKED:
                return None
            return Skip(HiddenReason.DISMISSED, "the suggestion was dismissed here")
        if rest.offer.aborted:
            _, record.logprob_sum = rest.logprob_bounds
            if confident(record.logprob_sum, request.policies.confidence):
                return None
            record.source = rest.source
            return _not_confident(record.logprob_sum)
        if not rest.insert:
            if request.trigger is Trigger.INVOKED:
                return None
            return Skip(HiddenReason.EXHAUSTED, "the suggestion is already in the document")
        if not rest.offer.shown:
            low, high = rest.logprob_bounds
            record.logprob_sum = high
            if not confident(high, request.policies.confidence):
                record.source = rest.source
                return _not_confident(high)
            if not confident(low, request.policies.confidence):
                return None
            if not visible_enough(rest.insert):
                return Skip(HiddenReason.EMPTY, _DETAILS[HiddenReason.EMPTY])
            # What was decoded ahead has not been through the filters yet.
            rejected = reject(
                document.prefix, rest.insert, document.suffix, rest.replace_right, request.language
            )
            if rejected is not None:
                return Skip(rejected, _DETAILS[rejected])
            self._offers.put(request.uri, request.policies, replace(rest.offer, shown=True))
        record.source = rest.source
        shaped = Shaped(rest.insert, rest.replace_right)
        return _suggestion(rest.offer.suggestion_id, document, shaped, record)

    def _judge(
        self,
        request: CompletionRequest,
        document: Normalised,
        decoded: _Decoded,
        shaped: Shaped,
        record: Record,
    ) -> Suggestion | Skip:
        """Show or hide by confidence; either way the next keystrokes may need it."""
        total = record.logprob_sum
        shown = total is None or confident(total, request.policies.confidence)
        offer = self._remember(request, document, decoded, shaped, shown=shown)
        if total is None or shown:
            return _suggestion(offer.suggestion_id, document, shaped, record)
        return _not_confident(total)

    def _remember(
        self,
        request: CompletionRequest,
        document: Normalised,
        decoded: _Decoded,
        shaped: Shaped,
        *,
        shown: bool,
    ) -> Offer:
        offer = make_offer(
            document.prefix,
            document.suffix,
            decoded.result,
            decoded.prompt.heal,
            shaped,
            self._backend.tokenizer,
            shown=shown,
        )
        if request.policies.trigger.enabled:
            self._offers.put(request.uri, request.policies, offer)
        return offer

    def _decode(
        self, request: CompletionRequest, document: Normalised, received: float, record: Record
    ) -> _Decoded | Skip:
        policies, decode = request.policies, request.policies.decode
        deadline = None if decode.deadline_ms is None else received + decode.deadline_ms / 1000
        began = time.perf_counter()
        if deadline is not None and began >= deadline:
            return Skip(HiddenReason.DEADLINE, "the request waited longer than its deadline")
        token_ms = ms_per_token(self._backend)
        supply = None
        if self._context is not None and policies.context.enabled:
            self._context.observe(request.uri, document.prefix + document.suffix)
            supply = self._context.supply(request.uri, document.prefix, policies.context, token_ms)
        prompt = self._prompts.build(
            document.prefix,
            prompt_suffix(request, document.suffix),
            uri=request.uri,
            window=policies.window,
            mode=decode.mode,
            max_tokens=decode.max_tokens,
            affordable=(
                None if deadline is None else self._backend.affordable_tokens(deadline - began)
            ),
            supply=supply,
        )
        record.prompt_ms = _milliseconds_since(began)
        if self._context is not None and supply is not None:
            self._context.note(request.uri, prompt.context, token_ms, record)
        return self._generate(request, document, prompt, received, record)

    def _generate(
        self,
        request: CompletionRequest,
        document: Normalised,
        prompt: Prompt,
        received: float,
        record: Record,
        avoid: int | None = None,
    ) -> _Decoded | Skip:
        """Decode; with `avoid`, a candidate that is meant to be less likely."""
        decode = request.policies.decode
        deadline = None if decode.deadline_ms is None else received + decode.deadline_ms / 1000
        wish = replace(self._wish(request, document, prompt), deadline=deadline)
        if avoid is not None:
            wish = replace(wish, avoid=avoid, min_logprob=None)
        result = self._backend.generate(wish)
        record.source = Source.MODEL
        record.prefill_ms, record.decode_ms = result.prefill_ms, result.decode_ms
        record.prompt_tokens, record.reused_tokens = result.prompt_tokens, result.reused_tokens
        record.generated_tokens = len(result.token_ids)
        record.drafted_tokens = result.drafted_tokens
        record.accepted_tokens = result.accepted_tokens
        record.logprob_sum = logprob_sum(result.logprobs) if result.logprobs else None
        record.stop = result.stop.value
        if result.stop is StopReason.CANCELLED:
            return Skip(HiddenReason.CANCELLED, "superseded or cancelled while decoding")
        return _Decoded(result, prompt)

    def _wish(
        self, request: CompletionRequest, document: Normalised, prompt: Prompt
    ) -> GenerateRequest:
        """What the model is asked for, without a deadline."""
        decode = request.policies.decode
        ended = None
        if block.is_block(decode):
            ended = block.stop_rule(document.prefix, document.suffix)
        elif decode.max_lines != 1:
            ended = block.repeat_rule(document.suffix)
        return GenerateRequest(
            prompt_ids=prompt.ids,
            heal=prompt.heal,
            max_tokens=decode.max_tokens + prompt.healed,
            max_lines=decode.max_lines,
            cancel=request.cancel,
            cache_key=cache_key(request.uri, prompt.slot),
            drafts=decode.drafts,
            min_logprob=request.policies.confidence.min_logprob,
            ended=ended,
        )


def _shape(
    request: CompletionRequest, document: Normalised, result: GenerateResult, record: Record
) -> Shaped | Skip:
    began = time.perf_counter()
    shaped: Shaped | HiddenReason
    if request.policies.shape.enabled:
        lines = request.policies.decode.max_lines
        shaped = shape(result.text, document.prefix, document.suffix, max_lines=lines)
        if isinstance(shaped, Shaped):
            shaped = (
                reject(
                    document.prefix,
                    shaped.insert,
                    document.suffix,
                    shaped.replace_right,
                    request.language,
                )
                or shaped
            )
    else:
        shaped = Shaped(result.text) if result.text else HiddenReason.EMPTY
    record.shape_ms = _milliseconds_since(began)
    if isinstance(shaped, Shaped):
        return shaped
    if result.stop is StopReason.DEADLINE:
        return Skip(HiddenReason.DEADLINE, "the deadline passed before there was a suggestion")
    return Skip(shaped, _DETAILS[shaped])


def _wants_several(request: CompletionRequest) -> bool:
    """A user who asks for candidates wants to see others besides the one being typed."""
    return request.trigger is Trigger.INVOKED and request.policies.decode.candidates > 1


def _not_confident(total: float) -> Skip:
    detail = f"the model is not sure enough (log-probability {total:.2f})"
    return Skip(HiddenReason.LOW_CONFIDENCE, detail)


def _suggestion(
    suggestion_id: str, document: Normalised, shaped: Shaped, record: Record
) -> Suggestion:
    # Nothing replaced is a line break, so lengths are the same in the user's document.
    return Suggestion(
        suggestion_id=suggestion_id,
        insert=document.restore(shaped.insert),
        start=document.cursor,
        end=document.cursor + shaped.replace_right,
        record=record,
    )


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
