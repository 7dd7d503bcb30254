"""Draw the typing trace that `python -m benchmarks.latency` replays.

Usage: python -m benchmarks.make_trace > benchmarks/trace.jsonl

Run once; the result is committed so that measurements stay comparable. Needs the sources of
`python -m benchmarks.prepare`. Key intervals follow a log-normal distribution, as human ones
do (Dhakal et al., CHI 2018, 136 million keystrokes), with pauses for thought.
"""

from __future__ import annotations

import ast
import hashlib
import random
from pathlib import Path

from benchmarks.prepare import CACHE, load_projects
from benchmarks.trace import SPLIT, Glance, Place, keystrokes

SEED = 7
FILES_PER_PROJECT = 3
PLACES_PER_FILE = 3
MIN_KEYS, MAX_KEYS = 12, 34
"""A whole replay in real time has to stay under four minutes."""
MEDIAN_GAP_MS, GAP_SIGMA = 120.0, 0.45
MIN_GAP_MS, MAX_GAP_MS = 45, 1500
THOUGHT_SHARE, THOUGHT_MS = 0.03, (450, 1100)
PAUSE_MS = (500, 1300)
GLANCE_PAUSE_MS = (450, 900)
MIN_FILE_LINES, MAX_FILE_BYTES = 80, 60_000


def usable_files(folder: Path) -> list[Path]:
    """Return the sources a trace may point into: ASCII, of a human size, unix line endings."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        data = path.read_bytes()
        plain = data.isascii() and b"\r" not in data and b"\t" not in data
        if plain and data.count(b"\n") >= MIN_FILE_LINES and len(data) <= MAX_FILE_BYTES:
            found.append(path)
    return found


def statements(source: str) -> list[tuple[int, int]]:
    """Return line ranges (0-based, end exclusive) of one or two lines that a person types.

    Simple statements, with the header of the block they open where that is the line above;
    docstrings are left out.
    """
    lines = source.split("\n")
    ranges = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or _is_text(node):
            continue
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        taken = lines[start:end]
        if start < 8 or end - start > 2 or any(line != line.rstrip() for line in taken):
            continue
        if all(line.strip() for line in taken) and MIN_KEYS <= len(keystrokes(taken)) <= MAX_KEYS:
            ranges.append((start, end))
    return sorted(set(ranges))


def _is_text(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _apart(ranges: list[tuple[int, int]], generator: random.Random) -> list[tuple[int, int]]:
    """Draw places that do not touch, in random order: people do not work from top to bottom."""
    chosen: list[tuple[int, int]] = []
    for start, end in generator.sample(ranges, len(ranges)):
        if all(end + 3 < other[0] or start > other[1] + 3 for other in chosen):
            chosen.append((start, end))
        if len(chosen) == PLACES_PER_FILE:
            break
    return chosen


def _gap(generator: random.Random) -> int:
    gap = generator.lognormvariate(0, GAP_SIGMA) * MEDIAN_GAP_MS
    if generator.random() < THOUGHT_SHARE:
        gap += generator.uniform(*THOUGHT_MS)
    return round(min(max(gap, MIN_GAP_MS), MAX_GAP_MS))


def draw(generator: random.Random, project: str, folder: Path) -> list[Place]:
    """Draw the places of one project."""
    files = usable_files(folder)
    places: list[Place] = []
    while len(places) < FILES_PER_PROJECT * PLACES_PER_FILE:
        path = files.pop(generator.randrange(len(files)))
        source = path.read_text("utf-8")
        lines = source.split("\n")
        ranges = _apart(statements(source), generator)
        if len(ranges) < PLACES_PER_FILE:
            continue
        taken = {line for start, end in ranges for line in range(start, end)}
        elsewhere = [n for n, line in enumerate(lines) if line.strip() and n not in taken]
        for start, end in ranges:
            keys = len(keystrokes(lines[start:end]))
            glance = Glance(
                after=generator.randint(2, keys - 3),
                line=generator.choice(elsewhere),
                pause_ms=generator.randint(*GLANCE_PAUSE_MS),
                back_ms=generator.randint(*GLANCE_PAUSE_MS),
            )
            places.append(
                Place(
                    project=project,
                    file=path.relative_to(folder).as_posix(),
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    start=start,
                    end=end,
                    pause_ms=generator.randint(*PAUSE_MS),
                    gaps_ms=tuple(_gap(generator) for _ in range(keys)),
                    glance=glance,
                )
            )
    return places


def main() -> None:
    """Print the trace."""
    generator = random.Random(SEED)
    for project in load_projects():
        if project.split == SPLIT:
            for place in draw(generator, project.name, CACHE / project.folder):
                print(place.to_json())


if __name__ == "__main__":
    main()
