"""Train SnowCoder.

    python -m models.training.train --data SHARDS --tokenizer tokenizer.json --out RUN \
        (--tokens N | --minutes M) [--init-from CHECKPOINT | --resume RUN]
    torchrun --nproc-per-node 2 --no-python python -m models.training.train …

Muon for the weight matrices, AdamW for embeddings and norms; linear warm-up, constant,
linear decay to 2 %. `--init-from` takes a Hugging Face checkpoint or the shipped quantized
weights (dequantised) and warms up again; `--resume` goes on with a run's own trunk,
optimiser state included; `--aligned` mixes in samples as the server prompts,
`--pivot-share` adds the contrastive term of comment pivots, `--teacher` the distribution of a
larger model of ours. Writes to RUN:
`checkpoint/` (Hugging Face; every two minutes as well), `trunk.safetensors` and `log.jsonl`. A run
whose loss is no number any more stops, and leaves the checkpoint before.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from models.errors import WeightsError
from models.registry import FileEntry, load_manifest
from models.training.cursors import read_cursors
from models.training.data import FimDataset, batches
from models.training.distil import Distilled
from models.training.fim import FimConfig
from models.training.model import (
    IGNORE,
    Model,
    ModelConfig,
    load_checkpoint,
    save_checkpoint,
    save_whole,
)
from models.training.muon import Muon
from models.training.pivots import (
    MOST_SHARE,
    ROW_IDS,
    PairDataset,
    contrast,
    due,
    pair_batches,
)
from models.training.probe import Probe
from models.training.shards import ShardError

_KEEP_EVERY_S = 120.0
"""Between checkpoints while training: a machine that is taken away costs no more than this."""
_SYNC_EVERY = 8
"""Steps between looks at the clock: ranks must agree on the schedule."""
_TRUNK = "trunk.safetensors"
_STATE = "state"
"""Metadata of the trunk's file that tells where the run was; one file, so both are of one step."""


class DivergedError(Exception):
    """Loss or weights are infinite or no numbers; nothing of the run was saved since."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run. Exactly one of `tokens` and `minutes` ends it.

    Attributes:
        minutes: from the start of the command, loading and compilation included: who lends
            the machine does not wait for them either.
        batch_tokens: tokens per optimiser step over all ranks.
        micro_batch: rows per forward pass and rank.
        warmup_steps: linear from 0.
        decay_from: share of the run after which the rate falls linearly to 2 %.
        pivot_share: of the forward passes, those that also have the contrastive term of
            `models.training.pivots`.
        lr_matrix, lr_other: peak rates of Muon and AdamW.
    """

    tokens: int | None = None
    minutes: float | None = None
    batch_tokens: int = 262_144
    micro_batch: int = 32
    length: int = 2048
    warmup_steps: int = 100
    decay_from: float = 0.5
    lr_matrix: float = 0.02
    lr_other: float = 0.003
    weight_decay: float = 0.05
    pivot_share: float = 0.0
    workers: int = 4
    seed: int = 0
    compile: bool = True


