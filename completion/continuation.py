"""Raw continuations for callers that shape the text themselves: the OpenAI protocol's clients.

The same prompts and caches as suggestions, but no trigger, filter or confidence: what the model
writes between a prefix and a suffix, up to the caller's stop strings, told piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from completion.block import stop_below
from completion.candidates import branches
from completion.prompt import Prompt, PromptBuilder, cache_key
from completion.types import Mode, WindowPolicy
from models.backend import Backend, GenerateRequest, GenerateResult, StopReason
from models.cancellation import Cancellation
from models.tokenizer import decode_complete


@dataclass(frozen=True, slots=True)
class ContinuationRequest:
    r"""What to continue. Text with `\n` line ends.

    Attributes:
        prefix: text before the place; what is written goes on from it.
        suffix: text after the place; may be empty.
        uri: identity of the document; keys its KV cache and prompt window.
        max_tokens: upper bound of tokens, at least 1.
        stop: the text ends before the first of these strings, and where it begins to repeat
            `suffix` (`completion.block.stop_below`). None is empty.
        deadline: `time.perf_counter()` seconds; then the text ends where it is. None waits.
        cancel: set by another thread to stop.
        count: how many continuations; later ones leave the first where it hesitated.
        on_text: told what was added to the first continuation, in pieces; never a part of a
            stop string.
    """

    prefix: str
    suffix: str
    uri: str
    max_tokens: int
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    cancel: Cancellation = field(default_factory=Cancellation)
    count: int = 1
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """One continuation.

    Attributes:
        text: what was written, cut before the stop string.
        pieces: text of each token that `text` is made of; joined they are `text`.
        logprobs: natural-log probability of each of `pieces`.
        stop: why decoding ended; `STOPPED` at a stop string.
        result: the decode behind it, for counts and times.
    """

    text: str
    pieces: tuple[str, ...]
    logprobs: tuple[float, ...]
    stop: StopReason
    result: GenerateResult


class StopStrings:
    """Finds stop strings in a growing text, and what of it may already be told."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop

    def cut(self, text: str) -> int | None:
        """Where the first stop string begins, None where there is none."""
        found = [at for one in self._stop if (at := text.find(one)) >= 0]
        return min(found, default=None)

    def safe(self, text: str) -> int:
        """How many characters of `text` cannot be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(one.startswith(text[-length:]) for one in self._stop):
                return len(text) - length
        return len(text)


class Continuer:
    """Continues text with one backend. Confined to one thread at a time, as the backend is."""

    def __init__(self, backend: Backend, window: WindowPolicy | None = None) -> None:
        """`window`: how much of the text the model reads; the default policy for None."""
        self._backend = backend
        self._window = window or WindowPolicy()
        self._prompts = PromptBuilder(backend.tokenizer, backend.context_length, backend.holds)

    def run(self, request: ContinuationRequest) -> list[Continuation]:
        """As many continuations as asked for, the likeliest first. Blocks.

        Where the model hesitated less often than that, the first one is repeated.

        Raises:
            PromptError: `max_tokens` leaves no room for a prompt.
        """
        prompt = self._prompts.build(
            request.prefix,
            request.suffix,
            uri=request.uri,
            window=self._window,
            mode=Mode.JOINT,
            max_tokens=request.max_tokens,
        )
        first = self._continue(request, prompt)
        found, result = [first], first.result
        tokens = [self._backend.tokenizer.token_bytes(token) for token in result.token_ids]
        for branch in branches(result, tokens, prompt.heal, request.count - 1):
            if request.cancel.is_set():
                break
            left = request.max_tokens - len(branch.kept)
            road = replace(prompt, ids=[*prompt.ids, *branch.kept], heal=branch.heal)
            begun = (
                branch.text.decode("utf-8", "replace"),
                math.fsum(result.logprobs[: len(branch.kept)]),
            )
            quiet = replace(request, on_text=None, max_tokens=left)
            found.append(self._continue(quiet, road, avoid=branch.avoid, begun=begun))
        return found + [first] * (request.count - len(found))

    def forget(self, uri: str) -> None:
        """Drop the windows of a document that is gone; its KV caches are the backend's."""
        self._prompts.forget(uri)

    def _continue(
        self,
        request: ContinuationRequest,
        prompt: Prompt,
        avoid: int | None = None,
        begun: tuple[str, float] = ("", 0.0),
    ) -> Continuation:
        """Decode behind the text `begun`, of that log-probability, which the prompt's ids hold."""
        below = stop_below(request.suffix)
        strings = StopStrings((*request.stop, below) if below else request.stop)
        told, head = 0, begun[0]

        def on_text(more: str) -> bool:
            nonlocal told
            text = head + more
            cut = strings.cut(text)
            end = strings.safe(text) if cut is None else cut
            if request.on_text is not None and end > told:
                request.on_text(text[told:end])
                told = end
            return cut is not None

        result = self._backend.generate(
            GenerateRequest(
                prompt_ids=prompt.ids,
                heal=prompt.heal,
                max_tokens=request.max_tokens,
                max_lines=0,
                deadline=request.deadline,
                cancel=request.cancel,
                cache_key=cache_key(request.uri, prompt.slot),
                avoid=avoid,
                on_text=on_text,
            )
        )
        text = head + result.text
        cut = strings.cut(text)
        text = text if cut is None else text[:cut]
        if request.on_text is not None and len(text) > told:
            request.on_text(text[told:])
        tokens = [self._backend.tokenizer.token_bytes(token) for token in result.token_ids]
        pieces = _pieces(tokens, len(prompt.heal), head, text)
        logprobs = (begun[1], *result.logprobs) if head else result.logprobs
        stop = StopReason.STOPPED if cut is not None else result.stop
        return Continuation(text, pieces, logprobs[: len(pieces)], stop, result)


def _pieces(tokens: list[bytes], healed: int, head: str, text: str) -> tuple[str, ...]:
    """Text of `head` and of each token behind the healed bytes, as far as it is in `text`.

    A character belongs to the token that completes it.
    """
    pieces, data, end = [head] if head else [], b"", len(head)
    for token in tokens:
        data += token
        reached = min(len(head) + len(decode_complete(data[healed:])), len(text))
        pieces.append(text[end:reached])
        end = max(end, reached)
    return tuple(pieces)
