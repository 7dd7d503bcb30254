"""What the index of a large workspace costs: to build, to ask, and to bring up to date.

Usage: python -m benchmarks.index [WORKSPACE] [--lines N] [--queries N] [--saves N] [--json]

Without WORKSPACE, Python files of the interpreter's installed packages are copied until they have
N lines (a million by default). It is built by the process that the server starts, then the words
before random cursors are asked for and random files saved with an edit.

Keys: query_p50_ms, query_p95_ms (one search, as the BM25 retriever asks); index_seconds_per_mloc
(processor seconds of the builder for a million lines, so that other work on the machine does not
count) and index_wall_seconds_per_mloc; index_rss_mb (most memory of the builder); reindex_p50_ms,
reindex_p95_ms (from telling the builder of a saved file until readers see it); files, lines,
chunks, index_mb.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.data import BenchmarkDataError
from benchmarks.harness import parser, report
from benchmarks.stats import percentile
from completion.context.files import Files, Found, text_of
from completion.context.retrievers import Query
from completion.context.store import current, workspace_folder
from completion.context.stored import StoredIndex
from completion.context.words import terms
from lsp_server.indexing import builder_command

_QUERY_LINES, _LIMIT = 10, 20
"""As `completion.context.retrievers.bm25` asks."""
_SAVED = "\n\ndef saved_{number}(value):\n    return value + {number}\n"


def make_workspace(folder: Path, lines: int, source: Path) -> None:
    """Copy source files, whole packages in alphabetical order, until there are so many lines.

    Raises:
        BenchmarkDataError: there are fewer.
    """
    left = lines
    for package in sorted(path for path in source.iterdir() if path.is_dir()):
        files = Files(package, ())
        for found in sorted(files.walk(), key=lambda one: one.path):
            content = files.read(found)
            if content is None or not found.path.endswith(".py"):
                continue
            target = folder / package.name / found.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            left -= content.count(b"\n")
            if left <= 0:
                return
    raise BenchmarkDataError(f"{source} has only {lines - left} of {lines} lines")


class Builder:
    """The server's builder, and what it costs."""

    def __init__(self, root: Path, cache: Path) -> None:
        self._process = subprocess.Popen(
            builder_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._job = 0
        self._send({"job": 0, "root": str(root), "cache": str(cache), "exclude": []})

    def wait(self) -> None:
        """Until it has done what it was told.

        Raises:
            BenchmarkDataError: it has ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message["state"] == "ready" and message["job"] == self._job:
                return
        raise BenchmarkDataError("the builder has ended")

    def changed(self, path: str) -> None:
        """A file was saved; returns when readers see it."""
        self._job += 1
        self._send({"job": self._job, "changed": [path]})
        self.wait()

    def seconds(self) -> float:
        """Processor time used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def most_memory_mb(self) -> float:
        """The most it has held; what it holds now where the system does not say."""
        status = Path(f"/proc/{self._process.pid}/status")
        if status.is_file():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1000
        return float(psutil.Process(self._process.pid).memory_info().rss) / 1e6

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def query_times(
    index: StoredIndex, texts: Sequence[tuple[str, str]], count: int, chance: random.Random
) -> list[float]:
    """Milliseconds of searches at random cursors."""
    times = []
    for _ in range(count):
        path, text = chance.choice(texts)
        prefix = text[: chance.randrange(len(text))]
        wanted = terms(Query(path, prefix).last_lines(_QUERY_LINES))
        began = time.perf_counter()
        index.search(wanted, _LIMIT)
        times.append((time.perf_counter() - began) * 1000)
    return times


def save_times(
    builder: Builder, root: Path, files: Sequence[Found], count: int, chance: random.Random
) -> list[float]:
    """Milliseconds from the notice that a file was saved until its index is read."""
    times = []
    for number in range(count):
        path = root / chance.choice(files).path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        cut = chance.randrange(len(lines) + 1)
        edited = [*lines[:cut], *_SAVED.format(number=number).splitlines(), *lines[cut:]]
        path.write_text("\n".join(edited) + "\n", encoding="utf-8")
        began = time.perf_counter()
        builder.changed(path.relative_to(root).as_posix())
        times.append((time.perf_counter() - began) * 1000)
    return times


def measure(
    root: Path, cache: Path, *, queries: int, saves: int, seed: int, may_edit: bool
) -> dict[str, Any]:
    """Build, ask and edit.

    Raises:
        BenchmarkDataError: the builder failed, or there is nothing to index.
    """
    chance = random.Random(seed)
    files = Files(root, ())
    contents = ((found, files.read(found)) for found in files.walk())
    read = [(found, text_of(content)) for found, content in contents if content]
    lines = sum(text.count("\n") for _, text in read)
    if not lines:
        raise BenchmarkDataError(f"nothing to index in {root}")
    read.sort(key=lambda item: item[0].path)
    began = time.perf_counter()
    builder = Builder(root, cache)
    try:
        builder.wait()
        wall, used = time.perf_counter() - began, builder.seconds()
        folder = workspace_folder(cache, root)
        index = StoredIndex(folder)
        texts = [(found.path, text) for found, text in read]
        asked = query_times(index, texts, queries, chance)
        found = [one for one, _ in read]
        saved = save_times(builder, root, found, saves, chance) if may_edit else []
        # What was asked before the edits was in one piece; now it is in several.
        again = query_times(index, texts, queries, chance) if may_edit else []
        memory = builder.most_memory_mb()
    finally:
        builder.close()
    database = current(folder)
    chunks = sum(len(index.chunks(path)) for path, _ in texts)
    index.close()
    everything = asked + again
    return {
        "query_p50_ms": _quantile(everything, 0.5),
        "query_p95_ms": _quantile(everything, 0.95),
        "index_seconds_per_mloc": round(used / lines * 1e6, 1),
        "index_wall_seconds_per_mloc": round(wall / lines * 1e6, 1),
        "index_rss_mb": round(memory, 1),
        "reindex_p50_ms": _quantile(saved, 0.5),
        "reindex_p95_ms": _quantile(saved, 0.95),
        "files": len(read),
        "lines": lines,
        "chunks": chunks,
        "index_mb": round(database.stat().st_size / 1e6, 1) if database else None,
    }


def _quantile(times: Sequence[float], share: float) -> float | None:
    value = percentile(times, share)
    return None if value is None else round(value, 2)


@contextmanager
def _copy(workspace: Path | None, lines: int) -> Iterator[tuple[Path, Path]]:
    """The workspace, made or given, and a cache folder that is removed later."""
    with tempfile.TemporaryDirectory(prefix="snowcoder-bench-") as name:
        root = Path(name, "workspace")
        if workspace is None:
            make_workspace(root, lines, Path(np.__file__).parents[1])
        yield workspace or root, Path(name, "cache")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser(__doc__)
    options.add_argument(
        "workspace", type=Path, nargs="?", help="read only; nothing is saved there"
    )
    options.add_argument("--lines", type=int, default=1_000_000, help="of the made workspace")
    options.add_argument("--queries", type=int, default=500, help="before the saves, and after")
    options.add_argument("--saves", type=int, default=200, help="files saved with an edit")
    arguments = options.parse_args(given)
    try:
        with _copy(arguments.workspace, arguments.lines) as (root, cache):
            result = measure(
                root,
                cache,
                queries=arguments.queries,
                saves=arguments.saves,
                seed=arguments.seed,
                may_edit=arguments.workspace is None,
            )
    except BenchmarkDataError as error:
        print(f"benchmarks.index: {error}", file=sys.stderr)
        return 1
    report(result, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
