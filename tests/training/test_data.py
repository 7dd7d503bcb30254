"""Reading a corpus in parts."""

from collections import Counter
from pathlib import Path

import pytest
import zstandard
from tokenizers import Tokenizer

from models.training import data
from models.training.data import FimDataset, load_documents
from models.training.fim import FimConfig
from models.training.shards import ShardError, read_shards, write_shards


@pytest.mark.parametrize("shard_bytes", [1500, 6000, 10_000_000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_document_is_read_by_one_reader(
    tmp_path: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    shard_bytes: int,
    parts: int,
) -> None:
    """With more shards than readers, with fewer, and with one."""
    monkeypatch.setattr(data, "_BLOCK_BYTES", 500)
    rows = [
        {"repo": f"o/{i // 5}", "path": f"{i}.py", "text": f"def f{i}():\n    return {i}\n" * 8}
        for i in range(60)
    ]
    write_shards(rows, tmp_path, shard_bytes)
    paths = sorted(tmp_path.glob("*.zst"))
    seen: Counter[str] = Counter()
    shares = []
    for part in range(parts):
        shards = load_documents(paths, tokenizer, part, parts)
        documents = [d for shard in shards for repository in shard for d in repository]
        seen.update(d.path for d in documents)
        shares.append(len(documents))
    assert seen == Counter(f"{i}.py" for i in range(60))
    assert max(shares) <= 2 * 60 / parts + 2


def rows_of(paths: list[Path], tokenizer: Tokenizer, count: int, **more: int) -> list[list[int]]:
    dataset = FimDataset(paths, tokenizer, FimConfig(max_length=129), 128, **more)
    stream = iter(dataset)
    return [next(stream).tolist() for _ in range(count)]


def test_rows_do_not_end_with_the_epoch_and_come_back_alike(
    tmp_path: Path, sources: list[tuple[str, str]], tokenizer: Tokenizer
) -> None:
    rows = [{"repo": f"o/{n}", "path": n, "text": text} for n, text in sources]
    write_shards(rows, tmp_path, 20_000)
    paths = sorted(tmp_path.glob("*.zst"))
    assert len(paths) > 2
    first = rows_of(paths, tokenizer, 3000, seed=4)  # several epochs
    assert first == rows_of(paths, tokenizer, 3000, seed=4)
    assert first[:50] != rows_of(paths, tokenizer, 50, seed=5)


def test_a_corpus_without_documents_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_shards([{"repo": "o/n", "path": "a.py", "text": "a = 1\n"}], tmp_path)
    (path,) = tmp_path.glob("*.zst")
    path.write_bytes(zstandard.compress(b""))
    with pytest.raises(ValueError, match="the corpus has no documents"):
        rows_of([path], tokenizer, 1)


@pytest.mark.parametrize("left", [0, 4, 40, 0.5, -3])
def test_a_shard_that_was_cut_is_named(
    tmp_path: Path, sources: list[tuple[str, str]], tokenizer: Tokenizer, left: float
) -> None:
    write_shards([{"repo": "o/n", "path": n, "text": text} for n, text in sources], tmp_path)
    (path,) = tmp_path.glob("*.zst")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * left) if left == 0.5 else int(left)])
    with pytest.raises(ShardError, match=r"shard-000.jsonl.zst is cut short"):
        list(read_shards([path]))
    with pytest.raises(ShardError, match="cut short"):
        rows_of([path], tokenizer, 3000)


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shard-000.jsonl.zst"
    path.write_text('{"repo": "o/n", "path": "a.py", "text": "a = 1"}\n')
    with pytest.raises(ShardError, match="is damaged"):
        list(read_shards([path]))


def test_a_last_line_without_its_break_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shard-000.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"path": "a.py"}\n{"path": "b.py"}'))
    assert [row["path"] for row in read_shards([path])] == ["a.py", "b.py"]
