"""The seam between completion and whatever runs a model.

`completion` builds a `GenerateRequest` of token ids and stop rules and gets a
`GenerateResult` back. The in-process ONNX session (`models.local`) implements
it, and so does any remote engine. Nothing here knows about editors or prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from models.cancellation import Cancellation
from models.tokenizer import Tokenizer


class StopReason(StrEnum):
    """Why decoding ended."""

    NEWLINE = "newline"
    """The text reached a line break and the request asked to stop there."""
    END_OF_MIDDLE = "end_of_middle"
    """The model emitted `<|eom|>` (or `<|eot|>`): it joined the suffix."""
    MAX_TOKENS = "max_tokens"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    CONTEXT_FULL = "context_full"
    UNLIKELY = "unlikely"
    """The text's log-probability fell to the request's `min_logprob`; the text is unfinished."""
    STOPPED = "stopped"
    """The request's `on_text` ended it."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One decode.

    Attributes:
        prompt_ids: the prompt without the healed token, at most the context length.
        heal: UTF-8 bytes that the first generated tokens must reproduce (token
            healing: the last prompt token, dropped and generated again so that the
            word under the cursor may be tokenised as in training). Empty for none.
        max_tokens: upper bound of generated tokens, healed ones included.
        max_lines: stop at the line break that would begin line `max_lines + 1`;
            1 is single-line mode, 0 never stops at line breaks. A line break that
            comes first of all (cursor at the end of a complete line) does not count.
        deadline: `time.perf_counter()` seconds after which decoding stops with what
            it has, or None.
        cancel: set by another thread to stop; checked between tokens and during prefill.
        cache_key: requests with the same key share a KV cache (one key per document).
        avoid: a token id that may not come first, for a second candidate; None for any.
        comments: False forbids lines that begin with `#`; what was forbidden still counts in
            the log-probabilities of what came instead.
        ended: asked after every token behind the first line break, with the text so far; True
            ends decoding as a line break would.
        drafts: guess tokens and verify several in one run; the text is the same without.
        min_logprob: stop once the summed log-probability is no greater than this: it can only
            fall. None never stops for it.
        on_text: told the text so far after every token, for streaming; True ends decoding.
        ahead: nobody waits for it yet. A core is left free, so that what is typed meanwhile is read
            at once: a busy core may keep other threads waiting for milliseconds.
    """

    prompt_ids: list[int]
    heal: bytes = b""
    max_tokens: int = 48
    max_lines: int = 1
    deadline: float | None = None
    cancel: Cancellation = field(default_factory=Cancellation)
    cache_key: str = ""
    avoid: int | None = None
    comments: bool = True
    ended: Callable[[str], bool] | None = None
    drafts: bool = True
    min_logprob: float | None = None
    on_text: Callable[[str], bool] | None = None
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What came out of one decode.

    Attributes:
        text: decoded text after the healed bytes, cut before the line break that
            stopped it; incomplete UTF-8 at the end is dropped.
        token_ids: generated ids, healed ones included, the stop token excluded.
        logprobs: natural-log probability per generated token, the stop token
            *included* where the model chose one; healed tokens are normalised inside
            the allowed set.
        stop: why decoding ended.
        prompt_tokens: length of the prompt in tokens.
        reused_tokens: how many of them were already in the KV cache.
        prefill_ms, decode_ms: wall-clock milliseconds.
        drafted_tokens: tokens that were guessed and verified.
        accepted_tokens: how many of them the model chose; each saved a run.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: StopReason
    prompt_tokens: int
    reused_tokens: int
    prefill_ms: float
    decode_ms: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Backend(Protocol):
    """Anything that can continue a prompt."""

    @property
    def model_id(self) -> str:
        """Name of the model, for records and the benchmarks."""
        ...

    @property
    def context_length(self) -> int:
        """Prompt plus generated tokens may not exceed this."""
        ...

    @property
    def languages(self) -> frozenset[str]:
        """LSP language ids that the model card lists."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that fits the weights."""
        ...

    def generate(self, request: GenerateRequest) -> GenerateResult:
        """Decode greedily; blocks. One call at a time per backend.

        Raises:
            PromptError: empty prompt or one longer than the context.
        """
        ...

    def affordable_tokens(self, seconds: float) -> int | None:
        """How many prompt tokens can be read anew so that a line is decoded within `seconds`.

        None where that is not known or does not matter.
        """
        ...

    def holds(self, cache_key: str) -> bool:
        """Whether there is a KV cache of that key; without, a prompt is read from its beginning."""
        ...

    def forget(self, cache_key: str) -> None:
        """Drop the KV cache of a closed document."""
        ...

    def rename(self, cache_key: str, new_key: str) -> None:
        """The KV cache of `cache_key`, if any, takes the place of that of `new_key`."""
        ...
