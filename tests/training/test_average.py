"""The mean of checkpoints."""

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
