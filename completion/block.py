"""Multi-line suggestions: where one is wanted, where it ends, and how much of it is sure.

One line is the rule. Where a block is open and empty the model may go on, and what is shown is
the longest run of whole lines that it is sure of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from completion.confidence import confident, logprob_sum
from completion.parse import in_empty_block
from completion.region import region
from completion.statement import is_python
from completion.types import CompletionRequest, ConfidencePolicy, DecodePolicy, Mode, Trigger
from models.backend import GenerateResult, StopReason

_TOKENS_PER_LINE = 16
_LINE = re.compile(r"^[^\n\S]*\S[^\n]*", re.MULTILINE)
_ANYWHERE = re.compile(
    r"\W*(?:else|try|finally|pass|break|continue|return(?: None| self)?)?\W*", re.ASCII
)
"""Lines and ends of lines that are no sign of a repetition by themselves: code is full of them."""
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


def is_block(decode: DecodePolicy) -> bool:
    """Whether what is decoded is a block, which knows where it ends, and not any lines."""
    return decode.max_lines > 1 and decode.block_lines > 1


def stop_below(suffix: str) -> str:
    r"""What a text of several lines holds where it begins to write the document once more.

    Where something is right of the cursor, that is the rest of its line and a line break; a model
    that joins the two seldom says that it is done, and writes on. Else it is the next lines, as
    `lines_below` has them. A rest that stands in code everywhere needs the line behind it too.

    Args:
        suffix: document after the cursor, `\n` line ends.
    """
    rest = suffix.partition("\n")[0].rstrip()
    if not rest:
        return lines_below(suffix)
    behind = _LINE.search(suffix, len(rest)) if _ANYWHERE.fullmatch(rest.strip()) else None
    return f"{suffix[: behind.end()].rstrip() if behind else rest}\n"


def lines_below(suffix: str) -> str:
    r"""A line break, the next line below the cursor that is not blank, and a line break.

    Where that line stands in code everywhere (a closing bracket, `else:`), the one behind it
    belongs to it. Empty where nothing is below, or something is right of the cursor.

    Args:
        suffix: document after the cursor, `\n` line ends.
    """
    end = suffix.find("\n")
    if end < 0 or suffix[:end].strip():
        return ""
    below = list(islice(_LINE.finditer(suffix, end), 2))
    if not below:
        return ""
    last = below[-1] if _ANYWHERE.fullmatch(below[0].group().strip()) else below[0]
    return f"\n{suffix[below[0].start() : last.end()].rstrip()}\n"


def block_end(text: str, left: str, suffix: str) -> int:
    r"""Where the block in `text` ends: an offset at a line's end.

    It ends before a line that is indented less than the cursor's (dedent), where it begins to
    repeat the document (`lines_below`), and before the third of the same lines in a row.

    Args:
        text: what the model wrote at the cursor, `\n` line ends.
        left: the cursor's line before the cursor.
        suffix: document after the cursor.
    """
    return _block_end(text, left, lines_below(suffix))


def _block_end(text: str, left: str, below: str) -> int:
    repeated = f"\n{left}{text}\n".find(below) if below else -1
    if repeated >= 0:
        text = text[: max(repeated - len(left) - 1, 0)]
    indentation = _cursor_indentation(left)
    end, previous = 0, list[str]()
    for number, line in enumerate(text.split("\n")):
        whole = left + line if number == 0 else line
        stripped = whole.strip()
        if stripped and number > 0 and _indentation(whole) < indentation:
            break
        if stripped and previous[-2:] == [stripped, stripped]:
            break
        if stripped:
            previous.append(stripped)
        end += len(line) + (number > 0)
    return len(text[:end].rstrip())


def stop_rule(prefix: str, suffix: str) -> Callable[[str], bool]:
    """For `GenerateRequest.ended`: whether what is written goes beyond the block already."""
    left, below = prefix[prefix.rfind("\n") + 1 :], lines_below(suffix)

    def ended(text: str) -> bool:
        whole, _, begun = text.rpartition("\n")
        if begun.strip() and _indentation(begun) < _cursor_indentation(left):
            return True
        # A line that goes on may still become another one.
        return _block_end(whole, left, below) < len(whole.rstrip())

    return ended


def repeat_rule(suffix: str) -> Callable[[str], bool] | None:
    """For `GenerateRequest.ended` where lines are free: whether the document is repeated."""
    below = stop_below(suffix)
    return (lambda text: below in text) if below else None


def before_repeat(
    result: GenerateResult, lengths: Sequence[int], healed: int, suffix: str
) -> GenerateResult:
    """`result` cut where it begins to repeat the document; other arguments as of `trim`."""
    below = stop_below(suffix)
    end = f"{result.text}\n".find(below) if below else -1
    if end < 0:
        return result
    return _cut(result, end, _tokens_until(result.text[:end], lengths, healed))


def before_misfit(
    result: GenerateResult, lengths: Sequence[int], healed: int, prefix: str, suffix: str
) -> GenerateResult:
    r"""`result` cut to its first whole lines that fit between `prefix` and `suffix`.

    A model that has not noticed where the text below goes on writes beyond it: that is a syntax
    error at their border, and the lines before may be what was missing. As it is where all of
    it fits, or no beginning does. Python's own parser is asked: tree-sitter reads on over an indent
    that nothing opened.

    Args:
        result: a decode of several lines.
        lengths: bytes of each of its tokens.
        healed: bytes at its beginning that were in the document before.
        prefix: document before the cursor, `\n` line ends.
        suffix: document after the cursor.
    """
    text = result.text
    before, after = region(prefix, suffix)
    if "\n" not in text or is_python(before + text + after):
        return result
    for line in _LINE.finditer(text):
        begun = text[: line.end()].rstrip()
        if is_python(before + begun + after):
            return _cut(result, len(begun), _tokens_until(begun, lengths, healed))
    return result


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _cursor_indentation(left: str) -> int:
    return _indentation(left if left.strip() == "" else left + "x")


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
