"""The mean of checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.errors import WeightsError
from models.training import average
from models.training.model import Model, ModelConfig, load_checkpoint, save_checkpoint

SMALL = ModelConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, vocab_size=40,
)  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for name, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        model = Model(SMALL)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        save_checkpoint(model, tmp_path / name, torch.float32)
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    return [tmp_path / "a", tmp_path / "b"]


def test_every_parameter_is_the_mean_and_the_tokenizer_comes_along(folders, tmp_path: Path):
    out = tmp_path / "mean"
    assert average.main([*map(str, folders), "--out", str(out)]) == 0
    one, other = (load_checkpoint(folder).state_dict() for folder in folders)
    for name, value in load_checkpoint(out).state_dict().items():
        expected = (one[name] + other[name]) / 2
        torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-2, msg=name)
    assert (out / "tokenizer.json").read_text() == "{}"


def test_one_checkpoint_is_its_own_mean(folders):
    before = load_checkpoint(folders[0]).state_dict()
    after = average.average([load_checkpoint(folders[0])]).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_shapes_and_unreadable_folders_are_named(folders, tmp_path: Path, capsys):
    with pytest.raises(WeightsError, match="nothing to average"):
        average.average([])
    save_checkpoint(Model(ModelConfig(num_hidden_layers=1, vocab_size=40)), tmp_path / "wide")
    (folders[1] / "model.safetensors").write_bytes(b"torn")
    for wrong in ("wide", "b", "missing"):
        out = tmp_path / f"mean-{wrong}"
        assert average.main([str(folders[0]), str(tmp_path / wrong), "--out", str(out)]) == 1
        assert "models.training.average: cannot" in capsys.readouterr().err
        assert not out.exists()


def test_no_checkpoint_is_written_over(folders, capsys):
    before = (folders[0] / "model.safetensors").read_bytes()
    assert average.main([*map(str, folders), "--out", str(folders[0])]) == 1
    assert "cannot write the mean over" in capsys.readouterr().err
    assert (folders[0] / "model.safetensors").read_bytes() == before


def test_shares_are_all_the_ways_to_divide_a_whole():
    assert list(average.divisions(1)) == [(1.0,)]
    assert list(average.divisions(2, 2)) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    of_three = list(average.divisions(3))
    assert len(of_three) == len(set(of_three)) == 15
    assert {sum(shares) for shares in of_three} == {1.0}


def test_the_mix_that_knows_the_cursors_best_is_written(tmp_path: Path, tokenizer, capsys):
    shape = replace(SMALL, vocab_size=700)
    torch.manual_seed(4)
    loud, fair = Model(shape), Model(shape)
    for wild, zero in zip(loud.parameters(), fair.parameters(), strict=True):
        torch.nn.init.normal_(wild, std=30)  # sure of wrong tokens, even as a quarter of a mix
        torch.nn.init.zeros_(zero)  # every token is as likely as any other
    save_checkpoint(loud, tmp_path / "loud", torch.float32)
    save_checkpoint(fair, tmp_path / "fair", torch.float32)
    tokenizer.save(str(tmp_path / "fair" / "tokenizer.json"))
    cursors = tmp_path / "cursors.jsonl"
    places = [
        {"prefix": "def f(x):\n    retu", "middle": "rn x + 1", "suffix": "\n"},
        {"prefix": "x = 0\nfor i in ", "middle": "range(3):", "suffix": "\n    print(i)\n"},
    ]
    cursors.write_text("".join(json.dumps(place) + "\n" for place in places))
    arguments = [str(tmp_path / "loud"), str(tmp_path / "fair"), "--cursors", str(cursors)]
    assert average.main([*arguments, "--out", str(tmp_path / "mix")]) == 0
    *probes, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert last == {"chosen": [0.0, 1.0]}
    assert [row["shares"][0] for row in probes] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert min(probes, key=lambda row: row["bits_per_char"]) == probes[0]
    mix = load_checkpoint(tmp_path / "mix").state_dict()
    assert not any(value.any() for value in mix.values())
    assert (tmp_path / "mix" / "tokenizer.json").exists()


def test_shares_cannot_be_chosen_without_a_tokenizer(folders, tmp_path: Path, capsys):
    (folders[1] / "tokenizer.json").unlink()
    cursors = tmp_path / "cursors.jsonl"
    cursors.write_text("")
    arguments = [*map(str, folders), "--cursors", str(cursors), "--out", str(tmp_path / "mix")]
    assert average.main(arguments) == 1
    assert "no tokenizer.json" in capsys.readouterr().err
