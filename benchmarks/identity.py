"""Whether drafts change what is written: greedy decoding with and without them.

Usage: python -m benchmarks.identity [--limit N] [--lines N] [--threads N] [--model PATH] [--json]

Mid-line cursors of the tuning projects, several in each drawn line, as if it were typed on. Each is
completed without drafts and with them, in KV caches of their own, so that whatever a draft left
behind would show. No idle machine is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import prepare
from benchmarks.cases import Case
from benchmarks.data import BenchmarkDataError
from benchmarks.harness import parser, report
from benchmarks.lines import line_cases
from completion.prompt import PromptBuilder
from completion.types import DecodePolicy, Mode, WindowPolicy
from models.backend import Backend, GenerateRequest, GenerateResult
from models.generate import common_prefix_length
from models.local import LocalBackend
from models.registry import find

CURSORS_A_LINE = 5
"""The first one reads the whole prompt, the others what was typed since."""
_TOKENS_PER_LINE = 16
NEAR_TIE = 0.1
"""Nats by which another kernel's noise can exchange two tokens (dev/LOG.md, 2026-11-23)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One cursor, completed without drafts and with them."""

    plain: GenerateResult
    drafting: GenerateResult

    @property
    def identical(self) -> bool:
        """Whether both are the same text for the same reason, token by token."""
        one, other = self.plain, self.drafting
        return (one.token_ids, one.text, one.stop) == (other.token_ids, other.text, other.stop)

    @property
    def near_tie(self) -> bool:
        """Whether, where they first differ, each took about as likely a token as the other."""
        at, one, other = self._common, self.plain.logprobs, self.drafting.logprobs
        return at < min(len(one), len(other)) and abs(one[at] - other[at]) < NEAR_TIE

    @property
    def difference(self) -> float:
        """The largest one between the log-probabilities of their common tokens."""
        both = zip(self.plain.logprobs, self.drafting.logprobs, strict=False)
        return max((abs(one - other) for one, other in islice(both, self._common)), default=0.0)

    @property
    def _common(self) -> int:
        """How many tokens both begin with."""
        return common_prefix_length(self.plain.token_ids, self.drafting.token_ids)


def pairs(
    backend: Backend, cases: Iterable[Case], *, lines: int, window: WindowPolicy
) -> Iterator[Pair]:
    """Complete cursors in the lines of `cases` with and without drafts.

    Args:
        backend: its KV caches are left empty.
        cases: of `benchmarks.lines`.
        lines: how many are written at most.
        window: text around the cursor.
    """
    most = max(DecodePolicy().max_tokens, lines * _TOKENS_PER_LINE)
    prompts = PromptBuilder(backend.tokenizer, backend.context_length)
    for case in cases:
        step = -(-len(case.gold) // CURSORS_A_LINE)
        for typed in range(0, len(case.gold), step):
            prompt = prompts.build(
                case.text[: case.offset] + case.gold[:typed],
                case.text[case.offset :],
                uri=case.case_id,
                window=window,
                mode=Mode.JOINT,
                max_tokens=most,
            )
            plain = GenerateRequest(
                prompt.ids,
                prompt.heal,
                max_tokens=most + prompt.healed,
                max_lines=lines,
                cache_key="plain",
                drafts=False,
            )
            drafting = replace(plain, cache_key="drafting", drafts=True)
            yield Pair(backend.generate(plain), backend.generate(drafting))
        prompts.forget(case.case_id)
        for key in ("plain", "drafting"):
            backend.forget(key)


def summarise(found: Sequence[Pair]) -> dict[str, Any]:
    """The keys of the report."""
    different = [pair for pair in found if not pair.identical]
    return {
        "n": len(found),
        "identical_share": round(1 - len(different) / len(found), 5) if found else None,
        "near_ties": sum(pair.near_tie for pair in different),
        "largest_difference": max((pair.difference for pair in found), default=0.0),
        "drafted_tokens": sum(pair.drafting.drafted_tokens for pair in found),
        "accepted_tokens": sum(pair.drafting.accepted_tokens for pair in found),
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 where drafts changed more than near ties."""
    options = parser(__doc__)
    options.add_argument("--limit", type=int, default=250, help="lines to draw (default 250)")
    options.add_argument("--lines", type=int, default=1, help="lines to write (default 1)")
    options.add_argument("--folder", type=Path, default=prepare.CACHE / "tuning")
    arguments = options.parse_args(given)
    try:
        cases = line_cases(arguments.folder, arguments.limit, arguments.seed)
    except BenchmarkDataError as error:
        print(f"benchmarks.identity: {error}", file=sys.stderr)
        report({"skipped": str(error)}, arguments.json)
        return 0
    backend = LocalBackend.load(find(arguments.model), threads=arguments.threads)
    found: list[Pair] = []
    for pair in pairs(backend, cases, lines=arguments.lines, window=WindowPolicy()):
        found.append(pair)
        if sys.stderr.isatty():
            print(f"\r{len(found)} cursors", end="", file=sys.stderr, flush=True)
    result = summarise(found)
    report(result, arguments.json)
    return int(sum(not pair.identical for pair in found) > result["near_ties"])


if __name__ == "__main__":
    raise SystemExit(main())
