"""Import a checkpoint: `python -m models.export.importer PATH|HF-ID [--bits 8|4] [--name NAME]`.

What happens, in this order: the checkpoint is opened (never unpickled) and its shape compared with
its configuration; the prompt layout is found; disk space is checked; the graph is written, going on
where an interrupted import of the same files stopped; the result is compared with PyTorch in
float32; only then does the model get its name and its manifest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from models.errors import ModelError, TokenizerError, WeightsError
from models.export.checkpoint import INDEX, SINGLE, Checkpoint, read_json
from models.export.decoder import (
    EMBEDDING,
    POSITIONS,
    Decoder,
    read_decoder,
    source_shapes,
    table,
)
from models.export.fim import Detected, detect
from models.export.graph import write_graph
from models.export.packing import Precision
from models.export.store import JOURNAL
from models.library import PARTIAL, check_name, library_path
from models.registry import MANIFEST, FileEntry, Manifest
from models.tokenizer import Tokenizer, read_definition

_FORMAT = 1
"""Raised when the data file's layout changes: an interrupted import then starts anew."""
_BYTES_PER_WEIGHT = {Precision.FLOAT: 4.0, Precision.RQ8: 1.01, Precision.Q4: 0.64}
_SPARE = 1.1
_LANGUAGES = ["python"]
_CHECKED_TOKENS = 384
_LEAST_AGREEMENT, _MOST_LOSS = 0.5, 0.2
"""With fewer equal first choices and more nats lost per token, the graph is not that of the
checkpoint. Few equal choices alone may come from a checkpoint that is sure of nothing."""
TOKENIZER = "tokenizer.json"