def rate(config: TrainConfig, step: int, progress: float) -> float:
    """Multiplier of the peak learning rate, 0..1."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if progress <= config.decay_from:
        return warm
    return warm * max(0.02, (1 - progress) / (1 - config.decay_from))


@dataclass(slots=True)
class Ranks:
    """This process among the others."""

    rank: int
    world: int
    device: str

    @classmethod
    def from_environment(cls) -> Ranks:
        """Join the process group that torchrun describes, if any."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        cuda = torch.cuda.is_available()
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(device)
        if world > 1:
            dist.init_process_group("nccl" if cuda else "gloo")
        return cls(rank, world, device)

    def average(self, model: Model) -> None:
        """Mean of the gradients over all ranks, in place."""
        if self.world == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        jobs = [dist.all_reduce(g, async_op=True) for g in gradients]
        for job in jobs:
            if job is not None:
                job.wait()
        torch._foreach_div_(gradients, self.world)

    def agree(self, value: float) -> float:
        """Rank 0's value."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], device=self.device, dtype=torch.float64)
        dist.broadcast(tensor, 0)
        return float(tensor.item())


class Trainer:
    """Model, optimisers and the position in the run."""

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        ranks: Ranks,
        started: float | None = None,
        teacher: Model | None = None,
    ) -> None:
        """What is trained, and how.

        Args:
            model: learns, in place.
            config: of the run.
            ranks: this process among the others.
            started: `time.perf_counter()` when the command began; now for None.
            teacher: whose distribution is learnt as well, see `models.training.distil`.
        """
        self.started = time.perf_counter() if started is None else started
        self.model, self.config, self.ranks = model.to(ranks.device), config, ranks
        matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}
        others = {n: p for n, p in model.named_parameters() if n not in matrices}
        self.named = matrices | others
        self.muon = Muon(matrices.values(), config.lr_matrix, weight_decay=config.weight_decay)
        self.adam = torch.optim.AdamW(
            others.values(), config.lr_other, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.step = 0
        self.tokens = 0
        loss = model if teacher is None else Distilled(model, teacher)
        self._forward: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(loss) if config.compile else loss
        )

    def run(
        self,
        dataset: FimDataset,
        log: Callable[[dict[str, Any]], None],
        keep: Callable[[], None] = lambda: None,
        pairs: Iterator[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Train to the end of the schedule; `keep` is called now and then on rank 0.

        `pairs` are batches of `models.training.pivots`, for the config's `pivot_share`.

        Raises:
            DivergedError: loss or weights are no numbers; seen within a few steps, before `keep`
                is called.
        """
        config, ranks = self.config, self.ranks
        source = batches(dataset, config.micro_batch, config.workers)
        per_pass = config.micro_batch * config.length * ranks.world
        passes = max(1, config.batch_tokens // per_pass)
        kind = ranks.device.split(":")[0]
        self._warm_up(kind)
        began: float | None = None
        hinge: Tensor | None = None
        first_tokens, progress, kept = self.tokens, 0.0, time.perf_counter()
        while progress < 1:
            total = torch.zeros((), device=ranks.device)
            for number in range(self.step * passes, (self.step + 1) * passes):
                ids, targets = (t.to(ranks.device, non_blocking=True) for t in next(source))
                with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                    loss = self._forward(ids, targets)
                (loss / passes).backward()  # type: ignore[no-untyped-call]
                total += loss.detach() / passes
                if pairs is not None and due(number, config.pivot_share):
                    hinge = self._contrast(next(pairs), kind, passes)
            ranks.average(self.model)
            factor = rate(config, self.step, progress)
            for optimiser, peak in ((self.muon, config.lr_matrix), (self.adam, config.lr_other)):
                optimiser.param_groups[0]["lr"] = peak * factor
                optimiser.step()
            self.model.zero_grad(set_to_none=True)
            self.step += 1
            self.tokens += passes * per_pass
            if began is None:
                # The schedule starts behind compilation and the first batch.
                ranks.agree(float(total))
                began, first_tokens = time.perf_counter(), self.tokens
                log({"step": self.step, "tokens": self.tokens, "loss": round(float(total), 4)})
            if config.tokens is not None:
                progress = self.tokens / config.tokens
            if self.step % _SYNC_EVERY == 0 or progress >= 1:
                if not (math.isfinite(float(total)) and self._is_finite()):
                    raise DivergedError(f"diverged by step {self.step}, loss {float(total)}")
                elapsed = ranks.agree(time.perf_counter() - began)
                if config.minutes is not None:
                    left = ranks.agree(self.started + 60 * config.minutes - began)
                    progress = elapsed / left if left > 0 else 1.0
                if ranks.rank == 0 and time.perf_counter() - kept > _KEEP_EVERY_S:
                    keep()
                    kept = time.perf_counter()
                if self.step % (5 * _SYNC_EVERY) == 0 or progress >= 1:
                    speed = (self.tokens - first_tokens) / max(elapsed, 1e-9)
                    log(
                        {
                            "step": self.step, "tokens": self.tokens,
                            "loss": round(float(total), 4),
                            "rate": round(factor, 4), "progress": round(progress, 4),
                            "tokens_per_s": round(speed),
                            **({} if hinge is None else {"hinge": round(float(hinge), 4)}),
                        }
                    )  # fmt: skip

    def _contrast(self, batch: tuple[Tensor, Tensor], kind: str, passes: int) -> Tensor:
        """Add the gradient of a batch of pairs; returns the hinge.

        Code behind comments counts by its tokens, as any text does: in a mean over a few hundred
        of them, beside one over many thousands, a token would count a hundred times as much.
        """
        ids, targets = (t.to(self.ranks.device, non_blocking=True) for t in batch)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss, hinge = contrast(self.model.row_losses(ids, targets))
        positive = (targets[0::2] != IGNORE).sum() / (self.config.micro_batch * self.config.length)
        (loss * positive / passes).backward()  # type: ignore[no-untyped-call]
        return hinge.detach()

    def _is_finite(self) -> bool:
        """Whether all weights are numbers; the same on all ranks, unlike the loss."""
        norms = torch._foreach_norm(list(self.named.values()))
        return bool(torch.stack(norms).isfinite().all())

    def _warm_up(self, kind: str) -> None:
        """Compile on random ids while the workers still read the corpus."""
        shape = self.config.micro_batch, self.config.length
        ids = torch.randint(self.model.config.vocab_size, shape, device=self.ranks.device)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss = self._forward(ids, ids)
        loss.backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)

    def save_trunk(self, out: Path, tokenizer: str) -> None:
        """Everything that `load_trunk` needs, in one file; safetensors, nothing pickled.

        Args:
            out: folder of the run.
            tokenizer: SHA-256 of the tokenizer that the run's ids are of.
        """
        tensors = {f"model.{n}": p.detach().cpu() for n, p in self.named.items()}
        for optimiser in (self.muon, self.adam):
            for name, parameter in self.named.items():
                for key, value in optimiser.state.get(parameter, {}).items():
                    tensors[f"{key}.{name}"] = value.detach().cpu().clone()
        state = {
            "step": self.step, "tokens": self.tokens, "tokenizer": tokenizer,
            "model": asdict(self.model.config),
        }  # fmt: skip
        save_whole(tensors, out / _TRUNK, **{_STATE: json.dumps(state)})

    def load_trunk(self, run: Path, tokenizer: str) -> None:
        """Go on where `save_trunk` stopped: same weights, momenta, step and tokens.

        Raises:
            WeightsError: there is no whole trunk, or it is of another shape or tokenizer.
        """
        try:
            with safe_open(run / _TRUNK, "pt") as trunk:
                state = json.loads(trunk.metadata()[_STATE])
                tensors = {name: trunk.get_tensor(name) for name in trunk.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError) as error:
            raise WeightsError(f"cannot resume from {run}: {error}") from error
        if state["model"] != asdict(self.model.config):
            raise WeightsError(f"cannot resume from {run}: its model is {state['model']}")
        if state["tokenizer"] != tokenizer:
            raise WeightsError(f"cannot resume from {run}: it was trained with another tokenizer")
        self.step, self.tokens = state["step"], state["tokens"]
        for name, parameter in self.named.items():
            parameter.data.copy_(tensors[f"model.{name}"])
            optimiser = self.adam if f"exp_avg.{name}" in tensors else self.muon
            keys = ("exp_avg", "exp_avg_sq", "step") if optimiser is self.adam else ("momentum",)
            optimiser.state[parameter] = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else parameter.device)
                for key in keys
            }


