"""Multi-line suggestions: where one is wanted, where it ends, and how much of it is sure.

One line is the rule. Where a block is open and empty the model may go on, and what is shown is
the longest run of whole lines that it is sure of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from completion.confidence import confident, logprob_sum
from completion.parse import in_empty_block
from completion.types import CompletionRequest, ConfidencePolicy, Mode, Trigger
from models.backend import GenerateResult, StopReason

_TOKENS_PER_LINE = 16
_ENDED = frozenset({StopReason.NEWLINE, StopReason.END_OF_MIDDLE})


def sized(request: CompletionRequest, prefix: str, suffix: str) -> CompletionRequest:
    """`request` with room for a block where one is wanted; else as it is.

    Wanted is a block on an explicit request and on a blank line in an empty block.
    """
    decode = request.policies.decode
    lines = decode.block_lines
    if decode.mode is not Mode.JOINT or lines <= decode.max_lines or decode.max_lines != 1:
        return request
    left, right = prefix[prefix.rfind("\n") + 1 :], suffix.partition("\n")[0]
    invoked = request.trigger is Trigger.INVOKED and not left.strip() and not right.strip()
    if not invoked and not in_empty_block(prefix, suffix):
        return request
    tokens = max(decode.max_tokens, lines * _TOKENS_PER_LINE)
    policies = replace(request.policies, decode=replace(decode, max_lines=lines, max_tokens=tokens))
    return replace(request, policies=policies)


def block_end(text: str, left: str, suffix: str) -> int:
    r"""Where the block in `text` ends: an offset at a line's end.

    It ends before a line that is indented less than the cursor's (dedent), before one that is
    the next line of the document, and before the third of the same lines in a row.

    Args:
        text: what the model wrote at the cursor, `\n` line ends.
        left: the cursor's line before the cursor.
        suffix: document after the cursor.
    """
    indentation = _indentation(left if left.strip() == "" else left + "x")
    following = next((line for line in suffix.split("\n")[1:] if line.strip()), None)
    end, previous = 0, list[str]()
    for number, line in enumerate(text.split("\n")):
        whole = left + line if number == 0 else line
        stripped = whole.strip()
        if stripped and number > 0 and _indentation(whole) < indentation:
            break
        if stripped and following is not None and whole.rstrip() == following.rstrip():
            break
        if stripped and previous[-2:] == [stripped, stripped]:
            break
        if stripped:
            previous.append(stripped)
        end += len(line) + (number > 0)
    return len(text[:end].rstrip())


def stop_rule(prefix: str, suffix: str) -> Callable[[str], bool]:
    """For `GenerateRequest.ended`: whether what is written goes beyond the block already."""
    left = prefix[prefix.rfind("\n") + 1 :]

    def ended(text: str) -> bool:
        return block_end(text, left, suffix) < len(text.rstrip())

    return ended


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def trim(
    result: GenerateResult,
    lengths: Sequence[int],
    healed: int,
    *,
    left: str,
    suffix: str,
    confidence: ConfidencePolicy,
) -> GenerateResult:
    """`result` cut to whole lines of its block of which the model is sure together.

    The first line always stays, so that a block is never less than a line would have been.
    A last line that the deadline or the token limit cut off goes.

    Args:
        result: a decode of several lines.
        lengths: bytes of each of its tokens.
        healed: bytes at its beginning that were in the document before.
        left: the cursor's line before the cursor.
        suffix: document after the cursor.
        confidence: how sure.
    """
    text = result.text
    end = block_end(text, left, suffix)
    if result.stop not in _ENDED:
        line_feed = text.rfind("\n", 0, end)
        # Nothing whole: one unfinished line is what a deadline leaves in single-line mode too.
        end = line_feed if line_feed > 0 and end == len(text.rstrip()) else end
    ends = [index for index, char in enumerate(text[:end]) if char == "\n" and text[:index].strip()]
    for stop in [end, *reversed(ends)]:
        tokens = _tokens_until(text[:stop], lengths, healed)
        # With the token behind it: the probability that the line ends there counts.
        total = logprob_sum(result.logprobs[: tokens + 1])
        if confident(total, confidence) or stop == (ends[0] if ends else end):
            return _cut(result, stop, tokens)
    return result


def _tokens_until(text: str, lengths: Sequence[int], healed: int) -> int:
    """How many tokens it takes to reach the end of `text`."""
    missing = len(text.encode("utf-8", "replace")) + healed
    for count, length in enumerate(lengths):
        if missing <= 0:
            return count
        missing -= length
    return len(lengths)


def _cut(result: GenerateResult, end: int, tokens: int) -> GenerateResult:
    if end == len(result.text):
        return result
    return replace(
        result,
        text=result.text[:end],
        token_ids=result.token_ids[:tokens],
        logprobs=result.logprobs[: tokens + 1],
        stop=StopReason.NEWLINE,
    )