Advance = Callable[[int], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was looked at and can be imported."""

    checkpoint: Checkpoint
    shape: Decoder
    definition: dict[str, Any]
    detected: Detected


def _check_tensors(checkpoint: Checkpoint, shape: Decoder) -> None:
    positions = "" if shape.rope_theta is not None else table(shape, POSITIONS).weights[0]
    (embedding,) = table(shape, EMBEDDING).weights
    for name, dims in source_shapes(shape).items():
        if name not in checkpoint:
            raise WeightsError(f"the checkpoint lacks the tensor {name}")
        found = checkpoint.dims(name)
        if found == dims or (name == positions and found[1:] == dims[1:] and found >= dims):
            continue
        if name == embedding and found[0] != dims[0]:
            raise WeightsError(
                f"wrong vocabulary size: config.json says {dims[0]}, {name} has {found[0]} rows"
            )
        raise WeightsError(f"{name} has the shape {found}, config.json says {dims}")


def _definition(directory: Path) -> dict[str, Any]:
    """The `tokenizer.json`, made from older files where there is none."""
    if (directory / TOKENIZER).is_file():
        return read_definition(directory / TOKENIZER)
    try:
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
        definition: dict[str, Any] = json.loads(slow.backend_tokenizer.to_str())
    except Exception as error:  # whatever transformers raises for files that it does not know
        raise TokenizerError(
            f"{directory} has no {TOKENIZER}, and none can be made from its other files: {error}"
        ) from error
    return definition


def _token_text(value: object) -> str | None:
    """The text of a token in `tokenizer_config.json`: a string, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ends(
    directory: Path, definition: dict[str, Any], config: dict[str, Any]
) -> tuple[list[str], str | None]:
    """Texts of the tokens put before every text, and of the one that ends a text."""
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    texts: dict[object, str] = {
        int(token["id"]): str(token["content"]) for token in definition["added_tokens"]
    }
    number = config.get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    end = _token_text(settings.get("eos_token")) or texts.get(number)
    begin = _token_text(settings.get("bos_token")) or texts.get(config.get("bos_token_id"))
    if (adds := settings.get("add_bos_token")) is None:
        from tokenizers import Tokenizer as Library

        first = Library.from_str(json.dumps(definition)).encode("x").ids[:1]
        adds = bool(begin and first and texts.get(first[0]) == begin)
    return ([begin] if adds and begin in texts.values() and begin else []), end


def look_at(directory: Path) -> Source:
    """Open a checkpoint directory and check that it can be imported.

    Raises:
        WeightsError: incomplete, damaged, pickled, or of an unsupported architecture.
        TokenizerError: its vocabulary cannot serve.
    """
    checkpoint = Checkpoint(directory)
    shape = read_decoder(checkpoint.config)
    _check_tensors(checkpoint, shape)
    definition = _definition(directory)
    try:
        begin, end = _ends(directory, definition, checkpoint.config)
        special = {token["content"] for token in definition["added_tokens"]}
        empty = set(definition["model"]["vocab"]) <= special
    except Exception as error:  # the library raises plain Exception on a malformed definition
        raise TokenizerError(f"the tokenizer of {directory} is malformed: {error!r}") from error
    if empty:
        raise TokenizerError(f"{directory} has no {TOKENIZER}, and its other files hold no tokens")
    (embedding,) = table(shape, EMBEDDING).weights
    rows = checkpoint[embedding]
    detected = detect(
        definition,
        shape.model_type,
        vocab_size=shape.vocab_size,
        begin=begin,
        end=end,
        trained=lambda token: bool(rows[token].any()),
    )
    tokenizer = Tokenizer(definition, detected.template)
    if tokenizer.vocab_size > shape.vocab_size:
        raise WeightsError(
            f"wrong vocabulary size: the tokenizer has {tokenizer.vocab_size} ids, the model "
            f"only {shape.vocab_size}"
        )
    return Source(checkpoint, shape, definition, detected)


def needed_bytes(shape: Decoder, precision: Precision) -> int:
    """About how much disk an import takes."""
    tables = (1 if shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    blocks = shape.parameters - tables
    weight = _BYTES_PER_WEIGHT
    bytes_ = blocks * weight[precision] + tables * weight[precision.of(EMBEDDING)]
    return math.ceil(bytes_ + 8 * shape.max_position_embeddings * shape.hidden_size)


def check_disk(folder: Path, needed: int) -> None:
    """Refuse what would not fit.

    Raises:
        WeightsError: says how much is free and how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed * _SPARE:
        raise WeightsError(
            f"not enough disk: {folder} has {free / 1e9:.1f} GB free, "
            f"this needs {needed * _SPARE / 1e9:.1f} GB"
        )


def _sample() -> str:
    """Code to compare on: this very module and its neighbours."""
    return "\n".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))


def compare(source: Source, weights_dir: Path) -> dict[str, Any]:
    """How the import differs from PyTorch in float32, on a few hundred tokens of code.

    Empty where memory does not hold the checkpoint in float32.
    """
    available = _available_memory()
    needed = source.shape.parameters * 4 * 1.2
    if available is not None and needed > available:
        return {}
    from models.export.verify import QuantizedSequencer, ReferenceSequencer, compare_logits

    tokenizer = Tokenizer(source.definition, source.detected.template)
    length = min(_CHECKED_TOKENS, source.shape.max_position_embeddings)
    ids = tokenizer.encode(_sample())[:length]
    quantized = QuantizedSequencer(weights_dir)
    reference = ReferenceSequencer(source.checkpoint.directory)
    return compare_logits(quantized, reference, [ids])


def _available_memory() -> int | None:
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:  # what the page cache holds can be had as well
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) * 1024
    except (OSError, StopIteration):
        return pages


def import_checkpoint(
    directory: Path,
    library: Path,
    name: str,
    precision: Precision = Precision.RQ8,
    *,
    advance: Advance = lambda done: None,
    say: Say = lambda message: None,
    origin: str = "",
) -> Manifest:
    """Import a checkpoint directory as `library/name`; an older model of that name is replaced.

    Args:
        directory: Hugging Face checkpoint.
        library: the folder of imported models; made where missing.
        name: see `models.library.check_name`.
        precision: 8 or 4 bits, or float32 for checks.
        advance: called with the weights (numbers, not bytes) written since the last call.
        say: takes messages for the user.
        origin: where the checkpoint came from, for the manifest.

    Raises:
        WeightsError: the checkpoint cannot be imported, the disk is full, or the result does not
            compute what the checkpoint does.
        TokenizerError: its vocabulary cannot serve.
    """
    final, partial = library / check_name(name), library / (name + PARTIAL)
    source = look_at(directory)
    shape = source.shape
    key = f"{_FORMAT} {int(precision)} {source.checkpoint.fingerprint()}"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        begun = sum(path.stat().st_size for path in partial.iterdir())
        check_disk(partial, max(0, needed_bytes(shape, precision) - begun))
        if (partial / JOURNAL).exists():
            say("going on where an earlier import stopped")
        paths = write_graph(shape, source.checkpoint, partial, precision, key=key, progress=advance)
        for file, content in (
            (TOKENIZER, source.definition),
            ("config.json", source.checkpoint.config),
        ):
            text = json.dumps(content, ensure_ascii=False)
            (partial / file).write_text(text + "\n", encoding="utf-8")
            paths.append(partial / file)
    except OSError as error:
        raise WeightsError(f"cannot write {partial}: {error.strerror}") from error
    tokenizer = Tokenizer(source.definition, source.detected.template)
    manifest = Manifest(
        name=name,
        architecture=asdict(shape),
        files={path.name: FileEntry.of(path) for path in paths},
        context_length=shape.max_position_embeddings,
        languages=_LANGUAGES,
        template=source.detected.template,
        tokenizer=TOKENIZER,
        special_ids=tokenizer.special_texts,
        training={
            "imported_from": origin or directory.resolve().name,
            "bits": int(precision),
            "prompt_layout": source.detected.family,
        },
    )
    manifest.save(partial)
    say("comparing with PyTorch in float32")
    report = compare(source, partial)
    if not report:
        say("not compared: too little memory for the checkpoint in float32")
    elif report["top1_agreement"] < _LEAST_AGREEMENT and report["nll_delta"] > _MOST_LOSS:
        raise WeightsError(
            f"the import does not compute what the checkpoint does: only "
            f"{report['top1_agreement']:.0%} of the first choices agree. It was left in {partial}"
        )
    manifest = Manifest(**{**_fields(manifest), "report": report})
    manifest.save(partial)
    _replace(partial, final)
    for notice in source.detected.notices:
        say(notice)
    return manifest


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def _replace(partial: Path, final: Path) -> None:
    old = final.with_name(final.name + ".old" + PARTIAL)
    shutil.rmtree(old, ignore_errors=True)
    try:
        if final.exists():
            final.rename(old)
        partial.rename(final)
    except OSError as error:
        raise WeightsError(f"cannot replace {final}: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def download(repository: str, say: Say) -> Path:
    """Fetch a checkpoint from the Hugging Face hub, or find it in the hub's cache.

    Interrupted downloads are gone on with by the hub's own code, which also shows progress.

    Raises:
        WeightsError: no network, no such repository, no access to it, or only pickled weights.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    patterns = ["*.safetensors", INDEX, "config.json", "tokenizer*", "vocab*", "merges.txt"]
    patterns += ["special_tokens_map.json", "generation_config.json"]
    try:
        try:
            listed = huggingface_hub.HfApi().model_info(repository, files_metadata=True).siblings
        except OfflineModeIsEnabled:
            listed = None  # only what is in the cache
        if listed is not None:
            sizes = {file.rfilename: file.size or 0 for file in listed}
            if not any(file in sizes for file in (SINGLE, INDEX)):
                raise WeightsError(f"{repository} has no safetensors weights: refused")
            total = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
            say(f"{repository}: {total / 1e9:.1f} GB")
            cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
            cache.mkdir(parents=True, exist_ok=True)
            check_disk(cache, total)
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except WeightsError:
        raise
    except HfHubHTTPError as error:
        raise WeightsError(f"cannot download {repository}: {error}") from error
    except Exception as error:  # errors of the transport, which the hub passes on as they are
        raise WeightsError(
            f"cannot download {repository}: {error}. Without a network, give the folder of a "
            "checkpoint in place of its name"
        ) from error


def resolve(source: str, say: Say) -> Path:
    """The checkpoint directory that PATH|HF-ID means.

    Raises:
        WeightsError: it is neither, or cannot be downloaded.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise WeightsError(f"{path} is a file: give the checkpoint's folder")
    owner, _, name = source.partition("/")
    if owner and name and "/" not in name and not source.startswith((".", "~")):
        return download(source, say)
    raise WeightsError(f"{source!r} is neither a folder nor a name of the form OWNER/NAME")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.export.importer", description=__doc__)
    parser.add_argument("source", help="checkpoint folder, or OWNER/NAME on the hub")
    parser.add_argument("--name", help="name of the model; by default that of the checkpoint")
    parser.add_argument("--bits", type=int, choices=[8, 4], default=8, help="default: 8")
    options = parser.parse_args(argv)
    console = Console(stderr=True, highlight=False)

    def say(message: str) -> None:
        console.print(message, markup=False, soft_wrap=True)

    try:
        directory = resolve(options.source, say)
        name = options.name or Path(options.source).expanduser().resolve().name.lower()
        check_name(name)
        size = Checkpoint(directory).nbytes
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(name, total=size)
            shape = read_decoder(read_json(directory / "config.json"))
            each = size / shape.parameters
            manifest = import_checkpoint(
                directory,
                library_path(),
                name,
                Precision(options.bits),
                advance=lambda done: progress.advance(task, done * each),
                say=say,
                origin=options.source if not Path(options.source).exists() else "",
            )
            progress.update(task, completed=size)
    except ModelError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    report = manifest.report
    total = sum(entry.bytes for entry in manifest.files.values())
    print(f"{name}: {total / 1e6:.0f} MB, prompt layout {manifest.training['prompt_layout']}")
    if report:
        print(
            f"first choice equal to PyTorch float32: {report['top1_agreement']:.1%} of "
            f"{report['tokens']} tokens; {report['nll_delta']:+.4f} nats per token"
        )
    print(f"{library_path() / name / MANIFEST}")
    print(f"use it with: snowcoder models use {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
