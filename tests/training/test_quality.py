"""The quality annotator: head, AUC, choice and report."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from models.training import quality
from models.training.model import Model, ModelConfig, save_checkpoint
from models.training.shards import read_shards, write_shards


def test_sections_are_top_middle_and_bottom() -> None:
    text = "a" * 3000 + "b" * 3000 + "c" * 3000
    assert [set(part) for part in quality.sections(text)] == [{"a"}, {"b"}, {"c"}]
    assert quality.sections("short") == ("short", "short", "short")


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores = torch.tensor([3.0, 2.0, 2.0, 1.0])
    positive = torch.tensor([True, True, False, False])
    assert quality.auc(scores, positive) == pytest.approx(3.5 / 4)
    assert quality.auc(-scores, positive) == pytest.approx(0.5 / 4)


def test_head_finds_the_direction_that_separates() -> None:
    torch.manual_seed(0)
    positive = torch.arange(400) % 4 == 0
    features = torch.randn(400, 8)
    features[:, 3] += 4 * positive.float()
    scores = quality.fit(features, positive).score(features)
    assert quality.auc(scores, positive) > 0.98


def test_annotate_holds_whole_repositories_out() -> None:
    torch.manual_seed(1)
    documents = [{"repo": f"o/{i // 20}", "path": str(i), "text": "x"} for i in range(400)]
    good = [f"o/{i}" for i in range(8)]
    positive = torch.tensor([d["repo"] in good for d in documents])
    features = torch.randn(400, 16)
    # A direction that tells quality, and one of each repository that tells nothing of others.
    features[:, 0] += 3 * positive.float()
    scores, report = quality.annotate(documents, features, good, seed=0)
    assert len(scores) == 400
    assert report["auc_held_out"] > 0.9
    assert report["held_out_repositories"] == 2 + 3
    noise = torch.randn(400, 16)
    assert quality.annotate(documents, noise, good, seed=0)[1]["auc_held_out"] < 0.8


def test_too_few_repositories_are_named() -> None:
    documents = [
        {"repo": "o/a", "path": "p", "text": "x"},
        {"repo": "o/b", "path": "p", "text": "y"},
    ]
    with pytest.raises(quality.QualityError, match="1 positive and 1 other"):
        quality.annotate(documents, torch.zeros(2, 4), ["o/a"], 0)


def test_the_best_files_fill_the_budget_in_the_order_of_the_corpus() -> None:
    documents = [{"repo": "r", "path": str(i), "text": "x" * 10} for i in range(6)]
    scores = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7, 0.0])
    assert [d["path"] for d in quality.best(documents, scores, 30)] == ["1", "3", "4"]


def test_command_writes_shards_and_a_report_without_text(
    tmp_path: Path, sources: list[tuple[str, str]], tokenizer: Tokenizer
) -> None:
    corpus = tmp_path / "corpus"
    rows = [
        {"repo": f"o/{'good' if i % 2 else 'other'}{i % 4}", "path": name, "text": text}
        for i, (name, text) in enumerate(sources)
    ]
    write_shards(rows, corpus, 10_000_000)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    shape = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    save_checkpoint(Model(shape), tmp_path / "model")
    manifest = tmp_path / "sources.toml"
    manifest.write_text('[quality]\npositive = ["o/good1", "o/good3"]\n')
    quality.main(
        [
            "--data", str(corpus / "shard-000.jsonl.zst"), "--model", str(tmp_path / "model"),
            "--tokenizer", str(tmp_path / "tokenizer.json"), "--out", str(tmp_path / "best"),
            "--sources", str(manifest), "--megabytes", "1",
        ]
    )  # fmt: skip
    report = json.loads((tmp_path / "best" / "report.json").read_text())
    kept = list(read_shards([tmp_path / "best" / "shard-000.jsonl.zst"]))
    assert report["kept"]["files"] == len(kept) == len(rows)
    assert {"repo", "path", "score"} <= set(report["best"][0])
    assert not any("text" in row for row in report["best"] + report["worst"])
