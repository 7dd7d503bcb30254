"""What goes into the completion engine and what comes out.

Offsets are in Unicode code points of `CompletionRequest.text` (Python string
indices); the server converts from the editor's position encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from models.cancellation import Cancellation


class Trigger(StrEnum):
    """How a completion was asked for (LSP `InlineCompletionTriggerKind`)."""

    AUTOMATIC = "automatic"
    INVOKED = "invoked"


class Mode(StrEnum):
    """Prompt layout. See `completion.prompt`."""

    JOINT = "joint"
    """The model continues the prefix; the last prefix token is healed."""
    SEP = "sep"
    """The model writes a span behind `<|middle|>` and ends it with `<|eom|>`."""


class Pivot(StrEnum):
    """What becomes of a comment that the model wrote to itself. See `completion.pivot`."""

    OFF = "off"
    """No candidate behind a comment."""
    STRIP = "strip"
    """The comment led to the code; only the code is shown."""
    KEEP = "keep"
    """The comment is shown with the code."""


class HiddenReason(StrEnum):
    """Why nothing is shown. Every hidden outcome carries exactly one."""

    LANGUAGE = "language"
    TOO_LARGE = "too_large"
    MID_WORD = "mid_word"
    EXHAUSTED = "exhausted"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    EMPTY = "empty"
    LOW_CONFIDENCE = "low_confidence"
    REPEATS_SUFFIX = "repeats_suffix"
    REPETITION = "repetition"
    EXCLUDED = "excluded"
    PAUSED = "paused"
    DISMISSED = "dismissed"
    PARSE_ERROR = "parse_error"
    SECRET = "secret"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TriggerPolicy:
    """When to run at all. `enabled=False` runs always (benchmarks)."""

    enabled: bool = True
    languages: frozenset[str] | None = None
    """LSP language ids served; None means those of the model card."""
    max_file_bytes: int = 5_000_000


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """How much text around the cursor goes into the prompt, in tokens.

    A window starts with `fresh_prefix_tokens` and `fresh_suffix_tokens` (after a cursor jump
    nothing is cached and every token costs time) and grows with typing up to `prefix_tokens`.
    While the user rests, one of `rest_prefix_tokens` and `suffix_tokens` takes its place: the
    model is better with it (dev/LOG.md, 2026-11-23).
    """

    prefix_tokens: int = 1500
    fresh_prefix_tokens: int = 400
    rest_prefix_tokens: int = 1000
    suffix_tokens: int = 450
    fresh_suffix_tokens: int = 150

    def rested(self) -> WindowPolicy:
        """The window of a user at rest, read at once: for callers without a deadline."""
        return replace(
            self,
            fresh_prefix_tokens=self.rest_prefix_tokens,
            fresh_suffix_tokens=self.suffix_tokens,
        )


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """How to decode. Times in milliseconds from the request's arrival.

    `block_lines` takes the place of a `max_lines` of 1 where a block is open and empty, or asked
    for; what comes out is cut to the lines that the model is sure of. `candidates` is how many
    suggestions an explicit request gives at most.
    """

    mode: Mode = Mode.JOINT
    max_tokens: int = 48
    max_lines: int = 1
    deadline_ms: float | None = 400.0
    block_lines: int = 1
    candidates: int = 1
    drafts: bool = True
    """Verify guessed tokens several at a time: faster, the same text."""


@dataclass(frozen=True, slots=True)
class ShapePolicy:
    """Which filters run over the raw text. `enabled=False` returns it raw."""

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ConfidencePolicy:
    """Show only when the line's summed token log-probability exceeds `min_logprob`."""

    min_logprob: float | None = -1.5


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """Whether code of the repository is put in front of the prompt, and how much, in tokens.

    `gated` lets a gate decide for each place. After a cursor jump there are at most
    `jump_tokens`, since reading them delays the suggestion; in rest up to `tokens`.
    """

    enabled: bool = False
    gated: bool = True
    tokens: int = 512
    jump_tokens: int = 160

    def rested(self) -> ContextPolicy:
        """That of a user at rest: for callers without a deadline."""
        return replace(self, jump_tokens=self.tokens)


