"""Models that the user imported, and which one is in use.

They lie beside the other data that is kept for a user, each in a folder of its own, as the
packaged one does. `history.json` lists the models used so far; the last one is in use.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from models.errors import WeightsError
from models.registry import DEFAULT_MODEL, MANIFEST, Manifest, load_manifest, packaged_path

# The same as `telemetry.paths` has it: `models` imports nothing of ours.
_DATA_VARIABLE = "SNOWCODER_DATA"
_HISTORY = "history.json"
_REMEMBERED = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PARTIAL = ".partial"
"""Ends the name of the folder of an import that is not finished."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A model on this machine; `error` tells why its manifest cannot be read."""

    name: str
    directory: Path
    packaged: bool
    used: bool
    manifest: Manifest | None
    error: str = ""


def library_path() -> Path:
    """The folder of imported models; it may not exist yet."""
    if folder := os.environ.get(_DATA_VARIABLE):
        return Path(folder) / "models"
    return user_data_path("snowcoder", appauthor=False) / "models"


def check_name(name: str) -> str:
    """A name for a model that is also a folder's.

    Raises:
        WeightsError: it is not, or it is the packaged model's.
    """
    if not _NAME.fullmatch(name) or name.endswith(PARTIAL):
        raise WeightsError(f"{name!r} cannot name a model: use letters, digits, dots and dashes")
    if (packaged_path() / name / MANIFEST).is_file():
        raise WeightsError(f"{name} is the packaged model: choose another name")
    return name


def _history() -> list[str]:
    try:
        names = json.loads((library_path() / _HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _write_history(names: list[str]) -> None:
    path = library_path() / _HISTORY
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(names[-_REMEMBERED:]) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror}") from error


def used() -> str:
    """Name of the model in use."""
    return (_history() or [DEFAULT_MODEL])[-1]


def directory_of(name: str) -> Path | None:
    """Where the model `name` is, packaged or imported; None where there is none."""
    for folder in (packaged_path(), library_path()):
        if _NAME.fullmatch(name) and (folder / name / MANIFEST).is_file():
            return folder / name
    return None


def installed() -> list[Installed]:
    """All models, the packaged ones first."""
    current, found = used(), []
    for folder in (packaged_path(), library_path()):
        for path in sorted(folder.glob(f"*/{MANIFEST}")):
            directory = path.parent
            if directory.name.endswith(PARTIAL):
                continue
            try:
                manifest, error = load_manifest(directory), ""
            except WeightsError as problem:
                manifest, error = None, str(problem)
            name = directory.name
            packaged = folder == packaged_path()
            found.append(Installed(name, directory, packaged, name == current, manifest, error))
    return found


def use(name: str) -> None:
    """Make `name` the model that is loaded where no other is asked for.

    Raises:
        WeightsError: there is no such model, or its manifest cannot be read.
    """
    directory = directory_of(name)
    if directory is None:
        known = ", ".join(one.name for one in installed())
        raise WeightsError(f"no model is called {name!r}; there are: {known}")
    load_manifest(directory)
    if name != used():
        _write_history([*(_history() or [DEFAULT_MODEL]), name])


def rollback() -> str:
    """Use the model again that was used before; returns its name.

    Raises:
        WeightsError: no other was used before.
    """
    history = _history()[:-1]
    while history and directory_of(history[-1]) is None:
        history.pop()
    if not history:
        raise WeightsError(f"no model was in use before {used()}")
    _write_history(history)
    return history[-1]
