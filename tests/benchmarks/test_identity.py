"""Drafts change nothing: the short form of `benchmarks.identity`, and that it would notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import identity
from benchmarks.identity import Pair, pairs, summarise
from benchmarks.lines import line_cases
from completion.types import WindowPolicy
from models.backend import GenerateRequest, GenerateResult, StopReason
from models.local import LocalBackend
from models.registry import find

SOURCES = Path(identity.__file__).parent
SHORT = WindowPolicy(fresh_prefix_tokens=96, fresh_suffix_tokens=32)


@pytest.mark.parametrize("lines", [1, 4])
def test_what_ships_writes_the_same_with_and_without_drafts(lines: int) -> None:
    backend = LocalBackend.load(find(None), threads=1)
    found = list(pairs(backend, line_cases(SOURCES, 8 // lines, 1), lines=lines, window=SHORT))
    result = summarise(found)
    assert result["n"] > 8 // lines
    assert result["identical_share"] == 1.0
    assert result["largest_difference"] == 0.0
    assert 0 < result["accepted_tokens"] < result["drafted_tokens"], "some were right, some wrong"
    assert backend.kv_bytes == 0


def test_a_draft_that_is_believed_unverified_is_found(
    tiny_backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = tiny_backend.generate

    def credulous(asked: GenerateRequest) -> GenerateResult:
        result = generate(asked)
        return replace(result, token_ids=(*result.token_ids, 40)) if asked.drafts else result

    monkeypatch.setattr(tiny_backend, "generate", credulous)
    cases = line_cases(SOURCES, 1, 0)
    found = list(pairs(tiny_backend, cases, lines=1, window=SHORT))
    assert summarise(found)["identical_share"] == 0.0


def completed(ids: tuple[int, ...], logprobs: tuple[float, ...]) -> GenerateResult:
    return GenerateResult(
        text=" ".join(map(str, ids)),
        token_ids=ids,
        logprobs=logprobs,
        stop=StopReason.NEWLINE,
        prompt_tokens=9,
        reused_tokens=0,
        prefill_ms=1.0,
        decode_ms=1.0,
    )


def test_the_summary_tells_ties_from_errors() -> None:
    plain = completed((1, 2, 3), (-0.1, -0.5, -0.2, -0.1))
    same = Pair(plain, replace(plain, drafted_tokens=4, accepted_tokens=2))
    tie = Pair(plain, completed((1, 9, 3), (-0.1, -0.52, -0.9, -0.1)))
    wrong = Pair(plain, completed((1, 2, 9), (-0.1, -0.5, -4.0, -0.1)))
    shorter = Pair(plain, completed((1, 2), (-0.13, -0.5, -0.25)))
    assert [pair.near_tie for pair in (tie, wrong, shorter)] == [True, False, True]
    assert summarise([same, tie, wrong, shorter]) == {
        "n": 4,
        "identical_share": 0.25,
        "near_ties": 2,
        "largest_difference": pytest.approx(0.03),
        "drafted_tokens": 4,
        "accepted_tokens": 2,
    }


def test_without_sources_it_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert identity.main(["--folder", str(tmp_path / "none"), "--json"]) == 0
    assert "is not a folder" in json.loads(capsys.readouterr().out)["skipped"]
