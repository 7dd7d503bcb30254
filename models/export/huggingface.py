"""Hugging Face checkpoint directories: reading them, and writing shipped weights as one.

python -m models.export.huggingface WEIGHTS_DIR OUT_DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.errors import ModelError, WeightsError
from models.export.checkpoint import read_json
from models.export.quantize import Architecture, Float32, dequantize
from models.registry import load_manifest


def load_checkpoint(directory: Path) -> tuple[Architecture, dict[str, Float32]]:
    """Architecture and float32 parameters of a Qwen3 checkpoint directory.

    Raises:
        WeightsError: a file is missing or malformed, or the architecture is unsupported.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        shape = Architecture.from_config(config)
        with safe_open(str(directory / "model.safetensors"), framework="pt") as tensors:
            names = list(tensors.keys())
            parameters = {name: tensors.get_tensor(name).float().numpy() for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"cannot read the checkpoint {directory}: {error}") from error
    return shape, parameters


def write_checkpoint(weights_dir: Path, out: Path) -> None:
    """Write weights, dequantised to float32; shipped ones as `Qwen3ForCausalLM`.

    transformers, vLLM and llama.cpp's converter read the result.

    Raises:
        WeightsError: the weights are missing or not of a format of ours.
    """
    manifest = load_manifest(weights_dir)
    if "model_type" in manifest.architecture:  # imported: its configuration came with it
        config = read_json(weights_dir / "config.json")
        config |= {"dtype": "float32", "torch_dtype": "float32"}
    else:
        special = manifest.special_ids
        config = {
            **Architecture(**manifest.architecture).to_config(),
            "bos_token_id": special["<|eot|>"],
            "eos_token_id": [special["<|eot|>"], special["<|eom|>"]],
            "pad_token_id": special["<|pad|>"],
        }
    parameters = dequantize(weights_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in parameters.items()}
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    shutil.copyfile(weights_dir / manifest.tokenizer, out / "tokenizer.json")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.export.huggingface")
    parser.add_argument("weights", type=Path, help="weights directory to dequantise")
    parser.add_argument("out", type=Path, help="Hugging Face directory to write")
    options = parser.parse_args(argv)
    try:
        write_checkpoint(options.weights, options.out)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
