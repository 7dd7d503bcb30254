"""Build the training corpus from a folder of git repositories.

    python -m models.training.corpus scan MIRROR       # bring sources.toml up to a mirror
    python -m models.training.corpus build MIRROR OUT [--benchmarks DIR]
    python -m models.training.corpus unpack OUT FOLDER # one folder of files a repository

`scan` lists every repository whose licence is permissive, with its commit; what the mirror
does not hold stays listed, since a corpus grows over several mirrors. `build`
reads exactly those commits, so anyone with the same repositories gets the same corpus:
zstd-compressed JSON lines of {"repo", "path", "text"}, grouped by repository, split into
shards, and `report.json` with what was kept, and what was dropped by which rule. `unpack`
lays the kept files out again, for `completion.context.samples`, which reads folders.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.training.dedup import NearDuplicates, Protected, Shingles, shingles
from models.training.filters import clean
from models.training.shards import Document, read_shards, write_shards
from models.training.sources import (
    SOURCES,
    Manifest,
    Source,
    SourceError,
    find_repository,
    licences,
    list_repositories,
    load_manifest,
    python_files,
    resolve,
)

REPOSITORY_CAP = 16_000_000
"""At most this many bytes of one repository, files chosen at random (seeded by its name)."""
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cleaned file with its shingles."""

    path: str
    text: str
    shingles: Shingles


def scan(mirror: Path, manifest: Manifest) -> tuple[list[Source], dict[str, str]]:
    """Permissive repositories of a mirror, and why each other one was refused."""
    kept, refused = [], {}
    for name in list_repositories(mirror):
        repository = find_repository(mirror, name)
        if repository is None or name in manifest.protected:
            refused[name] = "protected"
            continue
        try:
            commit = resolve(repository)
            spdx, _ = licences(repository, commit)
        except SourceError as error:
            refused[name] = str(error)
            continue
        if spdx is None:
            refused[name] = "licence not recognised as permissive"
        else:
            kept.append(Source(name, commit, spdx))
    return kept, refused


def write_sources(path: Path, sources: Iterable[Source]) -> None:
    """Replace the `[[repository]]` tables of the manifest; what stands above stays."""
    head = path.read_text(encoding="utf-8").split("[[repository]]")[0].rstrip() + "\n"
    tables = [
        f'\n[[repository]]\nname = "{s.name}"\ncommit = "{s.commit}"\nspdx = "{s.spdx}"\n'
        for s in sources
    ]
    path.write_text(head + "".join(tables), encoding="utf-8")


def _read_repository(mirror: Path, source: Source) -> tuple[str, list[Candidate], Counter[str]]:
    """Clean, cap and shingle one repository's files. Runs in a worker process."""
    dropped: Counter[str] = Counter()
    repository = find_repository(mirror, source.name)
    if repository is None:
        return source.name, [], Counter({"repository missing": 1})
    texts = []
    try:
        _, closed = licences(repository, source.commit)
        for path, data in python_files(repository, source.commit, closed):
            text = clean(path, data)
            if text is None:
                dropped["filter"] += 1
            else:
                texts.append((path, text))
    except SourceError as error:  # one broken copy among thousands does not stop a build
        print(f"left out {source.name}: {error}", file=sys.stderr, flush=True)
        return source.name, [], Counter({"repository broken": 1})
    random.Random(source.name).shuffle(texts)
    kept, size = [], 0
    for path, text in texts:
        size += len(text.encode())
        if size > REPOSITORY_CAP:
            dropped["repository cap"] += 1
        else:
            kept.append(Candidate(path, text, shingles(text)))
    return source.name, kept, dropped


def _protected_projects(mirror: Path, manifest: Manifest) -> Iterator[str]:
    for name in manifest.protected:
        repository = find_repository(mirror, name)
        if repository is None:
            raise SourceError(f"{name} must be in the mirror: training text is checked against it")
        for path, data in python_files(repository, resolve(repository)):
            text = clean(path, data)
            if text is not None:
                yield text


