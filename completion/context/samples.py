"""Training samples with the context that the server would place.

Usage: python -m completion.context.samples DIR [--count N] [--seed K] > samples.jsonl

DIR is a workspace with Python files. One JSON object a line: `path`, `prefix`, `suffix`,
`middle`, and `chunks`, the retrieved pieces in the order of the prompt, each with `path` and
`text`. A file's own text and its copies are not in the index that its samples are made with.
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
from completion.context.view import without_copies
from completion.exclude import ExcludeRules
from completion.types import ContextPolicy, WindowPolicy
from models.errors import ModelError
from models.registry import find, load_manifest
from models.tokenizer import Tokenizer

_MOST_BYTES = 150_000
_CHARACTERS_PER_TOKEN = 4
# What is written of a file: enough for the longest window, however long its tokens are.
_MOST_CHARACTERS_PER_TOKEN = 6
_SEVERAL_LINES = 0.3
_MOST_LINES = 5


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
    files: Mapping[str, str], tokenizer: Tokenizer, count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Draw `count` cursors: a file, a line of it, a column; none where no file has code."""
    generator = random.Random(seed)
    lines = {path: text.split("\n") for path, text in files.items()}
    usable = {
        path: numbers
        for path, own in lines.items()
        if (numbers := [number for number, line in enumerate(own) if len(line.strip()) > 3])
    }
    index, paths = MemoryIndex(files), sorted(usable)
    for _ in range(count if paths else 0):
        path = generator.choice(paths)
        number = generator.choice(usable[path])
        yield _sample(generator, files, index, tokenizer, path, lines[path], number)


def _sample(
    generator: random.Random,
    files: Mapping[str, str],
    index: MemoryIndex,
    tokenizer: Tokenizer,
    path: str,
    lines: Sequence[str],
    number: int,
) -> dict[str, Any]:
    line = lines[number]
    column = generator.randint(len(line) - len(line.lstrip()), len(line.rstrip()) - 1)
    many = generator.random() < _SEVERAL_LINES
    end = number + (generator.randint(2, _MOST_LINES) if many else 1)
    prefix = "\n".join([*lines[:number], line[:column]])
    middle = "\n".join([line[column:], *lines[number + 1 : end]])
    suffix = "\n".join(["", *lines[end:]]) if end < len(lines) else ""
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
    return {"path": path, "prefix": prefix, "suffix": suffix, "middle": middle, "chunks": chunks}


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a workspace")
    parser.add_argument("--count", type=int, default=1000, help="samples (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    arguments = parser.parse_args(given)
    try:
        weights = find(None)
        tokenizer = Tokenizer.from_file(weights / load_manifest(weights).tokenizer)
        files = read_files(arguments.folder)
    except (ModelError, NotADirectoryError) as error:
        print(f"completion.context.samples: {error}", file=sys.stderr)
        return 1
    for sample in samples(files, tokenizer, arguments.count, arguments.seed):
        print(json.dumps(sample, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
