"""Fetch the pinned source distributions of the validation and tuning projects.

Usage: python -m benchmarks.prepare [--into DIR]

They come through pip, so its index, proxy and certificate settings apply, and lie
afterwards in DIR/validation/NAME-VERSION and DIR/tuning/NAME-VERSION.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SPLITS = ("validation", "tuning")
PROJECTS_FILE = Path(__file__).with_name("projects.toml")
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench"


class PrepareError(Exception):
    """A source distribution could not be fetched or is not the pinned one."""


@dataclass(frozen=True, slots=True)
class Project:
    """One pinned source distribution; `sha256` is that of the archive."""

    split: str
    name: str
    version: str
    sha256: str

    @property
    def folder(self) -> str:
        """Path of the unpacked sources below the cache."""
        return f"{self.split}/{self.name}-{self.version}"


def load_projects(path: Path = PROJECTS_FILE) -> list[Project]:
    """Read the pins."""
    with path.open("rb") as file:
        pins = tomllib.load(file)
    return [Project(split=split, **pin) for split in SPLITS for pin in pins[split]]


def unpack(archive: Path, project: Project, into: Path) -> Path:
    """Check an archive's SHA-256 and unpack it to `into`/SPLIT/NAME-VERSION.

    Raises:
        PrepareError: another hash, names that lead out, or not exactly one top folder.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != project.sha256:
        raise PrepareError(f"{archive.name} has SHA-256 {digest}, pinned is {project.sha256}")
    target = into / project.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        with tarfile.open(archive) as tar:
            names = [PurePosixPath(name) for name in tar.getnames()]
            if any(name.is_absolute() or ".." in name.parts for name in names):
                raise PrepareError(f"{archive.name} has files that lead out of its folder")
            # The filter also refuses links that lead out; Python has it since 3.11.4.
            if data_filter := getattr(tarfile, "data_filter", None):
                tar.extraction_filter = data_filter
            tar.extractall(staging)
        tops = list(Path(staging).iterdir())
        if len(tops) != 1 or not tops[0].is_dir():
            raise PrepareError(f"{archive.name} does not hold exactly one folder")
        # Renamed when complete: an interrupted run leaves nothing that looks finished.
        shutil.rmtree(target, ignore_errors=True)
        tops[0].rename(target)
    return target


def fetch(project: Project, folder: Path) -> Path:
    """Download one archive with pip into an empty folder.

    pip checks the hash before it looks inside. It then asks the project's build backend for
    metadata, in an environment of its own; pip has no way to leave that out.

    Raises:
        PrepareError: pip failed; its message is included.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{project.name}=={project.version} --hash=sha256:{project.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--require-hashes", "--no-binary", project.name]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        raise PrepareError(
            f"pip could not fetch {project.name} {project.version}: {result.stderr.strip()[-2000:]}"
        )
    return archives[0]


def prepare(into: Path = CACHE) -> list[Path]:
    """Fetch and unpack what is not there yet; return the folders.

    Raises:
        PrepareError: see `fetch` and `unpack`.
    """
    folders = []
    for project in load_projects():
        target = into / project.folder
        if not target.is_dir():
            with tempfile.TemporaryDirectory(prefix="sdist-") as download:
                unpack(fetch(project, Path(download)), project, into)
        folders.append(target)
    return folders


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--into", type=Path, default=CACHE, help="default: .cache/bench")
    arguments = parser.parse_args()
    try:
        folders = prepare(arguments.into)
    except PrepareError as error:
        print(f"benchmarks.prepare: {error}", file=sys.stderr)
        return 1
    for folder in folders:
        print(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
