"""Comment pivots: a block is written twice, once behind a comment that says what it will do.

A model that first says in words what comes next may write better code (MANGO). So, where a block
is empty or a comment or docstring announces code, there is a second candidate: a forced `# ` and
a line of at most 16 tokens, then code in which no line is a comment again. It starts from the
KV cache of the direct candidate's prompt and costs only its own tokens.

Code is likelier behind a comment that the model chose itself, right or wrong, so the candidates'
mean log-probabilities do not compare as they are: the comment has to win by a margin, fitted on
the tuning projects by `python -m benchmarks.calibrate_pivot` and kept in `pivots.json`.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from completion.confidence import TokenLogprobs
from completion.parse import behind_docstring, in_empty_block
from completion.prompt import Prompt
from completion.types import DecodePolicy, Pivot, PivotPolicy
from models.backend import Backend, GenerateRequest, GenerateResult, StopReason
from models.tokenizer import Tokenizer

COMMENT_TOKENS = 16
"""Of the comment, which ends there even in the middle of a sentence."""
UNFITTED_MARGIN = 0.1
"""Natural log-probability a token, for models without a fitted margin."""
_FILE = "pivots.json"
_MARK = "# "
_CUT_OFF = frozenset({StopReason.DEADLINE, StopReason.CANCELLED})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block that was written behind a comment.

    Attributes:
        result: the code without the comment, as if it had been decoded from `prompt`.
        prompt: ends inside the comment, whose rest is healed.
        lead: blanks at the beginning of the text, as in the direct candidate.
        indentation: of the comment and the code's first line.
        comment: `# ` and the words.
        origin: the prompt of the direct candidate.
    """

    result: GenerateResult
    prompt: Prompt
    lead: str
    indentation: str
    comment: str
    origin: Prompt

    def shown(self, mode: Pivot) -> tuple[GenerateResult, Prompt]:
        """The candidate with or without its comment, and the prompt that it continues.

        The comment's tokens count as certain: what is judged is the code.
        """
        if mode is not Pivot.KEEP:
            return self.result, self.prompt
        written = tuple(self.prompt.ids[len(self.origin.ids) :])
        code = self.result.text[len(self.lead) :]
        result = replace(
            self.result,
            text=f"{self.lead}{self.comment}\n{self.indentation}{code}",
            token_ids=written + self.result.token_ids,
            logprobs=(0.0,) * len(written) + self.result.logprobs,
        )
        return result, self.origin


@cache
def margin_of(model_id: str) -> float:
    """How much likelier a token of code behind a comment must be for a model, natural logarithm."""
    fitted = json.loads((files("completion") / _FILE).read_text(encoding="utf-8"))
    return float(fitted.get(model_id, {"margin": UNFITTED_MARGIN})["margin"])


def wanted(policy: PivotPolicy, decode: DecodePolicy, prefix: str, suffix: str, text: str) -> bool:
    r"""Whether the block that the model began with `text` is to be tried behind a comment.

    Args:
        policy: off is never.
        decode: a single line needs no plan.
        prefix: document before the cursor, `\n` line ends.
        suffix: document after the cursor.
        text: the direct candidate, which tells the indentation where the document does not.
    """
    if policy.mode is Pivot.OFF or decode.max_lines == 1 or text.lstrip().startswith("#"):
        return False
    if not text.strip() or _last_line(prefix).strip() or suffix.partition("\n")[0].strip():
        return False
    if _last_line(prefix.rstrip()).lstrip().startswith("#"):
        return True
    before = prefix + _blanks(text)
    return in_empty_block(before, suffix) or behind_docstring(before, suffix)


def affords(policy: PivotPolicy, direct: GenerateResult, received: float | None) -> bool:
    """Whether a second candidate like `direct` can be complete by its deadline.

    `received` is `time.perf_counter()` when the request arrived; None where nobody waits.
    """
    if (deadline := deadline_of(policy, received)) is None:
        return True
    per_token = direct.decode_ms / 1000 / max(1, len(direct.token_ids))
    return time.perf_counter() + per_token * (len(direct.token_ids) + COMMENT_TOKENS) < deadline


def deadline_of(policy: PivotPolicy, received: float | None) -> float | None:
    """The second candidate's deadline in `time.perf_counter()` seconds."""
    if policy.deadline_ms is None or received is None:
        return None
    return received + policy.deadline_ms / 1000


def write(
    backend: Backend,
    request: GenerateRequest,
    origin: Prompt,
    prefix: str,
    direct: str,
) -> Candidate | None:
    r"""Write the block behind a comment; None where nothing complete comes of it.

    Args:
        backend: the model; its KV cache of the request's key serves both candidates.
        request: the direct candidate's, with the deadline of this one.
        origin: prompt of the direct candidate.
        prefix: document before the cursor, `\n` line ends.
        direct: text of the direct candidate; the comment stands where its code does.
    """
    tokenizer = backend.tokenizer
    lead = _blanks(direct)
    indentation = _last_line(_last_line(prefix) + lead)
    forced = origin.heal + (lead + _MARK).encode()
    forced_tokens = len(tokenizer.encode(forced.decode("utf-8", "replace")))
    words = backend.generate(
        replace(
            request,
            heal=forced,
            max_tokens=forced_tokens + COMMENT_TOKENS,
            max_lines=1,
            ended=None,
            min_logprob=None,
        )
    )
    said = words.text.rstrip()
    if words.stop in _CUT_OFF or not said.strip():
        return None
    head = forced + said.encode("utf-8", "replace")
    kept, written = list[int](), 0
    for token in words.token_ids:
        if written + len(tokenizer.token_bytes(token)) > len(head):
            break
        written += len(tokenizer.token_bytes(token))
        kept.append(token)
    heal = head[written:] + b"\n" + indentation.encode()
    several_lines_of_blanks = not heal.endswith(lead.encode())
    if several_lines_of_blanks or len(origin.ids) + len(kept) > backend.context_length:
        return None
    result = backend.generate(
        replace(
            request,
            prompt_ids=[*origin.ids, *kept],
            heal=heal,
            max_tokens=request.max_tokens + len(tokenizer.encode(heal.decode("utf-8", "replace"))),
            comments=False,
        )
    )
    if result.stop in _CUT_OFF or not result.text.strip():
        return None
    # The lead was forced in both: it belongs to the text, not to what was healed.
    healed = heal[: len(heal) - len(lead.encode())]
    prompt = replace(origin, ids=[*origin.ids, *kept], heal=healed)
    code = replace(result, text=lead + result.text)
    return Candidate(code, prompt, lead, indentation, _MARK + said, origin)


def code_mean(result: GenerateResult, heal: bytes, tokenizer: Tokenizer) -> float:
    """Mean log-probability of a candidate's tokens; what was healed and the first blanks are left
    out, for they were not the model's choice in both candidates."""
    lengths = [len(tokenizer.token_bytes(token)) for token in result.token_ids]
    blanks = len(_blanks(result.text).encode())
    aligned = TokenLogprobs.align(lengths, result.logprobs, len(heal))
    chosen = [
        logprob
        for (_, end), logprob in zip(aligned.spans, aligned.logprobs, strict=True)
        if end > blanks
    ]
    return math.fsum(chosen) / len(chosen) if chosen else -math.inf


def _blanks(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :]
