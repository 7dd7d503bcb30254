"""What is done while the user rests, so that the next keystrokes need less of the model.

In this order, until the next request interrupts it:

1. What follows the suggestion on screen: the line after it, ready when the suggestion is accepted
   (or typed) and the next line begun. Where decoding was given up for its uncertainty, the rest of
   that line: typing makes suggestions certain, and then it is there.
2. A better window: after a cursor jump the model read little to answer soon; now it reads more, in
   a second KV cache, which takes the place of the first once it is complete. Where retrieved code
   is wanted, there is more of it in that window.
"""

from __future__ import annotations

from completion.context.provider import ContextProvider
from completion.prompt import ContextSupply, PromptBuilder, cache_key, prompt_suffix
from completion.reuse import Offer, Offers, make_offer
from completion.shape import Shaped, shape
from completion.text import Normalised, normalise
from completion.trigger import skip_document
from completion.types import CompletionRequest
from models.backend import Backend, GenerateRequest, GenerateResult, StopReason

_AHEAD = "\nahead"
"""Follows a document's URI to name the KV cache of the window that is being read."""


class Ahead:
    """Works ahead for the documents of one engine, in the engine's thread."""

    def __init__(
        self,
        backend: Backend,
        prompts: PromptBuilder,
        offers: Offers,
        context: ContextProvider | None = None,
    ) -> None:
        """All of them are the engine's own."""
        self._backend = backend
        self._prompts = prompts
        self._offers = offers
        self._context = context

    def prepare(self, request: CompletionRequest) -> None:
        """Do what is useful at the place of `request`; returns early when it is cancelled.

        Raises:
            ModelError: the model failed.
        """
        policies = request.policies
        if not policies.trigger.enabled or skip_document(
            request.text, request.language, policies.trigger, self._backend.languages
        ):
            return
        document = normalise(request.text, request.offset)
        rest = self._offers.find(request.uri, policies, document.prefix, document.suffix)
        if rest is not None and not request.cancel.is_set():
            if rest.offer.aborted:
                self._finish(request, document)
            elif rest.offer.shown and rest.offer.complete and policies.decode.max_lines == 1:
                self._continue(request, rest.offer)
        if not request.cancel.is_set():
            self._extend_window(request, document)

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._backend.forget(uri + _AHEAD)

    def _finish(self, request: CompletionRequest, document: Normalised) -> None:
        """Decode the rest of a line that was given up."""
        prefix, suffix = document.prefix, document.suffix
        decoded = self._decode(request, prefix, suffix)
        if decoded is None:
            return
        result, heal = decoded
        shaped = shape(result.text, prefix, suffix, max_lines=request.policies.decode.max_lines)
        if isinstance(shaped, Shaped):
            tokenizer = self._backend.tokenizer
            line = make_offer(prefix, suffix, result, heal, shaped, tokenizer, shown=False)
            self._offers.put(request.uri, request.policies, line)

    def _continue(self, request: CompletionRequest, offer: Offer) -> None:
        """Decode the line after a suggestion, as if it were accepted and a line begun."""
        if self._offers.has_ahead(request.uri, request.policies):
            return
        prefix, suffix = offer.prefix + offer.insert, offer.suffix[offer.replace_right :]
        decoded = self._decode(request, prefix, suffix)
        if decoded is None:
            return
        result, heal = decoded
        line = result.text.lstrip()
        indent = result.text[: len(result.text) - len(line)]
        if indent.count("\n") != 1:
            return
        shaped = shape(line, prefix + indent, suffix)
        if isinstance(shaped, Shaped):
            whole = Shaped(indent + shaped.insert, shaped.replace_right)
            tokenizer = self._backend.tokenizer
            # Not shown yet: how certain it is, is judged when the line is begun.
            after = make_offer(prefix, suffix, result, heal, whole, tokenizer, shown=False)
            self._offers.put_ahead(request.uri, request.policies, after)

    def _extend_window(self, request: CompletionRequest, document: Normalised) -> None:
        policies, key = request.policies, request.uri + _AHEAD
        supply = self._supply(request, document.prefix, resting=True)
        prompt = self._prompts.build_ahead(
            document.prefix,
            prompt_suffix(request, document.suffix),
            uri=request.uri,
            window=policies.window,
            mode=policies.decode.mode,
            max_tokens=policies.decode.max_tokens,
            supply=supply,
        )
        if prompt is None:
            self._backend.forget(key)
            return
        reading = GenerateRequest(
            prompt_ids=prompt.ids, max_tokens=0, cancel=request.cancel, cache_key=key, ahead=True
        )
        if self._backend.generate(reading).stop is StopReason.MAX_TOKENS:
            self._backend.rename(key, cache_key(request.uri, prompt.slot))
            self._prompts.adopt(request.uri, policies.window, context=supply is not None)

    def _supply(
        self, request: CompletionRequest, prefix: str, *, resting: bool = False
    ) -> ContextSupply | None:
        if self._context is None:
            return None
        policy = request.policies.context
        return self._context.supply(request.uri, prefix, policy, None, resting=resting)

    def _decode(
        self, request: CompletionRequest, prefix: str, suffix: str
    ) -> tuple[GenerateResult, bytes] | None:
        """The model's continuation and the bytes that were healed; None if interrupted."""
        policies = request.policies
        prompt = self._prompts.build(
            prefix,
            prompt_suffix(request, suffix),
            uri=request.uri,
            window=policies.window,
            mode=policies.decode.mode,
            max_tokens=policies.decode.max_tokens,
            imagined=True,
            supply=self._supply(request, prefix),
        )
        result = self._backend.generate(
            GenerateRequest(
                prompt_ids=prompt.ids,
                heal=prompt.heal,
                max_tokens=policies.decode.max_tokens + prompt.healed,
                max_lines=policies.decode.max_lines,
                cancel=request.cancel,
                cache_key=cache_key(request.uri, prompt.slot),
                drafts=policies.decode.drafts,
                ahead=True,
            )
        )
        return None if result.stop is StopReason.CANCELLED else (result, prompt.heal)