def start_model(directory: Path | None, shape: ModelConfig) -> Model:
    """A fresh model, or one from a Hugging Face checkpoint or shipped quantized weights.

    Raises:
        WeightsError: they cannot be read.
    """
    if directory is None:
        return Model(shape)
    if (directory / "manifest.json").exists():
        from models.export.quantize import dequantize  # export needs onnx; training does not

        model = Model(replace(shape, **_shape(load_manifest(directory).architecture)))
        state = {
            n.removeprefix("model."): torch.from_numpy(a) for n, a in dequantize(directory).items()
        }
        state.pop("lm_head.weight", None)
        model.load_state_dict(state)
        return model
    return load_checkpoint(directory)


def _shape(raw: dict[str, Any]) -> dict[str, Any]:
    return {k: raw[k] for k in ModelConfig.__dataclass_fields__ if k in raw}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.training.train")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="corpus shards")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    # No option may be the beginning of one of torchrun's, which would take it for its own.
    parser.add_argument("--init-from", type=Path, help="checkpoint or shipped weights")
    parser.add_argument("--resume", type=Path, help="run whose trunk to go on with")
    parser.add_argument("--teacher", type=Path, help="checkpoint or weights to learn from as well")
    parser.add_argument("--cursors", type=Path, help="held-out cursors, probed at the end")
    parser.add_argument(
        "--aligned", type=Path, nargs="+", default=[], help="samples as the server prompts"
    )
    parser.add_argument(
        "--aligned-share", type=float, default=0.3, help="such rows for each row of the corpus"
    )
    parser.add_argument("--joint", type=float, default=FimConfig().joint)
    for name, field in TrainConfig.__dataclass_fields__.items():
        if name != "compile":
            kind = {"int": int, "float": float}[str(field.type).split(" ")[0]]
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    for name, field in ModelConfig.__dataclass_fields__.items():
        if name.startswith(("hidden", "intermediate", "num", "head", "vocab")):
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=field.default)
    return parser


