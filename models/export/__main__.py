"""Export a checkpoint: `python -m models.export CHECKPOINT_DIR OUT_DIR`.

Writes the rq8 graph, the tokenizer, `report.json` and `manifest.json`. With `--eval-ids`
or `--cursors` the quantised model is compared with PyTorch float32 first, and the report
says by how much they differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from models.errors import ModelError, WeightsError
from models.export.graph import write_graph
from models.export.huggingface import load_checkpoint
from models.export.verify import verify_export
from models.registry import DEFAULT_MODEL, FileEntry, Manifest
from models.template import OWN_TEMPLATE
from models.tokenizer import Tokenizer

REPORT = "report.json"
_FILE_LIMIT = 95_000_000
_TOTAL_LIMIT = 120_000_000


def export(
    checkpoint: Path,
    out: Path,
    name: str = DEFAULT_MODEL,
    training: dict[str, Any] | None = None,
) -> Manifest:
    """Write the weights directory of a Hugging Face Qwen3 checkpoint directory.

    Args:
        checkpoint: holds `config.json`, `model.safetensors` and `tokenizer.json`.
        out: created when missing; an older export in it is replaced.
        name: the model's name.
        training: facts about the training run, for the manifest.

    Raises:
        WeightsError: the checkpoint is incomplete or of an unsupported architecture.
        TokenizerError: its tokenizer cannot serve.
    """
    shape, parameters = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_file(checkpoint / "tokenizer.json")
    if tokenizer.vocab_size > shape.vocab_size:
        raise WeightsError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {shape.vocab_size}"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT).unlink(missing_ok=True)  # it described the export that is being replaced
    paths = write_graph(shape.decoder(), parameters, out)
    shutil.copyfile(checkpoint / "tokenizer.json", out / "tokenizer.json")
    paths.append(out / "tokenizer.json")
    manifest = Manifest(
        name=name,
        architecture=asdict(shape),
        files={path.name: FileEntry.of(path) for path in paths},
        context_length=shape.max_position_embeddings,
        languages=["python"],
        template=OWN_TEMPLATE,
        tokenizer="tokenizer.json",
        special_ids=tokenizer.special.by_text(),
        training=training or {},
    )
    manifest.save(out)
    return manifest


def check_size(manifest: Manifest) -> None:
    """Enforce what a git host takes: 95 MB a file, 120 MB together.

    Raises:
        WeightsError: a file or the sum is larger.
    """
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    if max(sizes.values()) > _FILE_LIMIT or sum(sizes.values()) > _TOTAL_LIMIT:
        raise WeightsError(f"too large to ship (95 MB a file, 120 MB together): {sizes}")


def _training_facts(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read the training facts {path}: {error}") from error
    if not isinstance(facts, dict):
        raise WeightsError(f"the training facts {path} are not a JSON object")
    return facts


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="Hugging Face directory")
    parser.add_argument("out", type=Path, help="weights directory to write")
    parser.add_argument("--name", default=DEFAULT_MODEL, help="name of the model")
    parser.add_argument("--training", type=Path, help="JSON object of training facts")
    parser.add_argument("--eval-ids", type=Path, help="JSON lines: a list of token ids each")
    parser.add_argument("--cursors", type=Path, help="JSON lines: prefix, suffix, middle")
    options = parser.parse_args(argv)
    try:
        facts = _training_facts(options.training)
        manifest = export(options.checkpoint, options.out, options.name, facts)
        check_size(manifest)
        if options.eval_ids or options.cursors:
            files = options.eval_ids, options.cursors
            report = verify_export(options.checkpoint, options.out, *files)
            text = json.dumps(report, indent=2) + "\n"
            (options.out / REPORT).write_text(text, encoding="utf-8")
            replace(manifest, report=report).save(options.out)
            print(text, end="")
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
