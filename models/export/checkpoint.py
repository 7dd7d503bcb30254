"""Hugging Face checkpoint directories, read tensor by tensor and never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open

from models.errors import WeightsError
from models.export.quantize import Float32

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
        WeightsError: missing, unreadable or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return content


class Checkpoint(Mapping[str, Float32]):
    """The parameters of a checkpoint directory by name, each read from disk when asked for.

    Attributes:
        config: content of `config.json`.
        nbytes: length of all weight files.
    """

    def __init__(self, directory: Path) -> None:
        """Open the weight files of `directory`.

        Raises:
            WeightsError: there are none, a file was cut short or is not safetensors, or the
                weights are pickled.
        """
        self.directory = directory
        self.config = read_json(directory / "config.json")
        self._paths = [directory / name for name in self._shards()]
        self.nbytes = 0
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()
        for path in self._paths:
            try:
                file = self._stack.enter_context(safe_open(str(path), framework="pt"))
                self.nbytes += path.stat().st_size
            except (OSError, SafetensorError) as error:
                self._stack.close()
                raise WeightsError(
                    f"cannot read {path}: {error}; the file is not safetensors or was cut short "
                    "(an interrupted download?)"
                ) from error
            self._files |= dict.fromkeys(file.keys(), file)

    def _shards(self) -> list[str]:
        directory = self.directory
        if (directory / INDEX).is_file():
            weight_map = read_json(directory / INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise WeightsError(f"{directory / INDEX} has no weight_map")
            names = sorted(set(map(str, weight_map.values())))
            if outside := [name for name in names if Path(name).name != name]:
                raise WeightsError(f"{INDEX} names a file outside its folder: {outside[0]!r}")
            if missing := [name for name in names if not (directory / name).is_file()]:
                raise WeightsError(f"{directory} lacks {', '.join(missing)}")
            return names
        if (directory / SINGLE).is_file():
            return [SINGLE]
        pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        if pickles:
            raise WeightsError(
                f"{directory} holds its weights as a pickle ({pickles[0]}), which may run any "
                "program when it is read: refused. Convert it to safetensors where you trust it"
            )
        raise WeightsError(f"{directory} holds no {SINGLE}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Float32:
        values: Float32 = self._files[name].get_tensor(name).float().numpy()
        return values

    def dims(self, name: str) -> tuple[int, ...]:
        """Dimensions of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def fingerprint(self) -> str:
        """Tells whether the files are still the same, from names, sizes, times and headers."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for path in self._paths:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()