def main(arguments: list[str] | None = None) -> Trainer:
    """Command line; returns the trainer for tests."""
    started = time.perf_counter()
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.tokens is None) == (options.minutes is None):
        parser.error("give exactly one of --tokens and --minutes")
    if not 0 <= options.pivot_share <= MOST_SHARE:
        parser.error(f"--pivot-share is not between 0 and {MOST_SHARE}")
    values = vars(options)
    config = TrainConfig(**{k: values[k] for k in TrainConfig.__dataclass_fields__})
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    ranks = Ranks.from_environment()
    options.out.mkdir(parents=True, exist_ok=True)
    log_path = options.out / "log.jsonl"

    def log(row: dict[str, Any]) -> None:
        if ranks.rank == 0:
            print(json.dumps(row), flush=True)
            with log_path.open("a") as out:
                out.write(json.dumps(row) + "\n")

    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer_hash = FileEntry.of(options.tokenizer).sha256
    shape = ModelConfig(**_shape(values))
    for directory in filter(None, (options.init_from, options.teacher)):
        own = directory / "tokenizer.json"
        if own.exists() and FileEntry.of(own).sha256 != tokenizer_hash:
            raise WeightsError(f"{directory} was trained with another tokenizer")
    trainer = Trainer(
        start_model(options.init_from, shape), config, ranks, started,
        start_model(options.teacher, shape) if options.teacher else None,
    )  # fmt: skip
    if options.resume:
        trainer.load_trunk(options.resume, tokenizer_hash)
    log(
        {
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "joint": options.joint, "aligned": options.aligned_share if options.aligned else 0.0,
            "init_from": str(options.init_from), "teacher": str(options.teacher),
            "data": [str(path) for path in options.data],
            "world": ranks.world, "device": ranks.device, **asdict(config),
        }
    )  # fmt: skip
    dataset = FimDataset(
        options.data, tokenizer, FimConfig(joint=options.joint, max_length=config.length + 1),
        config.length, seed=config.seed, rank=ranks.rank, world=ranks.world,
        aligned=options.aligned, aligned_share=options.aligned_share,
    )  # fmt: skip
    pairs = None
    if config.pivot_share:
        found = PairDataset(
            options.data, tokenizer, min(config.length, ROW_IDS),
            seed=config.seed, rank=ranks.rank, world=ranks.world,
        )  # fmt: skip
        pairs = pair_batches(found, max(1, config.micro_batch // 4), min(1, config.workers))
    trainer.run(
        dataset, log, lambda: save_checkpoint(trainer.model, options.out / "checkpoint"), pairs
    )
    if ranks.rank == 0:
        save_checkpoint(trainer.model, options.out / "checkpoint")
        trainer.save_trunk(options.out, tokenizer_hash)
        if options.cursors:
            probe = Probe(tokenizer, read_cursors(options.cursors))
            log({"probe": probe.run(trainer.model, ranks.device)})
    if ranks.world > 1:
        dist.barrier()
        dist.destroy_process_group()
    return trainer


if __name__ == "__main__":
    try:
        main()
    except (DivergedError, ShardError, WeightsError) as error:
        raise SystemExit(f"models.training.train: {error}") from error
