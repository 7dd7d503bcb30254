"""Write a model for other programs: `python -m models.export.convert MODEL --to FORMAT --out PATH`.

- hf: a Hugging Face directory in float32, dequantised; transformers and vLLM read it.
- gguf: one file for llama.cpp, Ollama and LM Studio, with 8 or 4 bits as the model has them.
- onnx: our own graph with its weights, tokenizer and manifest.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from models.errors import ModelError, WeightsError
from models.export.gguf import write_gguf
from models.export.huggingface import write_checkpoint
from models.registry import MANIFEST, find, load_manifest, verify

FORMATS = ("hf", "gguf", "onnx")


def convert(weights_dir: Path, kind: str, out: Path) -> None:
    """Write `out`, a folder for `hf` and `onnx` and a file for `gguf`.

    Raises:
        WeightsError: the weights are damaged, or `out` exists or cannot be written.
        TokenizerError: the vocabulary cannot be read.
    """
    manifest = verify(weights_dir)
    if out.exists():
        raise WeightsError(f"{out} exists: name another place")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "hf":
            write_checkpoint(weights_dir, out)
        elif kind == "gguf":
            bits = 4 if manifest.training.get("bits") == 4 else 8
            write_gguf(weights_dir, out, bits=bits, vocabulary=True)
        else:
            out.mkdir()
            for name in [*manifest.files, MANIFEST]:
                shutil.copyfile(weights_dir / name, out / name)
    except OSError as error:
        raise WeightsError(f"cannot write {out}: {error.strerror}") from error


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m models.export.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="name or folder of weights")
    parser.add_argument("--to", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, help="default: NAME-hf, NAME.gguf or NAME-onnx")
    options = parser.parse_args(argv)
    try:
        weights_dir = find(options.model)
        name = load_manifest(weights_dir).name
        ending = ".gguf" if options.to == "gguf" else f"-{options.to}"
        out = options.out or Path(name + ending)
        convert(weights_dir, options.to, out)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
