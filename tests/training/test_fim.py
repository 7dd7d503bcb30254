"""Samples must say the truth about the file they were cut from."""

import random
from itertools import chain

import numpy as np
import pytest

from models.training.data import pack, segments
from models.training.fim import FimConfig, Sampler, Special

S = Special()


def sampler(tokenizer, seed: int, **shares: float) -> Sampler:
    config = FimConfig(**{"rate": 1.0, "context": 0.0, "max_length": 400, **shares})
    return Sampler(lambda text: tokenizer.encode(text).ids, config, random.Random(seed))


def parts(ids: list[int]) -> dict[str, list[int]]:
    """Split a sample at its markers."""
    names = {S.suffix: "suffix", S.prefix: "prefix", S.middle: "middle", S.eom: "end"}
    found: dict[str, list[int]] = {}
    name = "context"
    for i in ids[1:]:
        if i in names:
            name = names[i]
            found[name] = []
        else:
            found.setdefault(name, []).append(i)
    return found


@pytest.mark.parametrize("joint", [1.0, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_prefix_middle_and_suffix_stand_in_the_file_in_this_order(
    documents, tokenizer, joint: float, seed: int
) -> None:
    count = 0
    for document in documents:
        for sample in sampler(tokenizer, seed, joint=joint).samples([document]):
            ids = sample.tolist()
            assert ids[0] == S.eot
            assert len(ids) <= 400
            if S.suffix not in ids or S.eom not in ids:
                continue
            found = {k: tokenizer.decode(v) for k, v in parts(ids).items()}
            whole = found["prefix"] + found.get("middle", "") + found["suffix"]
            # A window that overflows may begin inside a character.
            assert whole.lstrip("\ufffd") in document.text
            assert ("middle" in found) == (joint == 0.0)
            count += 1
    assert count > 10


def test_joint_samples_tokenise_prefix_and_middle_as_the_file_does(documents, tokenizer) -> None:
    for document in documents:
        for sample in sampler(tokenizer, 7, joint=1.0).samples([document]):
            ids = sample.tolist()
            if S.eom not in ids:
                continue
            prefix = parts(ids)["prefix"]
            last_line = max(
                (i for i, t in enumerate(prefix) if tokenizer.decode([t]).startswith("\n")),
                default=0,
            )
            whole = document.ids.tolist()
            head = prefix[:last_line]
            assert any(whole[i : i + len(head)] == head for i in range(len(whole)))


def test_plain_samples_cover_every_token_once(documents, tokenizer) -> None:
    for document in documents:
        plain = [
            s.tolist()[1:]
            for s in sampler(tokenizer, 1, rate=0.0, max_length=4096).samples([document])
        ]
        assert sum(map(len, plain)) >= len(document.ids) - 24
        assert list(chain.from_iterable(plain)) == document.ids.tolist()[: sum(map(len, plain))]


def test_context_comes_from_other_files_and_stays_within_its_share(documents, tokenizer) -> None:
    texts = {d.path: d.text for d in documents}
    seen = 0
    cut = sampler(tokenizer, 3, joint=1.0, context=1.0, context_tokens=300, max_length=900)
    for sample in cut.samples(documents):
        ids = sample.tolist()
        if S.file not in ids:
            continue
        context = ids[1 : ids.index(S.suffix)]
        assert len(context) <= 300
        path = tokenizer.decode(context[1:]).split("\n")[0]
        assert any(path.startswith(name) for name in texts)
        seen += 1
    assert seen > 5


def test_line_positions_agree_between_text_and_ids(documents, tokenizer) -> None:
    for document in documents:
        for line in range(len(document.breaks_text) + 1):
            character, position = document.line_starts(line)
            assert tokenizer.decode(document.ids[:position].tolist()) == document.text[:character]


def test_packing_keeps_every_sample_whole() -> None:
    rng = np.random.default_rng(0)
    samples = [np.full(rng.integers(1, 60), i % 60_000 + 8, np.uint16) for i in range(300)]
    rows = list(pack(iter(samples), 64, S.pad))
    assert all(len(row) == 64 for row in rows)
    joined = np.concatenate(rows)
    for i, sample in enumerate(samples):
        assert (joined == i + 8).sum() == len(sample)
    used = (joined != S.pad).mean()
    assert used > 0.9


def test_segments_hold_one_repository_each_and_lose_nothing(documents, rng) -> None:
    repositories = [documents[:3], documents[3:]]
    groups = segments(repositories, rng)
    assert sorted(d.path for g in groups for d in g) == sorted(d.path for d in documents)
    for group in groups:
        assert all(d in repositories[0] for d in group) or all(d in repositories[1] for d in group)