@dataclass(frozen=True, slots=True)
class PivotPolicy:
    """Whether a block is also written behind a comment, and the better one shown.

    `deadline_ms`, from the request's arrival, is the second candidate's own: where it is not
    complete by then, the direct one is shown. `margin` is how much likelier its code must be, in
    natural log-probability a token; None means what was fitted for the model.
    """

    mode: Pivot = Pivot.OFF
    deadline_ms: float | None = 800.0
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Policies:
    """Everything a caller may vary; an experiment arm is one value of this class."""

    trigger: TriggerPolicy = field(default_factory=TriggerPolicy)
    window: WindowPolicy = field(default_factory=WindowPolicy)
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    shape: ShapePolicy = field(default_factory=ShapePolicy)
    confidence: ConfidencePolicy = field(default_factory=ConfidencePolicy)
    context: ContextPolicy = field(default_factory=ContextPolicy)
    pivot: PivotPolicy = field(default_factory=PivotPolicy)
    arms: str = ""
    """Experiment arms that these policies are (`experiment=arm;…`), so that caches keep arms
    apart even where they decide alike."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One opportunity to complete.

    Attributes:
        text: the whole document as the editor holds it (any line ending).
        offset: cursor, code points into `text`, 0..len(text).
        uri: identity of the document; keys its KV cache and prompt window.
        language: LSP language id.
        trigger: typed or asked for.
        policies: see `Policies`.
        cancel: set by another thread when the request is superseded or cancelled.
        received: `time.perf_counter()` when it arrived; None means now.
    """

    text: str
    offset: int
    uri: str = ""
    language: str = "python"
    trigger: Trigger = Trigger.AUTOMATIC
    policies: Policies = field(default_factory=Policies)
    cancel: Cancellation = field(default_factory=Cancellation)
    received: float | None = None


class Source(StrEnum):
    """Where a suggestion came from."""

    MODEL = "model"
    REMOTE = "remote"
    TYPED_THROUGH = "typed_through"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class UsedChunk:
    """A piece of retrieved code in a prompt, without its text.

    Attributes:
        file: name of the file, without its folder.
        line: where it begins, from 1.
        tokens: what it takes of the prompt.
        score: by reciprocal rank fusion.
        sources: score by the name of each retriever that found it.
    """

    file: str
    line: int
    tokens: int
    score: float
    sources: dict[str, float]


@dataclass(slots=True)
class Record:
    """What happened at each stage of one request; no source text. Times in milliseconds."""

    context_ms: float = 0.0
    prompt_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    shape_ms: float = 0.0
    total_ms: float = 0.0
    queue_ms: float = 0.0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    logprob_sum: float | None = None
    stop: str | None = None
    source: Source | None = None
    context_tokens: int = 0
    context_cost_ms: float | None = None
    """What reading the retrieved code takes on this machine, once per window; None: not known."""
    chunks: list[UsedChunk] = field(default_factory=list)
    context_rule: str = ""
    """Why none of it is in the prompt, though it was looked for; empty where some is."""
    context_gain: float | None = None
    """Nats that what was found last was expected to gain; None where nothing was weighed."""
    pivot: str = ""
    """Of two candidates for a block, the one taken: `direct` or `comment`; `late` where there was
    no time for the second. Empty where only one was wanted."""
    pivot_gain: float | None = None
    """How much likelier a token of the code behind the comment was, natural logarithm."""
    pivot_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text to show: replace `text[start:end]` of the request's document by `insert`.

    `start` ≤ cursor ≤ `end`, all on the cursor's line. `insert` has the document's own
    line endings. The same `suggestion_id` comes back while the user types through it.
    `alternatives` are other suggestions for the same place, for an explicit request.
    """

    suggestion_id: str
    insert: str
    start: int
    end: int
    record: Record
    alternatives: tuple[Suggestion, ...] = ()


@dataclass(frozen=True, slots=True)
class Hidden:
    """Nothing to show, and why. `detail` is a sentence for the user."""

    reason: HiddenReason
    detail: str
    record: Record


Outcome = Suggestion | Hidden
