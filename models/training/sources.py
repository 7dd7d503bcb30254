"""The manifest of training repositories and reading them from git directories.

A *mirror* is any folder of git repositories, bare or not, laid out as
`owner+name/repo`, `owner+name`, `owner/name` or `owner/name.git`.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.training.licences import detect_spdx

SOURCES = Path(__file__).with_name("sources.toml")
MAX_FILE_BYTES = 150_000
_LICENCE_STEMS = ("license", "licence", "copying", "unlicense")


class SourceError(Exception):
    """A repository cannot be read or the manifest is malformed."""


@dataclass(frozen=True, slots=True)
class Source:
    """One training repository: where it stands and under which licence."""

    name: str
    commit: str
    spdx: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Training repositories and the projects that must never be trained on."""

    repositories: tuple[Source, ...]
    protected: tuple[str, ...]


def load_manifest(path: Path = SOURCES) -> Manifest:
    """Read `sources.toml`.

    Raises:
        SourceError: missing keys or not TOML.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        splits = data["splits"]
        return Manifest(
            tuple(Source(r["name"], r["commit"], r["spdx"]) for r in data.get("repository", [])),
            tuple(splits["tuning"] + splits["validation"] + splits["reserved"]),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: not a source manifest: {error}") from error


def quality_repositories(path: Path = SOURCES) -> tuple[str, ...]:
    """Repositories whose files teach the quality annotator what is good.

    Raises:
        SourceError: the manifest has no `[quality]` table, or is not TOML.
    """
    try:
        positives = tomllib.loads(path.read_text(encoding="utf-8"))["quality"]["positive"]
        return tuple(str(name) for name in positives)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: no [quality] table: {error}") from error


def find_repository(mirror: Path, name: str) -> Path | None:
    """Git directory (or work tree) of `owner/name` in the mirror, or None."""
    flat = name.replace("/", "+")
    for candidate in (f"{flat}/repo", flat, name, f"{name}.git", f"{flat}.git"):
        path = mirror / candidate
        if (path / "HEAD").exists() or (path / ".git").exists():
            return path
    return None


def list_repositories(mirror: Path) -> list[str]:
    """`owner/name` of every repository in the mirror, sorted."""
    names = set()
    for entry in sorted(mirror.iterdir()):
        if "+" in entry.name:
            names.add(entry.name.removesuffix(".git").replace("+", "/", 1))
        elif entry.is_dir():
            names |= {
                f"{entry.name}/{child.name.removesuffix('.git')}" for child in entry.iterdir()
            }
    return sorted(name for name in names if find_repository(mirror, name))


def _git(repository: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    run = subprocess.run(
        ["git", "-C", str(repository), *arguments], input=stdin, capture_output=True, check=False
    )
    if run.returncode:
        message = run.stderr.decode(errors="replace").strip()
        raise SourceError(f"git {arguments[0]} in {repository.name}: {message}")
    return run.stdout


def resolve(repository: Path, revision: str = "HEAD") -> str:
    """Full commit hash of a revision."""
    return _git(repository, "rev-parse", f"{revision}^{{commit}}").decode().strip()


def _tree(repository: Path, commit: str) -> list[tuple[str, str, int]]:
    """(path, blob, bytes) of every file of a commit."""
    out = []
    for row in (
        _git(repository, "ls-tree", "-r", "-l", "-z", commit).decode(errors="replace").split("\0")
    ):
        meta, _, path = row.partition("\t")
        fields = meta.split()
        if len(fields) == 4 and fields[1] == "blob" and fields[3].isdigit():
            out.append((path, fields[2], int(fields[3])))
    return out


def _blobs(repository: Path, blobs: list[str]) -> Iterator[bytes | None]:
    """Contents of the blobs in order; None where the store lacks one."""
    out = _git(repository, "cat-file", "--batch", stdin="\n".join(blobs).encode() + b"\n")
    at = 0
    for _ in blobs:
        end = out.index(b"\n", at)
        header = out[at:end].split()
        if header[-1] == b"missing":
            at = end + 1
            yield None
            continue
        size = int(header[2])
        yield out[end + 1 : end + 1 + size]
        at = end + 2 + size


def is_licence(path: str) -> bool:
    """Whether a file is named as licences are."""
    return PurePosixPath(path).name.lower().startswith(_LICENCE_STEMS)


def licences(repository: Path, commit: str) -> tuple[str | None, list[str]]:
    """SPDX id of the repository and the folders whose own licence is not permissive.

    Several licence files at the root count as a choice (dual licence).
    """
    found = [(p, b) for p, b, size in _tree(repository, commit) if is_licence(p) and size < 200_000]
    root: str | None = None
    closed: list[str] = []
    for (path, _), data in zip(found, _blobs(repository, [b for _, b in found]), strict=True):
        parent = str(PurePosixPath(path).parent)
        spdx = detect_spdx((data or b"").decode(errors="replace"))
        if parent == ".":
            root = root or spdx
        elif path.endswith(".py"):
            continue
        elif spdx is None:
            closed.append(parent + "/")
    return root, closed


def python_files(
    repository: Path, commit: str, closed: list[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of the Python files of a commit, 200 B to 150 KB.

    Folders in `closed` (prefixes ending in "/") are left out.
    """
    skip = tuple(closed or ())
    rows = [
        (path, blob)
        for path, blob, size in _tree(repository, commit)
        if path.endswith(".py")
        and 200 <= size <= MAX_FILE_BYTES
        and not (skip and path.startswith(skip))
    ]
    for (path, _), data in zip(rows, _blobs(repository, [blob for _, blob in rows]), strict=True):
        if data is not None:
            yield path, data
