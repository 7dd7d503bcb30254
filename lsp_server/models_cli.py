"""`snowcoder models`: bring your own model, see what there is, choose, measure, take along.

Import and export need PyTorch and run as programs of their own: what serves completions never
loads it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import ModelError
from models.library import Installed, installed, library_path
from models.library import rollback as roll_back
from models.library import use as use_model
from models.registry import DEFAULT_MODEL, find
from models.registry import verify as verify_files

app = typer.Typer(help="Models: import, list, verify, bench, use, export.", no_args_is_help=True)

_EXTRA = ("torch", "transformers", "onnx", "safetensors", "gguf", "huggingface_hub")
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[
    str | None, typer.Argument(help="Name or folder of a model; the one in use by default.")
]


class Bits(StrEnum):
    """Bits per weight of an imported model."""

    EIGHT = "8"
    FOUR = "4"


class Format(StrEnum):
    """What `export` writes."""

    HF = "hf"
    GGUF = "gguf"
    ONNX = "onnx"


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|HF-ID", help="Folder of a Hugging Face checkpoint, or OWNER/NAME."
        ),
    ],
    bits: Annotated[Bits, typer.Option(help="Bits per weight.")] = Bits.EIGHT,
    name: Annotated[str | None, typer.Option(help="Name of the model here.")] = None,
) -> None:
    """Quantise a checkpoint, compare it with PyTorch, and keep it under a name.

    The same command goes on with an import that was interrupted.
    """
    _run(
        "models.export.importer", source, "--bits", bits.value, *(["--name", name] if name else [])
    )


@app.command("list")
def list_(as_json: _AsJson = False) -> None:
    """Show the models on this machine; the one in use is marked."""
    found = installed()
    if as_json:
        print(json.dumps([_as_dict(one) for one in found], ensure_ascii=False))
        return
    table = Table("", "name", "kind", "bits", "MB", "context", "prompt layout")
    for one in found:
        row = _as_dict(one)
        mark = "*" if one.used else ""
        if one.manifest is None:
            table.add_row(mark, one.name, f"[red]{escape(one.error)}[/red]")
            continue
        keys = ("kind", "bits", "megabytes", "context", "prompt_layout")
        table.add_row(mark, one.name, *(str(row[key]) for key in keys))
    Console().print(table)
    print(f"imported models are kept in {library_path()}")


def _as_dict(one: Installed) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": one.name,
        "folder": str(one.directory),
        "used": one.used,
        "packaged": one.packaged,
    }
    if one.manifest is None:
        return row | {"error": one.error}
    manifest = one.manifest
    return row | {
        "kind": manifest.architecture.get("model_type", "qwen3"),
        "bits": manifest.training.get("bits", 8),
        "megabytes": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6),
        "context": manifest.context_length,
        "prompt_layout": manifest.training.get("prompt_layout", "snowcoder"),
        "report": manifest.report,
    }


@app.command()
def verify(name: _Name = None) -> None:
    """Check every file of a model against the SHA-256 in its manifest."""
    try:
        manifest = verify_files(find(name))
    except ModelError as error:
        raise _failure(str(error)) from None
    print(f"{manifest.name}: {len(manifest.files)} files as published")


@app.command()
def bench(
    name: _Name = None,
    threads: Annotated[int, typer.Option(min=1, help="Processor cores.")] = 2,
    as_json: _AsJson = False,
) -> None:
    """Measure a model on this machine; nothing else should be running."""
    from models.bench import bench as measure  # loads the inference runtime

    try:
        cost = measure(find(name), threads)
    except ModelError as error:
        raise _failure(str(error)) from None
    if as_json:
        print(json.dumps(asdict(cost)))
        return
    print(f"load                  {cost.load_s:8.2f} s")
    print(f"read a token          {cost.prefill_ms:8.2f} ms")
    print(f"write a token         {cost.token_ms:8.2f} ms, behind {cost.prompt_tokens}")
    if cost.resident_mb is not None:
        print(f"memory in use         {cost.resident_mb:8.0f} MB")


@app.command()
def use(name: Annotated[str, typer.Argument(help="Name of a model, see `list`.")]) -> None:
    """Load this model from now on, where no other is asked for. Restart the editor's server."""
    try:
        use_model(name)
    except ModelError as error:
        raise _failure(str(error)) from None
    print(f"{name} is in use; running servers keep theirs until they are restarted")


@app.command()
def rollback() -> None:
    """Go back to the model that was in use before."""
    try:
        name = roll_back()
    except ModelError as error:
        raise _failure(str(error)) from None
    print(f"{name} is in use again")


@app.command()
def export(
    to: Annotated[Format, typer.Option(help="hf and onnx write a folder, gguf a file.")],
    name: _Name = None,
    out: Annotated[Path | None, typer.Option(help="Where; by default named as the model.")] = None,
) -> None:
    """Write a model for other programs: transformers, vLLM, llama.cpp, Ollama."""
    where = ["--out", str(out)] if out else []
    _run("models.export.convert", name or _used(), "--to", to.value, *where)


def _used() -> str:
    return next((one.name for one in installed() if one.used), DEFAULT_MODEL)


def _run(module: str, *arguments: str) -> None:
    """Run a module of the `export` extra; ends with its exit status."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise _failure(
            f"this needs {', '.join(missing)}: pip install 'snowcoder[export]' "
            "(completions work without)"
        )
    # The user's folder may hold packages of the same names as ours: it stays off the path.
    root = str(Path(__file__).resolve().parent.parent)
    start = f"import sys, runpy; sys.path.append({root!r}); "
    start += f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    try:
        done = subprocess.run([sys.executable, "-P", "-c", start, *arguments], check=False)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if done.returncode:
        raise typer.Exit(done.returncode)


def _failure(message: str) -> typer.Exit:
    """Say what went wrong; the caller raises what this returns."""
    console = Console(stderr=True, highlight=False)
    console.print(f"snowcoder: {message}", markup=False, soft_wrap=True)
    return typer.Exit(1)


def register(parent: typer.Typer) -> None:
    """Add `snowcoder models`."""
    parent.add_typer(app, name="models")
