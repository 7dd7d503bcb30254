"""Held-out cursors in the middle of lines, for the probe and the export report.

python -m models.training.cursors MIRROR OWNER/NAME... --out cursors.jsonl [--count N]
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a line; `middle` is the rest of the line."""

    prefix: str
    middle: str
    suffix: str


def sample_cursors(texts: list[str], count: int, seed: int) -> list[Cursor]:
    """Random mid-line cursors; comment and string lines are left out."""
    rng = random.Random(seed)
    cursors: list[Cursor] = []
    while len(cursors) < count:
        text = rng.choice(texts)
        lines = text.split("\n")
        if len(text) < 800 or len(lines) < 12:
            continue
        index = rng.randrange(8, len(lines))
        line = lines[index]
        if len(line.strip()) < 6 or line.strip()[0] in "#\"'":
            continue
        column = rng.randint(len(line) - len(line.lstrip()), len(line) - 3)
        before = "\n".join(lines[:index]) + "\n" + line[:column]
        cursors.append(Cursor(before, line[column:], "\n" + "\n".join(lines[index + 1 :])))
    return cursors


def read_cursors(path: Path) -> list[Cursor]:
    """Cursors from JSON lines of {"prefix", "middle", "suffix"}."""
    return [Cursor(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    """Command line: write a cursor file from protected projects of a mirror."""
    parser = argparse.ArgumentParser(prog="python -m models.training.cursors")
    parser.add_argument("mirror", type=Path)
    parser.add_argument("repositories", nargs="+", help="owner/name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    # Only this command reads repositories; the trainer's machine needs none of it.
    from models.training.filters import clean
    from models.training.sources import find_repository, python_files, resolve

    texts = []
    for name in options.repositories:
        repository = find_repository(options.mirror, name)
        if repository is None:
            parser.error(f"{name} is not in {options.mirror}")
        for path, data in python_files(repository, resolve(repository)):
            if text := clean(path, data):
                texts.append(text)
    with options.out.open("w", encoding="utf-8") as out:
        for cursor in sample_cursors(texts, options.count, options.seed):
            row = {"prefix": cursor.prefix, "middle": cursor.middle, "suffix": cursor.suffix}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
