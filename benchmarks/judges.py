"""What counts as a right completion in HumanEval-Infilling and SAFIM."""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from typing import Any

from benchmarks.cases import Judge
from benchmarks.sandbox import run_program

SAFIM_TIME_LIMIT_S = 10.0
"""SAFIM's contest programs were judged on PyPy; plain CPython gets longer for the same work."""


def fingerprint(text: str) -> str:
    """Return a short stable name for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def human_eval(record: dict[str, Any], after: str) -> Judge:
    """Run prompt, completion, suffix and the problem's tests: pass@1 of HumanEval-Infilling."""
    tail = f"{after}\n{record['test']}\ncheck({record['entry_point']})\n"

    def judge(completion: str) -> bool:
        return run_program(record["prompt"] + completion + tail).completed

    return judge


def safim_tests(record: dict[str, Any], before: str, after: str) -> Judge:
    """Run the program on each of SAFIM's inputs and compare what it prints.

    As in SAFIM the original text passes unrun. Outputs are compared word by word without
    regard to case, as contest checkers do for YES and NO.
    """

    def judge(completion: str) -> bool:
        if completion == record["ground_truth"]:
            return True
        for test in record["unit_tests"]:
            execution = run_program(
                before + completion + after, stdin=test["input"], time_limit_s=SAFIM_TIME_LIMIT_S
            )
            printed = execution.stdout.lower().split()
            if execution.returncode != 0:
                return False
            if not any(printed == expected.lower().split() for expected in test["output"]):
                return False
        return True

    return judge


def api_call(gold: str) -> Judge:
    """Match a call as SAFIM does: the same arguments, keywords in any order.

    SAFIM compares blank-free texts by their syntax trees where both are calls, and as texts
    otherwise. Its own code compares only the arguments; here the called name counts as well.
    """

    def judge(completion: str) -> bool:
        left, right = (re.sub(r"\s+", "", text) for text in (completion, gold))
        if left == right:
            return True
        calls = [_parsed_call(text) for text in (left, right)]
        return calls[0] is not None and calls[0] == calls[1]

    return judge


def _parsed_call(text: str) -> tuple[str, list[str], dict[str | None, str]] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(body, ast.Call):
        return None
    return (
        ast.dump(body.func),
        [ast.dump(argument) for argument in body.args],
        {keyword.arg: ast.dump(keyword.value) for keyword in body.keywords},
    )


def until_call_closes(completion: str) -> str:
    """Cut behind the bracket that closes the first call; the whole text if none does."""
    depth = 0
    for index, char in enumerate(completion):
        if char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth <= 0:
                return completion[: index + 1]
    return completion


def first_line(completion: str) -> str:
    """Return the first line that is not blank."""
    return next((line for line in completion.splitlines() if line.strip()), "")


def until_parsable(before: str, completion: str, after: str) -> str:
    """Drop lines from the end until the whole program parses; empty if it never does."""
    lines = completion.splitlines(keepends=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        while lines:
            try:
                ast.parse(before + "".join(lines) + after)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                lines.pop()
            else:
                break
    return "".join(lines)
