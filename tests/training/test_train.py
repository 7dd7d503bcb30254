"""A CPU smoke run of the trainer: it learns, resumes exactly, and starts from a checkpoint."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.run import get_args_parser

from models.errors import WeightsError
from models.training import train
from models.training.model import Model, ModelConfig, load_checkpoint, save_checkpoint
from models.training.muon import orthogonalise
from models.training.shards import write_shards


@pytest.fixture(scope="session")
def run_arguments(tmp_path_factory, sources, tokenizer) -> list[str]:
    folder = tmp_path_factory.mktemp("train")
    write_shards(
        [{"repo": "a/b", "path": name, "text": text} for name, text in sources], folder, 1 << 30
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return [
        "--data", str(folder / "shard-000.jsonl.zst"),
        "--tokenizer", str(folder / "tokenizer.json"),
        "--length", "96", "--batch-tokens", "768", "--micro-batch", "4", "--workers", "0",
        "--hidden-size", "64", "--intermediate-size", "128", "--num-hidden-layers", "2",
        "--num-attention-heads", "4", "--num-key-value-heads", "2", "--head-dim", "16",
        "--vocab-size", "700", "--warmup-steps", "5", "--no-compile",
    ]  # fmt: skip


def test_torchrun_leaves_every_option_alone():
    own = [
        option
        for action in train._parser()._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    ]
    given = [part for option in own for part in (option, "1")]
    command = ["--nproc-per-node", "2", "--no-python", "python", "-m", "models.training.train"]
    parsed = get_args_parser().parse_args([*command, *given])
    assert parsed.training_script_args == ["-m", "models.training.train", *given]


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_loss_falls_and_a_checkpoint_is_written(run_arguments, tmp_path: Path) -> None:
    trainer = train.main([*run_arguments, "--out", str(tmp_path), "--tokens", "60000"])
    steps = [row for row in rows(tmp_path) if "loss" in row]
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    loaded = load_checkpoint(tmp_path / "checkpoint")
    for (name, a), b in zip(loaded.named_parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2, msg=name)


def test_resume_continues_the_same_run(run_arguments, tmp_path: Path) -> None:
    first = train.main([*run_arguments, "--out", str(tmp_path / "a"), "--tokens", "3000"])
    again = train.main(
        [
            *run_arguments,
            "--out",
            str(tmp_path / "b"),
            "--resume",
            str(tmp_path / "a"),
            "--tokens",
            "3000",
        ]
    )
    # At its end already: one more step from identical weights, momenta and counters.
    assert again.step == first.step + 1
    state = again.muon.state[next(iter(again.muon.param_groups[0]["params"]))]
    assert state["momentum"].abs().sum() > 0


def digest(arguments: list[str]) -> str:
    tokenizer = Path(arguments[arguments.index("--tokenizer") + 1])
    return hashlib.sha256(tokenizer.read_bytes()).hexdigest()


def resume(arguments: list[str], trunk: Path, out: Path) -> None:
    train.main([*arguments, "--out", str(out), "--resume", str(trunk), "--tokens", "3000"])


def test_a_trunk_of_another_tokenizer_is_refused(run_arguments, tmp_path: Path) -> None:
    train.main([*run_arguments, "--out", str(tmp_path / "a"), "--tokens", "800"])
    other = tmp_path / "tokenizer.json"
    place = run_arguments.index("--tokenizer") + 1
    definition = json.loads(Path(run_arguments[place]).read_text())
    definition["model"]["merges"].pop()
    other.write_text(json.dumps(definition))
    arguments = [*run_arguments[:place], str(other), *run_arguments[place + 1 :]]
    with pytest.raises(WeightsError, match="another tokenizer"):
        resume(arguments, tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b" / "checkpoint").exists()


def test_a_trunk_of_another_shape_is_refused(run_arguments, tmp_path: Path) -> None:
    train.main([*run_arguments, "--out", str(tmp_path / "a"), "--tokens", "800"])
    with pytest.raises(WeightsError, match="'num_hidden_layers': 2"):
        resume([*run_arguments, "--num-hidden-layers", "1"], tmp_path / "a", tmp_path / "b")


def test_a_trunk_that_is_cut_or_missing_is_refused(run_arguments, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot resume from"):
        resume(run_arguments, tmp_path / "nowhere", tmp_path / "b")
    train.main([*run_arguments, "--out", str(tmp_path / "a"), "--tokens", "800"])
    trunk = tmp_path / "a" / "trunk.safetensors"
    trunk.write_bytes(trunk.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot resume from"):
        resume(run_arguments, tmp_path / "a", tmp_path / "b")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(
    run_arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_KEEP_EVERY_S", 0.0)  # whatever could be kept would be
    train.main([*run_arguments, "--out", str(tmp_path), "--tokens", "800"])
    files = [*(tmp_path / "checkpoint").iterdir(), tmp_path / "trunk.safetensors"]
    before = [path.read_bytes() for path in files]
    broken = [*run_arguments, "--out", str(tmp_path), "--lr-matrix", "nan", "--tokens"]
    with pytest.raises(train.DivergedError, match="diverged by step 8, loss nan"):
        train.main([*broken, "60000"])
    with pytest.raises(train.DivergedError, match=r"diverged by step 1, loss \d"):
        train.main([*broken, "768"])  # the weights are no numbers, the loss was one
    assert [path.read_bytes() for path in files] == before


def test_trunk_restores_weights_and_momenta_exactly(run_arguments, tmp_path: Path) -> None:
    first = train.main([*run_arguments, "--out", str(tmp_path), "--tokens", "3000"])
    fresh = train.Trainer(Model(first.model.config), first.config, first.ranks)
    fresh.load_trunk(tmp_path, digest(run_arguments))
    for name, parameter in first.named.items():
        torch.testing.assert_close(fresh.named[name], parameter, rtol=0, atol=0)
        for optimiser, other in ((first.muon, fresh.muon), (first.adam, fresh.adam)):
            for key, value in optimiser.state.get(parameter, {}).items():
                torch.testing.assert_close(
                    other.state[fresh.named[name]][key], value, rtol=0, atol=0
                )


def test_init_from_takes_a_hugging_face_checkpoint(run_arguments, tmp_path: Path) -> None:
    torch.manual_seed(3)
    shape = ModelConfig(
        vocab_size=700, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    save_checkpoint(Model(shape), tmp_path / "start", torch.float32)
    started = train.start_model(tmp_path / "start", ModelConfig())
    assert started.config.hidden_size == 64
    trainer = train.main(
        [
            *run_arguments,
            "--out",
            str(tmp_path / "run"),
            "--init-from",
            str(tmp_path / "start"),
            "--tokens",
            "800",
        ]
    )
    assert trainer.step == 2  # the rate warms up from zero again
    assert train.rate(trainer.config, 0, 0.0) == pytest.approx(1 / 5)


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ModelConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    save_checkpoint(Model(shape), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def torn(self: Path, text: str) -> None:
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", torn)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(Model(replace(shape, num_hidden_layers=2)), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert load_checkpoint(tmp_path).config == shape


def test_minutes_count_from_the_start_of_the_command(run_arguments, tmp_path: Path) -> None:
    """A machine is lent by the minute, whatever loading takes of them."""
    trainer = train.main([*run_arguments, "--out", str(tmp_path), "--minutes", "0.001"])
    assert trainer.step == 8  # the first look at the clock
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()


def test_a_run_keeps_checkpoints_while_it_goes_on(
    run_arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(train, "_KEEP_EVERY_S", 0.0)
    save = train.save_checkpoint

    def saved(model: Model, directory: Path) -> None:
        save(model, directory)
        kept.append(len(list(directory.glob("*.part"))))

    monkeypatch.setattr(train, "save_checkpoint", saved)
    trainer = train.main([*run_arguments, "--out", str(tmp_path), "--tokens", "8000"])
    assert trainer.step > 8
    assert len(kept) >= 2  # the last one is the end's
    assert not any(kept)


def test_rate_warms_up_holds_and_decays_to_two_per_cent() -> None:
    config = train.TrainConfig(tokens=1, warmup_steps=10, decay_from=0.5)
    assert train.rate(config, 0, 0.0) == pytest.approx(0.1)
    assert train.rate(config, 50, 0.4) == 1.0
    assert train.rate(config, 50, 0.75) == pytest.approx(0.5)
    assert train.rate(config, 50, 1.0) == pytest.approx(0.02)


def test_exactly_one_end_is_asked_for(run_arguments, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        train.main([*run_arguments, "--out", str(tmp_path)])
    assert "exactly one of --tokens and --minutes" in capsys.readouterr().err


def test_orthogonalised_update_has_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((64, 32), (32, 64), (48, 48)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape)).float())
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_checkpoint_gives_the_same_logits_in_transformers(tmp_path: Path) -> None:
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(1)
    model = Model(ModelConfig(700, 64, 128, 2, 4, 2, 16))
    for parameter in model.parameters():  # zero-initialised projections would hide errors
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    save_checkpoint(model, tmp_path, torch.float32)
    reference = Qwen3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(16, 700, (2, 40))
    with torch.no_grad():
        ours = model.hidden(ids) @ model.embed_tokens.weight.T
        torch.testing.assert_close(ours, reference(ids).logits, rtol=1e-4, atol=1e-4)
