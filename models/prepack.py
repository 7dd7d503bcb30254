"""Weights in the layout of this machine's kernels, kept in a cache folder and mapped from there.

ONNX Runtime rearranges every int8 matrix when it loads a graph, into memory of the process's own.
It can also write the graph with the rearranged matrices once; sessions that load that file map
it, so processes share its pages (a second server needs 30 MB of its own instead of 113). The
layout depends on the runtime's version and on the processor, so a folder serves one of each.

`python -m models.prepack WEIGHTS CACHE` builds it: a server starts that beside itself, since it
needs the memory of a second session for a moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnxruntime as ort

from models.errors import ModelError, WeightsError
from models.registry import FileEntry, Manifest, load_manifest, verify
from models.session import GRAPH, session_options

logger = logging.getLogger(__name__)

_DATA = "model.data"
_DIGESTS = "digests.json"
_KEPT = 3
"""Folders that stay: other models, other environments with another runtime."""
_BUILDING = ".building-"
_ABANDONED_S = 3600.0
"""A folder that is still being built after this long never will be: it takes a second."""


class PackedWeights:
    """The folder for one model with this runtime on this processor.

    Attributes:
        folder: where it is or would be.
    """

    def __init__(self, manifest: Manifest, cache: Path) -> None:
        """`cache` holds the folders of all models; nothing is created yet."""
        what = [
            ort.__version__,
            _processor(),
            *sorted(f"{name} {entry.sha256}" for name, entry in manifest.files.items()),
        ]
        key = hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]
        self.folder = cache / f"{manifest.name}-{key}"

    @property
    def exists(self) -> bool:
        """Whether it was built; it is whole then, since it is renamed into place."""
        return (self.folder / _DIGESTS).is_file()

    def verify(self) -> None:
        """Check that the files are those that were built (about 0.6 ms a megabyte).

        Raises:
            WeightsError: a file is missing or was altered.
        """
        try:
            entries = json.loads((self.folder / _DIGESTS).read_text(encoding="utf-8"))
            whole = all(
                FileEntry.of(self.folder / name) == FileEntry(**entries[name])
                for name in (GRAPH, _DATA)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"cannot read {self.folder}: {error}") from error
        if not whole:
            raise WeightsError(f"the prepacked weights in {self.folder} were altered")

    def drop(self) -> None:
        """Remove it: it is damaged. Processes that mapped it keep what they have."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def build(self, weights_dir: Path) -> None:
        """Build it from verified weights; whoever builds at the same time does no harm.

        Raises:
            WeightsError: the weights are missing, altered or cannot be run.
            OSError: no room or no permission; nothing is left behind.
        """
        verify(weights_dir)
        cache = self.folder.parent
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache, keep=self.folder)
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=cache))
        try:
            options = session_options(threads=1)
            options.optimized_model_filepath = str(building / GRAPH)
            for name, value in (
                ("optimized_model_external_initializers_file_name", _DATA),
                ("optimized_model_external_initializers_min_size_in_bytes", "4096"),
                ("save_external_prepacked_constant_initializers", "1"),
            ):
                options.add_session_config_entry(f"session.{name}", value)
            try:
                ort.InferenceSession(
                    str(weights_dir / GRAPH), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # the runtime's errors derive from Exception directly
                raise WeightsError(f"cannot prepack {weights_dir}: {error}") from error
            digests = {name: FileEntry.of(building / name) for name in (GRAPH, _DATA)}
            for name in digests:
                with (building / name).open("rb+") as stream:
                    os.fsync(stream.fileno())
            text = json.dumps({name: asdict(entry) for name, entry in digests.items()})
            (building / _DIGESTS).write_text(text, encoding="utf-8")
            if not self.exists:
                self.drop()  # what a damaged folder left
            # Where another process was faster, its folder stays.
            with contextlib.suppress(OSError):
                building.rename(self.folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def build_beside(weights_dir: Path, cache: Path) -> threading.Thread:
    """Build the folder in a process of low priority; the thread that waits for it."""
    command = [sys.executable, "-I", "-m", "models.prepack", str(weights_dir), str(cache)]

    def build() -> None:
        try:
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        except OSError as error:
            logger.warning("weights are not prepacked: %s", error)
            return
        if ended.returncode:
            logger.warning("%s", ended.stderr.decode(errors="replace").strip())

    thread = threading.Thread(target=build, name="prepack", daemon=True)
    thread.start()
    return thread


def _processor() -> str:
    """What decides which kernels the runtime takes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {line}"
    return f"{platform.machine()} {platform.processor()}"


def _sweep(cache: Path, keep: Path) -> None:
    """Remove what was left half built and the folders that were built longest ago."""
    built: list[tuple[float, Path]] = []
    for folder in cache.iterdir():
        with contextlib.suppress(OSError):
            if folder.name.startswith(_BUILDING):
                # Another process may be at it.
                if folder.stat().st_mtime < time.time() - _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
            elif folder != keep and (folder / _DIGESTS).is_file():
                built.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(built, reverse=True)[_KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


def main(given: Sequence[str] | None = None) -> int:
    """Build the folder of a model; returns the exit status."""
    weights_dir, cache = (Path(argument) for argument in (given or sys.argv[1:]))
    if hasattr(os, "nice"):
        os.nice(10)
    try:
        packed = PackedWeights(load_manifest(weights_dir), cache)
        if not packed.exists:
            packed.build(weights_dir)
    except (ModelError, OSError) as error:
        print(f"not prepacked: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
