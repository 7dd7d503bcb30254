"""Where benchmark data lies, and the HumanEval-Infilling and SAFIM suites made from it.

HumanEval-Infilling: Bavarian et al. 2022 (arXiv 2207.14255). SAFIM: Gong et al. 2024
(arXiv 2403.04814). Both MIT; neither is part of this repository.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import judges
from benchmarks.cases import Case, line_policy, span_policy

ENVIRONMENT_VARIABLE = "SNOWCODER_BENCH_DATA"
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "benchmarks"


class BenchmarkDataError(Exception):
    """The data of a suite is missing or is not what the suite expects."""


def data_folder(given: Path | None) -> Path:
    """Return the folder that holds the suites: the option, the environment, the default.

    Raises:
        BenchmarkDataError: the folder does not exist.
    """
    folder = given or Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER)
    if not folder.is_dir():
        raise BenchmarkDataError(
            f"no benchmark data at {folder}; set --data or {ENVIRONMENT_VARIABLE}"
        )
    return folder


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise BenchmarkDataError(f"{path} is missing")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def human_eval(folder: Path, name: str) -> list[Case]:
    """Holes in HumanEval solutions, judged by the problem's tests.

    Args:
        folder: of the data.
        name: `SingleLine` (1033 cases, joint mode), `MultiLine` (5815) or `RandomSpan` (1640),
            whose mode follows from where the cursor is (`span_policy`).

    The gold text of the first two are whole lines with their last line break, and the suffix
    starts with the next line. An editor that opens a line has that break in the document
    already, so the document gets it too; the program that runs is the same.
    """
    opened = "" if name == "RandomSpan" else "\n"
    return [
        Case(
            case_id=record["task_id"],
            text=record["prompt"] + opened + record["suffix"],
            offset=len(record["prompt"]),
            gold=record["canonical_solution"].removesuffix(opened),
            cluster=_problem(record),
            decode=line_policy() if name == "SingleLine" else span_policy(record["prompt"]),
            judge=judges.human_eval(record, after=opened + record["suffix"]),
        )
        for record in _records(folder / f"humaneval-infilling-{name}.jsonl.gz")
    ]


def _problem(record: dict[str, Any]) -> str:
    """`SingleLineInfilling/HumanEval/0/L0` → `HumanEval/0`."""
    return "/".join(record["task_id"].split("/")[1:3])


def safim(folder: Path, name: str) -> list[Case]:
    """SAFIM's Python part: `api` (181), `control` (750) or `block` (805).

    Every control target is a single line, so it runs in joint mode like the api calls. In
    117 of the 750 the statement's body follows on the same line: there the model has to
    find the end of a span.
    """
    cases = []
    for record in _records(folder / f"safim-python-{name}.jsonl.gz"):
        before, after = record["eval_prompt"].split("{{completion}}")
        body_follows = name == "control" and bool(after.split("\n", 1)[0].strip())
        cases.append(
            Case(
                case_id=record["task_id"],
                text=before + after,
                offset=len(before),
                gold=record["ground_truth"],
                # Several cases are cut from one program; whole, they are the same text.
                cluster=judges.fingerprint(before + record["ground_truth"] + after),
                decode=span_policy(before) if name == "block" or body_follows else line_policy(),
                judge=(
                    judges.api_call(record["ground_truth"])
                    if name == "api"
                    else judges.safim_tests(record, before, after)
                ),
                truncate=_truncation(name, before, after),
            )
        )
    return cases


def _truncation(name: str, before: str, after: str) -> Callable[[str], str]:
    """Return SAFIM's own post-processing for a suite."""
    if name == "api":
        return judges.until_call_closes
    if name == "control":
        return judges.first_line
    return lambda text: judges.until_parsable(before, text, after)
