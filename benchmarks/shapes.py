"""Speed and memory at published shapes, with random weights, beside llama.cpp.

Usage: python -m benchmarks.shapes SHAPE [--bits 4 8] [--threads 2] [--peer] [--json]

No checkpoint is needed: time and memory depend on the shape alone. Weights are made one matrix
at a time and packed in both engines' formats: ours as `snowcoder models import` does it,
llama.cpp's as Q4_0 or Q8_0 blocks with a Q8_0 head, as many bits as ours. Both engines run the
same token ids in turns, llama.cpp with its weights as they are and repacked for this processor;
ratios are to the faster of the two. `logits_error` compares with PyTorch in float32 on the same
weights, for 64 random ids: the distance of all logits, divided by the length of PyTorch's. Needs
the `bench` extra, 4 GB of memory and, for 1.3 B, 5 GB of disk; the machine should have nothing
else to do. Files are kept in `--folder`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import OurSequence, TokenSequence
from benchmarks.harness import report
from models.export.decoder import Decoder, read_decoder, source_shapes
from models.export.gguf import write_decoder
from models.export.graph import write_graph
from models.export.packing import Precision
from models.export.quantize import Float32
from models.registry import Manifest
from models.session import ModelSession

CONFIGS: dict[str, dict[str, Any]] = {
    "arctic-snowcoder-1.3b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
        "vocab_size": 64_000,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
    },
    "qwen2.5-coder-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    },
    "starcoder2-3b": {
        "model_type": "starcoder2",
        "hidden_size": 3072,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "intermediate_size": 12_288,
        "vocab_size": 49_152,
        "max_position_embeddings": 16_384,
        "sliding_window": 4096,
        "norm_epsilon": 1e-5,
        "rope_theta": 999_999.4420358813,
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": True,
        "tie_word_embeddings": True,
    },
}
_CONTEXT = 2048
_PREFILL = 512
_COMPARED = 64
_STEPS = 24
_ROUNDS = 3
_PEERS = {"llama.cpp": False, "llama.cpp_repacked": True}
_PAUSE_S = 0.5
"""After a turn: threads that spin would slow down the other engine."""


class RandomParameters(Mapping[str, Float32]):
    """Weights of a checkpoint that nobody trained, each made when asked for."""

    def __init__(self, shape: Decoder) -> None:
        self._shapes = source_shapes(shape)

    def __len__(self) -> int:
        return len(self._shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __getitem__(self, name: str) -> Float32:
        dims = self._shapes[name]
        if len(dims) == 1:
            return np.full(dims, 0.0 if name.endswith("bias") else 1.0, np.float32)
        generator = np.random.default_rng(sum(name.encode()))
        return generator.standard_normal(dims, np.float32) * np.float32(0.02)


def decoder(name: str) -> Decoder:
    """The shape `name`, with the context that is measured."""
    return replace(read_decoder(CONFIGS[name]), max_position_embeddings=_CONTEXT)


def random_ids(shape: Decoder, count: int) -> list[int]:
    """The text that all engines read."""
    ids: list[int] = np.random.default_rng(0).integers(300, shape.vocab_size, count).tolist()
    return ids


def prepare(name: str, bits: int, folder: Path, *, peer: bool) -> tuple[Path, Path]:
    """Our weights directory and llama.cpp's file; made where they are not there yet.

    So are PyTorch's logits, which `logits_error` reads.
    """
    shape = decoder(name)
    ours, theirs = folder / f"{name}-{bits}", folder / f"{name}-q{bits}_0.gguf"
    parameters, reference = RandomParameters(shape), _reference(name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not reference.exists():
        from benchmarks.shape_reference import reference_logits

        logits = reference_logits(CONFIGS[name], parameters, random_ids(shape, _COMPARED))
        np.save(reference, logits)
    if not (ours / "model.onnx").exists():
        ours.mkdir(parents=True, exist_ok=True)
        write_graph(shape, parameters, ours, Precision(bits), key=f"{name} {bits}")
    if peer and not theirs.exists():
        partial = theirs.with_suffix(".partial")
        write_decoder(shape, parameters, partial, name=name, bits=bits)
        partial.rename(theirs)
    return ours, theirs


def _reference(name: str, folder: Path) -> Path:
    return folder / f"{name}-logits.npy"


def logits_error(sequence: TokenSequence, shape: Decoder, reference: Path) -> float:
    """Distance of an engine's logits from those in the file `reference`, relative to their length.

    Forgets what `sequence` held.
    """
    wanted = np.load(reference)
    sequence.truncate(0)
    found = sequence.append(random_ids(shape, len(wanted)), len(wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _resident() -> int:
    """Bytes of memory that this process has in use."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def load(
    engine: str, path: Path, shape: Decoder, threads: int, context: int = _CONTEXT
) -> TokenSequence:
    """An engine with a model; `path` is a folder of ours or a GGUF file."""
    if engine in _PEERS:
        from benchmarks.llama_peer import FIRST, LlamaSequence

        flags = FIRST.having("repack", _PEERS[engine])
        return LlamaSequence(path, shape.vocab_size, context, threads, flags)
    manifest = Manifest(
        name=path.name,
        architecture=asdict(shape),
        files={},
        context_length=context,
        languages=[],
        template={},
        tokenizer="",
        special_ids={},
    )
    return OurSequence(ModelSession(path, manifest, threads))


