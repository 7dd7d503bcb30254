"""Finding weights on disk and checking that they are the ones that were published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from models.errors import WeightsError

DEFAULT_MODEL = "snowcoder-88m"
MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the weights directory: its SHA-256 in hex and its length in bytes."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Hash a file (about 0.6 ms a megabyte)."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(digest, path.stat().st_size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of `manifest.json`, the description that travels with the weights.

    Attributes:
        name: the model's name, for records.
        architecture: shape of the decoder, Hugging Face names.
        files: file name to hash and size; every file the model needs.
        context_length: prompt and generated tokens together.
        languages: LSP language ids the model was trained for.
        template: the prompt layouts, mode to list of special tokens and slots.
        tokenizer: file name of the tokenizer.
        special_ids: special token text to id.
        training: facts about the training run.
        report: how the quantised weights compare with float32.
        format_version: raised when older readers could not serve the files.
    """

    name: str
    architecture: dict[str, Any]
    files: dict[str, FileEntry]
    context_length: int
    languages: list[str]
    template: dict[str, Any]
    tokenizer: str
    special_ids: dict[str, int]
    training: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def save(self, directory: Path) -> None:
        """Write `manifest.json`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def packaged_path() -> Path:
    """The folder of the models that are part of the package."""
    return Path(str(files("models"))) / "weights"


def find(name_or_path: str | None = None) -> Path:
    """Directory of a model: None or "" is the one in use, else a model's name or a path.

    Raises:
        WeightsError: there is no such model.
    """
    from models import library

    name = name_or_path or library.used()
    directory = library.directory_of(name)
    if directory is not None:
        return directory
    if not name_or_path and name == DEFAULT_MODEL:
        raise WeightsError(
            f"the packaged model {DEFAULT_MODEL} is missing from {packaged_path()}: "
            "reinstall snowcoder"
        )
    if not name_or_path:
        raise WeightsError(
            f"the model in use, {name}, is gone from {library.library_path()}: "
            f"run `snowcoder models use {DEFAULT_MODEL}` or import it again"
        )
    if ((path := Path(name).expanduser()) / MANIFEST).is_file():
        return path
    raise WeightsError(
        f"no model at {name_or_path!r}: give the name of an imported model, a directory that "
        f"holds {MANIFEST}, or leave the setting empty for {DEFAULT_MODEL}"
    )


def load_manifest(directory: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        WeightsError: missing, malformed, or of a newer format.
    """
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"cannot read {path}: {error.strerror}; reinstall the weights"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}); reinstall the weights") from error
    if not isinstance(content, Mapping) or content.get("format_version") != FORMAT_VERSION:
        raise WeightsError(
            f"{path} is not of format {FORMAT_VERSION}: "
            "these weights need another version of snowcoder"
        )
    try:
        entries = {name: FileEntry(**entry) for name, entry in content["files"].items()}
        manifest = Manifest(**{**content, "files": entries})
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is malformed ({error}); reinstall the weights") from error
    if outside := [name for name in entries if Path(name).name != name]:
        raise WeightsError(f"{path} names a file outside its directory: {outside[0]!r}")
    return manifest


def verify(directory: Path) -> Manifest:
    """Check every file against the manifest; returns it.

    Raises:
        WeightsError: a file is missing or was altered; names the file and what to do.
    """
    manifest = load_manifest(directory)
    for name in manifest.files:
        verify_file(directory, manifest, name)
    return manifest


def verify_file(directory: Path, manifest: Manifest, name: str) -> None:
    """Check one file against the manifest.

    Raises:
        WeightsError: it is missing or was altered; names it and what to do.
    """
    path, entry = directory / name, manifest.files[name]
    if not path.is_file():
        raise WeightsError(f"the weight file {path} is missing; reinstall the weights")
    if path.stat().st_size != entry.bytes or FileEntry.of(path) != entry:
        raise WeightsError(
            f"the weight file {path} was altered: it does not match its SHA-256 in {MANIFEST}; "
            "reinstall the weights"
        )
