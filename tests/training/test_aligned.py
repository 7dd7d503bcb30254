"""Samples as the server prompts: layout, budget, bad input."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.training.aligned import aligned_ids, drop_imports, load_aligned, sample_ids
from models.training.data import FimDataset
from models.training.fim import FimConfig, Special
from models.training.shards import write_shards

SPECIAL = Special()
SAMPLE = {
    "path": "a.py",
    "prefix": "import os\n\n\ndef size(path):\n    return os.",
    "suffix": "\n\n\ndef other():\n    pass\n",
    "middle": "stat(path).st_size",
    "chunks": [
        {"path": "far.py", "text": "def far():\n    return 1\n"},
        {"path": "near.py", "text": "def near():\n    return 2\n"},
    ],
}


def drawn(tokenizer: Tokenizer, config: FimConfig, count: int = 60) -> list[list[int]]:
    rng = random.Random(3)
    return [sample_ids(SAMPLE, tokenizer, config, rng).tolist() for _ in range(count)]


def test_layout_is_the_server_s(tokenizer: Tokenizer) -> None:
    rows = drawn(tokenizer, FimConfig(joint=0.5))
    for row in rows:
        assert row[0] == SPECIAL.eot
        assert row[-1] == SPECIAL.eom
        suffix, prefix = row.index(SPECIAL.suffix), row.index(SPECIAL.prefix)
        assert suffix < prefix
        if SPECIAL.middle in row:
            middle = row[row.index(SPECIAL.middle) + 1 : -1]
            assert tokenizer.decode(middle) == SAMPLE["middle"]
        else:
            assert tokenizer.decode(row[prefix + 1 : -1]).endswith("os." + SAMPLE["middle"])
    assert {SPECIAL.middle in row for row in rows} == {True, False}
    assert {SPECIAL.file in row for row in rows} == {True, False}


def test_the_best_chunk_stands_last_and_stays_when_room_is_short(tokenizer: Tokenizer) -> None:
    whole = next(row for row in drawn(tokenizer, FimConfig()) if SPECIAL.file in row)
    context = tokenizer.decode(whole[: whole.index(SPECIAL.suffix)])
    assert context.index("far.py") < context.index("near.py")
    one = len(tokenizer.encode("near.py\ndef near():\n    return 2").ids) + 1
    short = next(
        row for row in drawn(tokenizer, FimConfig(context_tokens=one)) if SPECIAL.file in row
    )
    context = tokenizer.decode(short[: short.index(SPECIAL.suffix)])
    assert "near.py" in context
    assert "far.py" not in context


def test_no_row_is_longer_than_the_model_and_the_middle_survives(tokenizer: Tokenizer) -> None:
    long = SAMPLE | {"prefix": "x = 1\n" * 5000 + "return os.", "suffix": "\ny = 2" * 5000}
    rng = random.Random(0)
    for _ in range(20):
        row = sample_ids(long, tokenizer, FimConfig(max_length=600), rng).tolist()
        assert len(row) <= 600
        assert row[-1] == SPECIAL.eom


def test_dropping_imports_leaves_the_code(rng: random.Random) -> None:
    prefix = "".join(f"import m{i}\n" for i in range(200)) + "from a import (\n    b,\n)\nx = 1"
    left = drop_imports(prefix, rng)
    assert 60 < left.count("import m") < 140
    assert left.endswith("from a import (\n    b,\n)\nx = 1")


def test_epochs_give_every_sample_once(tokenizer: Tokenizer, rng: random.Random) -> None:
    samples = [SAMPLE | {"middle": f"value_{i}"} for i in range(7)]
    stream = aligned_ids(samples, tokenizer, FimConfig(), rng)
    for _ in range(2):
        epoch = [tokenizer.decode(next(stream).tolist()) for _ in samples]
        assert all(sum(f"value_{i}" in text for text in epoch) == 1 for i in range(7))


def test_readers_share_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(SAMPLE | {"path": str(i)}) + "\n" for i in range(5)))
    parts = [load_aligned([path], part, 2) for part in range(2)]
    assert [[s["path"] for s in part] for part in parts] == [["0", "2", "4"], ["1", "3"]]


@pytest.mark.parametrize("line", ["{", '{"prefix": ""}', "3", '{"prefix'])
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(SAMPLE) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"s\.jsonl, line 2: not a sample"):
        load_aligned([path])


def test_fewer_samples_than_readers_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(SAMPLE) + "\n")
    with pytest.raises(ValueError, match="part 1 of 2"):
        load_aligned([path], 1, 2)


def test_the_data_set_mixes_them_in(
    tmp_path: Path, sources: list[tuple[str, str]], tokenizer: Tokenizer
) -> None:
    rows = [{"repo": "o/n", "path": name, "text": text} for name, text in sources]
    write_shards(rows, tmp_path, 10_000_000)
    aligned = tmp_path / "s.jsonl"
    aligned.write_text(json.dumps(SAMPLE) + "\n")
    dataset = FimDataset(
        [tmp_path / "shard-000.jsonl.zst"], tokenizer, FimConfig(context=0.0, max_length=257), 256,
        aligned=[aligned], aligned_share=0.5,
    )  # fmt: skip
    stream = iter(dataset)
    found = np.array([SPECIAL.file in next(stream) for _ in range(120)])
    assert 0.15 < found.mean() < 0.5