def measure_turn(
    engine: str, path: Path, name: str, threads: int, reference: Path
) -> dict[str, float]:
    """One turn of one engine, in a process of its own."""
    shape = decoder(name)
    before = _resident()
    started = time.perf_counter()
    sequence = load(engine, path, shape, threads)
    load_s = time.perf_counter() - started
    ids = random_ids(shape, _PREFILL + _STEPS)
    sequence.append(ids[:64], 1)
    sequence.truncate(0)
    started = time.perf_counter()
    sequence.append(ids[:_PREFILL], 1)
    prefill = time.perf_counter() - started
    steps = []
    for token in ids[_PREFILL:]:
        started = time.perf_counter()
        sequence.append([token], 1)
        steps.append(time.perf_counter() - started)
    return {
        "load_s": load_s,
        "prefill_ms_per_token": prefill / _PREFILL * 1e3,
        "ms_per_token": statistics.median(steps) * 1e3,
        "rss_mb": (_resident() - before) / 1e6,
        # Last: the reference counts as memory, too.
        "logits_error": logits_error(sequence, shape, reference),
    }


def _apart(engine: str, path: Path, name: str, threads: int, reference: Path) -> dict[str, float]:
    """`measure_turn` where memory and threads of one engine are not in the other's way."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_turn, engine, path, name, threads, reference).result()


def measure(
    name: str, bits: int, threads: int, folder: Path, *, peer: bool, rounds: int = _ROUNDS
) -> dict[str, Any]:
    """Medians of all turns of each engine, and ours divided by llama.cpp's."""
    ours, theirs = prepare(name, bits, folder, peer=peer)
    reference = _reference(name, folder)
    engines = {"ours": ours} | (dict.fromkeys(_PEERS, theirs) if peer else {})
    turns: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine, path in engines.items():
            turns[engine].append(_apart(engine, path, name, threads, reference))
            time.sleep(_PAUSE_S)
    result: dict[str, Any] = {"shape": name, "bits": bits, "threads": threads}
    for engine, taken in turns.items():
        result[engine] = {
            key: round(statistics.median(turn[key] for turn in taken), 4) for key in taken[0]
        }
    if peer:
        result["ratio"] = {
            key: round(result["ours"][key] / min(result[name][key] for name in _PEERS), 3)
            for key in ("ms_per_token", "prefill_ms_per_token", "rss_mb")
        }
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=sorted(CONFIGS))
    parser.add_argument("--bits", type=int, nargs="+", choices=[4, 8], default=[4, 8])
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--peer", action="store_true", help="also measure llama.cpp")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="turns of each engine")
    parser.add_argument("--folder", type=Path, default=Path(".cache/shapes"))
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(given)
    results = [
        measure(
            options.shape,
            bits,
            options.threads,
            options.folder,
            peer=options.peer,
            rounds=options.rounds,
        )
        for bits in options.bits
    ]
    report({"runs": results}, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
