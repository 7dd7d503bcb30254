"""The one path from a request to a suggestion: trigger, reuse, prompt, decode, shape, confidence.

The server, the command line and the benchmarks all call `CompletionEngine.complete`; what differs
between them is the `Policies` in the request.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace

from completion import block
from completion.candidates import branches
from completion.confidence import TokenLogprobs, confident, logprob_sum
from completion.filters import reject
from completion.prompt import Prompt, PromptBuilder
from completion.reuse import Offer, Offers
from completion.shape import Shaped, line_around, shape, visible_enough
from completion.text import CursorError, Normalised, normalise
from completion.trigger import Skip, closing_only, skip_document, skip_position
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    Hidden,
    HiddenReason,
    Mode,
    Outcome,
    Record,
    Source,
    Suggestion,
    Trigger,
)
from models.backend import Backend, GenerateRequest, GenerateResult, ModelError, StopReason

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

    def __init__(self, backend: Backend) -> None:
        """`backend` stays the caller's; closing it is not the engine's business."""
        self._backend = backend
        self._prompts = PromptBuilder(backend.tokenizer, backend.context_length)
        self._offers = Offers()

    def complete(self, request: CompletionRequest) -> Outcome:
        """Suggest text at the cursor, or say why not. Blocks; never raises for bad input."""
        started = time.perf_counter()
        received = started if request.received is None else request.received
        record = Record()
        try:
            result = self._complete(request, received, record)
        except CursorError as error:
            result = Skip(HiddenReason.ERROR, str(error))
        except ModelError as error:
            logger.warning("the model failed: %s", error)
            result = Skip(HiddenReason.ERROR, str(error))
        record.total_ms = _milliseconds_since(started)
        return Hidden(result.reason, result.detail, record) if isinstance(result, Skip) else result

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
        self._backend.forget(uri)

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
        if sized is not request:
            decoded = self._trim(request, document, decoded, record)
        shaped = _shape(sized, document, decoded.result, record)
        if isinstance(shaped, Skip):
            return shaped
        judged = self._judge(request, document, decoded, shaped, record)
        if isinstance(judged, Skip) or request.trigger is not Trigger.INVOKED:
            return judged
        return replace(
            judged, alternatives=self._alternatives(sized, document, decoded, judged, received)
        )

    def _trim(
        self, request: CompletionRequest, document: Normalised, decoded: _Decoded, record: Record
    ) -> _Decoded:
        """A block cut to what is sure of it."""
        left, _ = line_around(document.prefix, "")
        result = block.trim(
            decoded.result,
            [len(piece) for piece in self._pieces(decoded)],
            len(decoded.prompt.heal),
            left=left,
            suffix=document.suffix,
            confidence=request.policies.confidence,
        )
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
            prompt = Prompt([*decoded.prompt.ids, *branch.kept], branch.heal)
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

    def prepare(self, request: CompletionRequest) -> None:
        """Read the prompt of `request` into the KV cache, for a completion that may follow."""
        if request.cancel.is_set() or skip_document(
            request.text, request.language, request.policies.trigger, self._backend.languages
        ):
            return
        try:
            document = normalise(request.text, request.offset)
            prompt = self._prompt(request, document)
            self._backend.generate(
                GenerateRequest(
                    prompt_ids=prompt.ids,
                    heal=prompt.heal,
                    max_tokens=0,
                    cancel=request.cancel,
                    cache_key=request.uri,
                )
            )
        except (CursorError, ModelError) as error:
            logger.debug("nothing was prepared: %s", error)

    def _reuse(
        self, request: CompletionRequest, document: Normalised, record: Record
    ) -> Suggestion | Skip | None:
        """What is left of the suggestion that the user is typing through, if any."""
        if not request.policies.trigger.enabled or _wants_several(request):
            return None
        rest = self._offers.find(request.uri, request.policies, document.prefix, document.suffix)
        if rest is None:
            return None
        if not rest.insert:
            if request.trigger is Trigger.INVOKED:
                return None
            return Skip(HiddenReason.EXHAUSTED, "the suggestion is already in the document")
        if rest.offer.dismissed:
            if request.trigger is Trigger.INVOKED:
                return None
            return Skip(HiddenReason.DISMISSED, "the suggestion was dismissed here")
        if not rest.offer.shown:
            low, high = rest.logprob_bounds
            record.logprob_sum = high
            if not confident(high, request.policies.confidence):
                record.source = Source.TYPED_THROUGH
                return _not_confident(high)
            if not confident(low, request.policies.confidence):
                return None
            if not visible_enough(rest.insert):
                return Skip(HiddenReason.EMPTY, _DETAILS[HiddenReason.EMPTY])
            self._offers.put(request.uri, request.policies, replace(rest.offer, shown=True))
        record.source = Source.TYPED_THROUGH
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
        suggestion = _suggestion(uuid.uuid4().hex, document, shaped, record)
        if request.policies.trigger.enabled:
            lengths = [len(piece) for piece in self._pieces(decoded)]
            offer = Offer(
                suggestion.suggestion_id,
                document.prefix,
                document.suffix,
                shaped.insert,
                shaped.replace_right,
                TokenLogprobs.align(lengths, decoded.result.logprobs, len(decoded.prompt.heal)),
                complete=decoded.result.stop in _ENDED,
                shown=shown,
            )
            self._offers.put(request.uri, request.policies, offer)
        return suggestion if total is None or shown else _not_confident(total)

    def _decode(
        self, request: CompletionRequest, document: Normalised, received: float, record: Record
    ) -> _Decoded | Skip:
        began = time.perf_counter()
        prompt = self._prompt(request, document)
        record.prompt_ms = _milliseconds_since(began)
        return self._generate(request, document, prompt, received, record)

    def _prompt(self, request: CompletionRequest, document: Normalised) -> Prompt:
        decode = request.policies.decode
        return self._prompts.build(
            document.prefix,
            _prompt_suffix(request, document.suffix),
            uri=request.uri,
            window=request.policies.window,
            mode=decode.mode,
            max_tokens=decode.max_tokens,
        )

    def _generate(
        self,
        request: CompletionRequest,
        document: Normalised,
        prompt: Prompt,
        received: float,
        record: Record,
        avoid: int | None = None,
    ) -> _Decoded | Skip:
        decode = request.policies.decode
        deadline = None if decode.deadline_ms is None else received + decode.deadline_ms / 1000
        if deadline is not None and time.perf_counter() >= deadline:
            return Skip(HiddenReason.DEADLINE, "the request waited longer than its deadline")
        ended = None
        if decode.max_lines > 1 and decode.block_lines > 1:
            # The others of several candidates are meant to be unlikely.
            unsure = avoid is not None
            sure = ConfidencePolicy(None) if unsure else request.policies.confidence
            ended = block.stop_rule(document.prefix, document.suffix, sure)
        result = self._backend.generate(
            GenerateRequest(
                prompt_ids=prompt.ids,
                heal=prompt.heal,
                max_tokens=decode.max_tokens,
                max_lines=decode.max_lines,
                deadline=deadline,
                cancel=request.cancel,
                cache_key=request.uri,
                avoid=avoid,
                ended=ended,
            )
        )
        record.source = Source.MODEL
        record.prefill_ms, record.decode_ms = result.prefill_ms, result.decode_ms
        record.prompt_tokens, record.reused_tokens = result.prompt_tokens, result.reused_tokens
        record.generated_tokens = len(result.token_ids)
        record.logprob_sum = logprob_sum(result.logprobs) if result.logprobs else None
        record.stop = result.stop.value
        if result.stop is StopReason.CANCELLED:
            return Skip(HiddenReason.CANCELLED, "superseded or cancelled while decoding")
        return _Decoded(result, prompt)


def _shape(
    request: CompletionRequest, document: Normalised, result: GenerateResult, record: Record
) -> Shaped | Skip:
    began = time.perf_counter()
    shaped: Shaped | HiddenReason
    if request.policies.shape.enabled:
        lines = request.policies.decode.max_lines
        shaped = shape(result.text, document.prefix, document.suffix, max_lines=lines)
        if isinstance(shaped, Shaped):
            rejected = reject(document.prefix, shaped.insert, document.suffix, shaped.replace_right)
            shaped = rejected or shaped
    else:
        shaped = Shaped(result.text) if result.text else HiddenReason.EMPTY
    record.shape_ms = _milliseconds_since(began)
    if isinstance(shaped, Shaped):
        return shaped
    if result.stop is StopReason.DEADLINE:
        return Skip(HiddenReason.DEADLINE, "the deadline passed before there was a suggestion")
    return Skip(shaped, _DETAILS[shaped])


def _prompt_suffix(request: CompletionRequest, suffix: str) -> str:
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
