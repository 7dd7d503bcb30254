"""Learning from a teacher: what the loss is, and that a run learns by it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.errors import WeightsError
from models.training import train
from models.training.distil import Distilled
from models.training.model import IGNORE, Model, ModelConfig, save_checkpoint
from tests.training.test_train import run_arguments  # noqa: F401  # a fixture

SMALL = ModelConfig(
    vocab_size=700, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16,
)  # fmt: skip


def model(seed: int, shape: ModelConfig = SMALL) -> Model:
    torch.manual_seed(seed)
    made = Model(shape)
    for parameter in made.parameters():  # no projection of zeros, so that nothing is alike
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    ids = torch.randint(8, 700, (3, 24))
    targets = torch.randint(8, 700, (3, 24))
    targets[0, 10:] = IGNORE
    return ids, targets


def test_half_is_the_text_and_half_the_teacher(rows) -> None:
    ids, targets = rows
    student, teacher = model(1), model(2)
    logs = torch.log_softmax(student.hidden(ids) @ student.embed_tokens.weight.T, -1)
    known = torch.softmax(teacher.hidden(ids) @ teacher.embed_tokens.weight.T, -1)
    taught = -(known * logs).sum(-1)[targets != IGNORE].mean()
    expected = (taught + student(ids, targets)) / 2
    torch.testing.assert_close(Distilled(student, teacher)(ids, targets), expected)


def test_only_the_student_learns(rows) -> None:
    student, teacher = model(1), model(2)
    Distilled(student, teacher)(*rows).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_padding_takes_no_part(rows) -> None:
    ids, targets = rows
    loss = Distilled(model(1), model(2))
    before = loss(ids, targets)
    ids[0, 11:] = 7
    torch.testing.assert_close(loss(ids, targets), before)


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(WeightsError, match="the teacher has 800 tokens, the model 700"):
        Distilled(model(1), model(2, replace(SMALL, vocab_size=800)))


def test_a_run_learns_from_a_teacher_of_another_shape(
    run_arguments,  # noqa: F811
    tmp_path: Path,
) -> None:
    save_checkpoint(model(3, replace(SMALL, num_hidden_layers=1)), tmp_path / "teacher")
    arguments = [*run_arguments, "--tokens", "800", "--out", str(tmp_path / "run")]
    trainer = train.main([*arguments, "--teacher", str(tmp_path / "teacher")])
    assert len(trainer.model.layers) == 2
    assert not any("teacher" in name for name in trainer.named)
    first, *_ = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(first)["teacher"] == str(tmp_path / "teacher")


def test_a_teacher_of_another_tokenizer_is_refused(run_arguments, tmp_path: Path) -> None:  # noqa: F811
    save_checkpoint(model(3), tmp_path / "teacher")
    (tmp_path / "teacher" / "tokenizer.json").write_text("{}")
    arguments = [*run_arguments, "--tokens", "800", "--out", str(tmp_path / "run")]
    with pytest.raises(WeightsError, match="teacher was trained with another tokenizer"):
        train.main([*arguments, "--teacher", str(tmp_path / "teacher")])
