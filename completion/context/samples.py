"""Training samples with the context that the server would place.

Usage: python -m completion.context.samples DIR [--count N] [--seed K] [--hard-for MODEL] > FILE

DIR is a workspace with Python files. One JSON object a line: `path`, `kind`, `prefix`, `suffix`,
`middle`, and `chunks`, the retrieved pieces in the order of the prompt, each with `path` and
`text`. A file's own text and its copies are not in the index that its samples are made with.

Half of the gaps stand where people type, half in the syntax tree (`completion.context.targets`);
with --hard-for, of the latter those that a model gets wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from completion.context.memory import MemoryIndex
from completion.context.provider import retrieve
from completion.context.retrievers import Query
from completion.context.targets import Kind, Miner, line_gap, syntax_gaps, typed_gap
from completion.context.view import without_copies
from completion.exclude import ExcludeRules
from completion.types import ContextPolicy, WindowPolicy
from models.errors import ModelError
from models.local import LocalBackend
from models.registry import find, load_manifest
from models.source_tree import Span
from models.tokenizer import Tokenizer

_MOST_BYTES = 150_000
_CHARACTERS_PER_TOKEN = 4
# What is written of a file: enough for the longest window, however long its tokens are.
_MOST_CHARACTERS_PER_TOKEN = 6
_TYPED = {Kind.LINE: 0.6, Kind.WORD: 0.2, Kind.BRACKET: 0.2}
_SYNTAX = 0.5
"""Share of the gaps that are nodes of the syntax tree."""
_TRIES = 8
"""Gaps that are tried for one that is hard; then the last is taken as it is."""


def read_files(folder: Path) -> dict[str, str]:
    """Python files by relative path; what is excluded, hidden, linked, long or no text is left out.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    rules = ExcludeRules()
    files = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or rules.reason(f"/{name}") or path.is_symlink() or not path.is_file():
            continue
        try:
            if path.stat().st_size <= _MOST_BYTES:
                text = path.read_bytes().decode("utf-8")
                files[name] = text.replace("\r\n", "\n").replace("\r", "\n")
        except (OSError, UnicodeDecodeError):
            continue
    return files


def samples(
    files: Mapping[str, str],
    tokenizer: Tokenizer,
    count: int,
    seed: int,
    miner: Miner | None = None,
) -> Iterator[dict[str, Any]]:
    """Draw `count` gaps, of the syntax tree's those that `miner` cannot fill; none without code.

    Raises:
        ModelError: the miner's model cannot be asked.
    """
    generator = random.Random(seed)
    usable = {
        path: numbers
        for path, text in files.items()
        if (numbers := [n for n, line in enumerate(text.split("\n")) if len(line.strip()) > 3])
    }
    index, paths = MemoryIndex(files), sorted(usable)
    nodes = {path: syntax_gaps(files[path]) for path in paths}
    for _ in range(count if paths else 0):
        drawn = None
        if generator.random() < _SYNTAX:
            drawn = _in_the_tree(generator, files, nodes, miner)
        path, kind, gap = drawn or _where_people_type(generator, files, usable)
        yield _sample(files, index, tokenizer, path, kind, gap)


def _in_the_tree(
    generator: random.Random,
    files: Mapping[str, str],
    nodes: Mapping[str, Mapping[Kind, Sequence[Span]]],
    miner: Miner | None,
) -> tuple[str, Kind, Span] | None:
    """A node that the miner cannot fill, or the last that was tried; None where none was found."""
    drawn = None
    for _ in range(_TRIES):
        path = generator.choice(list(nodes))
        if not nodes[path]:
            continue
        kind = generator.choice(list(nodes[path]))
        gap = generator.choice(nodes[path][kind])
        drawn = path, kind, gap
        if miner is None or miner.fails(files[path], gap):
            break
    return drawn


def _where_people_type(
    generator: random.Random, files: Mapping[str, str], usable: Mapping[str, Sequence[int]]
) -> tuple[str, Kind, Span]:
    path = generator.choice(sorted(usable))
    line = generator.choice(usable[path])
    (kind,) = generator.choices(list(_TYPED), list(_TYPED.values()))
    gap = typed_gap(files[path], line, kind, generator)
    if gap is None:  # no name or no brackets there
        return path, Kind.LINE, line_gap(files[path], line, generator)
    return path, kind, gap


def _sample(
    files: Mapping[str, str],
    index: MemoryIndex,
    tokenizer: Tokenizer,
    path: str,
    kind: Kind,
    gap: Span,
) -> dict[str, Any]:
    text, (begin, end) = files[path], gap
    prefix, middle, suffix = text[:begin], text[begin:end], text[end:]
    window = WindowPolicy()
    seen = window.rest_prefix_tokens * _CHARACTERS_PER_TOKEN
    shown = suffix[: window.suffix_tokens * _CHARACTERS_PER_TOKEN]
    found = retrieve(
        Query(path, prefix, shown, seen),
        without_copies(index, files, path),
        tokenizer,
        ContextPolicy().tokens,
    )
    prefix = prefix[-window.rest_prefix_tokens * _MOST_CHARACTERS_PER_TOKEN :]
    suffix = suffix[: window.suffix_tokens * _MOST_CHARACTERS_PER_TOKEN]
    chunks = [{"path": one.chunk.path, "text": one.chunk.text} for one in reversed(found.picked)]
    return {
        "path": path, "kind": kind, "prefix": prefix, "suffix": suffix, "middle": middle,
        "chunks": chunks,
    }  # fmt: skip


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a workspace")
    parser.add_argument("--count", type=int, default=1000, help="samples (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--hard-for", metavar="MODEL", help="a model's name or folder; snowcoder-88m is the shipped"
    )
    arguments = parser.parse_args(given)
    try:
        weights = find(None)
        tokenizer = Tokenizer.from_file(weights / load_manifest(weights).tokenizer)
        files = read_files(arguments.folder)
        miner = Miner(LocalBackend.load(find(arguments.hard_for))) if arguments.hard_for else None
        for sample in samples(files, tokenizer, arguments.count, arguments.seed, miner):
            print(json.dumps(sample, ensure_ascii=False))
    except (ModelError, NotADirectoryError) as error:
        print(f"completion.context.samples: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
