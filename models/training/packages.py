"""Lay source distributions out as git repositories, for the corpus.

    python -m models.training.packages MIRROR NAME[==VERSION]... [--index URL]

Several of the best-read Python projects are far larger in git than in a release. Each release
becomes `MIRROR/pypi+NAME==VERSION`: its Python and licence files in one commit with a fixed
author and date, so the same archive always has the same commit hash, and `sources.toml` pins a
release as it pins a repository. The archive's hash is checked against the index; nothing in it
is run, which `pip download` would do to ask for metadata. Index: PEP 503 with PEP 691 (JSON).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from models.training.sources import is_licence

INDEX = "https://pypi.org/simple/"
MAX_ARCHIVE_BYTES = 150_000_000
_TIMEOUT_S = 60
_ACCEPT = "application/vnd.pypi.simple.v1+json"
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "corpus"), ("EMAIL", "corpus@invalid"), ("DATE", "@0 +0000"))
}


class PackageError(Exception):
    """A release cannot be found, fetched or read."""


def choose(page: dict[str, Any], wanted: str | None) -> tuple[Version, dict[str, Any]]:
    """The newest (or the wanted) release's source archive, else its pure wheel.

    Args:
        page: an index's JSON of one project.
        wanted: version, or None for the newest that is no pre-release.

    Raises:
        PackageError: no such release, or none that holds Python source.
    """
    found: list[tuple[Version, bool, dict[str, Any]]] = []
    for file in page["files"]:
        name = str(file["filename"])
        try:
            if name.endswith(".tar.gz"):
                version = parse_sdist_filename(name)[1]
            elif name.endswith(".whl"):
                version = parse_wheel_filename(name)[1]
            else:
                continue
        except (InvalidSdistFilename, InvalidWheelFilename):
            continue
        fits = str(version) == wanted if wanted else not version.is_prerelease
        if fits and not file.get("yanked"):
            found.append((version, name.endswith(".tar.gz"), file))
    if not found:
        raise PackageError(f"{page['name']}: no release {wanted or ''} with source".rstrip())
    version, _, file = max(found, key=lambda row: row[:2])
    return version, file


def read_archive(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of the Python and licence files, the archive's top folder left out.

    A wheel's licences move to the root, where a repository has them.

    Raises:
        PackageError: not an archive.
    """
    try:
        if name.endswith(".whl"):
            with zipfile.ZipFile(io.BytesIO(data)) as wheel:
                for entry in wheel.infolist():
                    path = PurePosixPath(entry.filename)
                    if path.parts[0].endswith(".dist-info"):
                        path = PurePosixPath(path.name)
                    if _wanted(path) and not entry.is_dir():
                        yield str(path), wheel.read(entry)
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
                    stream = tar.extractfile(member) if member.isreg() else None
                    if stream and _wanted(path):
                        yield str(path), stream.read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise PackageError(f"{name}: not an archive: {error}") from error


def _wanted(path: PurePosixPath) -> bool:
    inside = not path.is_absolute() and ".." not in path.parts and ".git" not in path.parts
    return inside and bool(path.name) and (path.suffix == ".py" or is_licence(str(path)))


def lay_out(mirror: Path, name: str, files: Iterator[tuple[str, bytes]]) -> str:
    """Commit the files as `mirror/pypi+name`; returns the commit hash.

    Raises:
        PackageError: git failed.
    """
    target = mirror / f"pypi+{name}"
    with tempfile.TemporaryDirectory(dir=mirror, prefix=".package-") as staging:
        folder = Path(staging) / "tree"
        folder.mkdir()
        for path, data in files:
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        message = f"{name} as released"
        commands = (
            ("init", "-q", "-b", "main"),
            ("add", "-A", "-f"),
            ("commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", message),
            ("rev-parse", "HEAD"),
        )
        out = ""
        for command in commands:
            run = subprocess.run(
                ["git", "-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null", *command],
                cwd=folder, env={**os.environ, **_AUTHOR}, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            if run.returncode:
                raise PackageError(f"{name}: git {command[0]}: {run.stderr.strip()}")
            out = run.stdout.strip()
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        # The git directory alone is what the corpus reads.
        (folder / ".git").rename(target / "repo")
    return out


def fetch(mirror: Path, requirement: str, index: str = INDEX) -> str:
    """Bring one release into the mirror; returns `NAME==VERSION commit`.

    Raises:
        PackageError: see the message.
    """
    name, _, version = requirement.partition("==")
    name = canonicalize_name(name)
    url = urljoin(index, f"{name}/")
    page = json.loads(_get(url, _ACCEPT))
    release, file = choose(page, version or None)
    if file.get("size", 0) > MAX_ARCHIVE_BYTES:
        raise PackageError(f"{name}: {file['filename']} has {file['size']} bytes")
    data = _get(urljoin(url, re.sub(r"#.*", "", file["url"])))
    if hashlib.sha256(data).hexdigest() != file["hashes"].get("sha256"):
        raise PackageError(f"{name}: {file['filename']} is not what the index says")
    pinned = f"{name}=={release}"
    return f"{pinned} {lay_out(mirror, pinned, read_archive(file['filename'], data))}"


def _get(url: str, accept: str = "*/*") -> bytes:
    try:
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, OSError) as error:
        raise PackageError(f"{url}: {error}") from error


def main(arguments: list[str] | None = None) -> None:
    """Command line; a release that cannot be had is named and left out."""
    parser = argparse.ArgumentParser(prog="python -m models.training.packages")
    parser.add_argument("mirror", type=Path, help="folder of git repositories")
    parser.add_argument("packages", nargs="+", help="NAME or NAME==VERSION")
    parser.add_argument("--index", default=INDEX, help="a package index with the JSON interface")
    options = parser.parse_args(arguments)
    options.mirror.mkdir(parents=True, exist_ok=True)

    def one(requirement: str) -> str:
        try:
            return fetch(options.mirror, requirement, options.index)
        except PackageError as error:
            return f"left out {requirement}: {error}"

    with ThreadPoolExecutor(4) as pool:
        for line in pool.map(one, options.packages):
            print(line, flush=True)


if __name__ == "__main__":
    main()