def benchmark_texts(directory: Path) -> set[str]:
    """Each problem once, as its whole text; infilling variants of one problem coincide."""
    texts = set()
    for path in sorted(directory.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if "canonical_solution" in row:
                    texts.add(row["prompt"] + row["canonical_solution"] + row["suffix"])
                else:
                    texts.add(row["prompt"] + "\n" + row["ground_truth"])
    if not texts:
        raise SourceError(f"{directory}: no benchmark data to keep out of the corpus")
    return texts


def documents(
    mirror: Path, manifest: Manifest, benchmarks: Path, workers: int, dropped: Counter[str]
) -> Iterator[Document]:
    """Kept files, repository by repository in manifest order."""
    protected = Protected(benchmark_texts(benchmarks), _protected_projects(mirror, manifest))
    near = NearDuplicates()
    exact: set[bytes] = set()
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_read_repository, mirror, source) for source in manifest.repositories]
        for index, job in enumerate(jobs):
            name, candidates, counts = job.result()
            jobs[index] = None  # type: ignore[call-overload]  # free the texts as we go
            dropped.update(counts)
            for candidate in candidates:
                digest = hashlib.blake2b(_SPACE.sub("", candidate.text).encode()).digest()
                if digest in exact:
                    dropped["exact duplicate"] += 1
                    continue
                exact.add(digest)
                if reason := protected.matches(candidate.shingles):
                    dropped[f"protected: {reason}"] += 1
                elif near.seen(candidate.shingles):
                    dropped["near-duplicate"] += 1
                else:
                    yield {"repo": name, "path": candidate.path, "text": candidate.text}


def unpack(corpus: Path, out: Path) -> int:
    """Write the files of a corpus below `out/owner+name`; returns how many.

    Raises:
        SourceError: the corpus has no shards, or a path in it leads out of its folder.
    """
    shards = sorted(corpus.glob("shard-*.jsonl.zst"))
    if not shards:
        raise SourceError(f"{corpus}: no shards")
    count = 0
    for document in read_shards(shards):
        folder = (out / document["repo"].replace("/", "+")).resolve()
        path = (folder / document["path"]).resolve()
        if folder not in path.parents:
            raise SourceError(f"{document['repo']}: {document['path']} leads out of its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document["text"], encoding="utf-8")
        count += 1
    return count


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.corpus")
    commands = parser.add_subparsers(dest="command", required=True)
    scan_parser = commands.add_parser("scan", help="bring the manifest up to a mirror")
    build_parser = commands.add_parser("build", help="write the corpus shards")
    for sub in (scan_parser, build_parser):
        sub.add_argument("mirror", type=Path, help="folder of git repositories")
        sub.add_argument("--sources", type=Path, default=SOURCES, help="manifest to use")
    build_parser.add_argument("out", type=Path, help="folder for shards and report.json")
    build_parser.add_argument("--benchmarks", type=Path, default=Path("../shared/benchmarks"))
    build_parser.add_argument("--workers", type=int, default=2)
    unpack_parser = commands.add_parser("unpack", help="write a corpus out as files")
    unpack_parser.add_argument("corpus", type=Path, help="folder of shards")
    unpack_parser.add_argument("out", type=Path, help="folder for the repositories")
    options = parser.parse_args(arguments)
    if options.command == "unpack":
        print(f"{unpack(options.corpus, options.out)} files in {options.out}")
        return
    manifest = load_manifest(options.sources)
    if options.command == "scan":
        kept, refused = scan(options.mirror, manifest)
        seen = {source.name for source in kept} | refused.keys()
        kept += [source for source in manifest.repositories if source.name not in seen]
        write_sources(options.sources, sorted(kept, key=lambda source: source.name))
        for name, reason in refused.items():
            print(f"refused {name}: {reason}")
        print(f"{len(kept)} repositories in {options.sources}")
        return
    dropped: Counter[str] = Counter()
    rows = documents(options.mirror, manifest, options.benchmarks, options.workers, dropped)
    repositories = write_shards(rows, options.out)
    report = {
        "repositories": len(repositories),
        "files": sum(int(str(r["files"])) for r in repositories),
        "bytes": sum(int(str(r["bytes"])) for r in repositories),
        "dropped_files": dict(dropped),
        "kept": repositories,
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "kept"}))


if __name__ == "__main__":
    main()
