"""The `lines:`, `spans:` and `random:` suites: random cursors in any Python files.

A mid-line cursor is drawn as in the model's own held-out test: a file, then one of its code
lines, then a column from the indentation to three characters before the end. The rest of that
line is taken out of the document and is the gold text. A span is one to six whole lines, of
which a blank line is left, as in the cases of `benchmarks.data`. A random span goes from any
character to any later one, as HumanEval-Infilling's do, whose lengths its own follow.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases import Case, line_policy, span_policy
from benchmarks.data import BenchmarkDataError

MIN_BYTES, MAX_BYTES = 800, 150_000
FIRST_LINE = 8
"""Lines above this one (0-based) hold licence headers and imports."""
MIN_CHARS = 6
DEFAULT_CURSORS = 1000
RANDOM_CHARACTERS = 55
"""Mean length of a random span, exponentially distributed: the deciles of HumanEval-Infilling's."""
SPAN_LINES, SPAN_CHARACTERS, SPAN_TOKENS = 6, 400, 128
"""At most: lines and characters of a span's gold text, tokens of its completion."""


def line_cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Draw `count` cursors; the same files, count and seed give the same cursors.

    Args:
        folder: Python files, unpacked packages or git repositories, bare ones included.
        count: number of cursors; the same line may be drawn twice, at another column.
        seed: of the draw.

    Raises:
        BenchmarkDataError: the folder is missing or holds no usable Python file.
    """
    files, generator = _usable_files(folder), random.Random(seed)
    return [_draw(generator, *generator.choice(files)) for _ in range(count)]


def span_cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Draw `count` spans of whole lines; arguments and errors as in `line_cases`."""
    files, generator = _usable_files(folder), random.Random(seed)
    return [_draw_span(generator, *generator.choice(files)) for _ in range(count)]


def random_cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Draw `count` spans between any two characters; arguments and errors as in `line_cases`."""
    files, generator = _usable_files(folder), random.Random(seed)
    return [_draw_random(generator, *generator.choice(files)) for _ in range(count)]


def _usable_files(folder: Path) -> list[tuple[str, list[str], list[int]]]:
    """Name, lines and usable lines' numbers of every file that has some."""
    if not folder.is_dir():
        raise BenchmarkDataError(f"{folder} is not a folder")
    files = [
        (name, text.split("\n"), lines)
        for name, text in python_files(folder)
        if (lines := usable_lines(text))
    ]
    if not files:
        raise BenchmarkDataError(f"no Python files of {MIN_BYTES} bytes and more under {folder}")
    return files


def _draw(generator: random.Random, name: str, lines: list[str], usable: list[int]) -> Case:
    number = generator.choice(usable)
    line = lines[number]
    indentation = len(line) - len(line.lstrip())
    column = generator.randint(indentation, len(line.rstrip()) - 3)
    before = "".join(f"{earlier}\n" for earlier in lines[:number]) + line[:column]
    after = "".join(f"\n{later}" for later in lines[number + 1 :])
    return Case(
        case_id=f"{name}:{number + 1}:{column + 1}",
        text=before + after,
        offset=len(before),
        gold=line[column:],
        cluster=name,
        decode=line_policy(),
    )


def _draw_span(generator: random.Random, name: str, lines: list[str], usable: list[int]) -> Case:
    first = generator.choice(usable)
    end = min(first + generator.randint(1, SPAN_LINES), len(lines))
    # Whole lines as far as they are few enough; the first one always, blank ones never at the end.
    while end > first + 1 and (
        not lines[end - 1].strip() or len("\n".join(lines[first:end])) > SPAN_CHARACTERS
    ):
        end -= 1
    before = "".join(f"{earlier}\n" for earlier in lines[:first])
    return Case(
        case_id=f"{name}:{first + 1}:{end}",
        text=before + "".join(f"\n{later}" for later in lines[end:]),
        offset=len(before),
        gold="\n".join(lines[first:end]),
        cluster=name,
        decode=span_policy(before, SPAN_TOKENS),
    )


def _draw_random(generator: random.Random, name: str, lines: list[str], usable: list[int]) -> Case:
    number = generator.choice(usable)
    text = "\n".join(lines)
    begin = sum(len(line) + 1 for line in lines[:number])
    begin += generator.randint(0, len(lines[number]))
    length = 1 + int(generator.expovariate(1 / RANDOM_CHARACTERS))
    end = min(begin + min(length, SPAN_CHARACTERS), len(text))
    return Case(
        case_id=f"{name}:{begin}:{end}",
        text=text[:begin] + text[end:],
        offset=begin,
        gold=text[begin:end],
        cluster=name,
        decode=span_policy(text[:begin], SPAN_TOKENS),
    )


def usable_lines(text: str) -> list[int]:
    """Return the numbers (0-based) of lines that a cursor may stand in."""
    return [
        number
        for number, line in enumerate(text.split("\n"))
        if number >= FIRST_LINE
        and len("".join(line.split())) >= MIN_CHARS
        and line.lstrip()[0] not in "#\"'"
    ]


def python_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of every Python file, in an order that no file system decides."""
    bare = sorted(path.parent for path in folder.rglob("HEAD") if _is_bare(path.parent))
    if _is_bare(folder):
        bare.insert(0, folder)
    found = {name: data for repository in dict.fromkeys(bare) for name, data in _git(repository)}
    for path in folder.rglob("*.py"):
        inner = path.relative_to(folder)
        # A link may lead out of the folder or twice to one file.
        if path.is_file() and not path.is_symlink() and not _hidden(inner):
            found[inner.as_posix()] = path.read_bytes()
    for name in sorted(found):
        data = found[name]
        if not MIN_BYTES <= len(data) <= MAX_BYTES:
            continue
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield name, text.replace("\r\n", "\n")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_bare(folder: Path) -> bool:
    return (
        folder.name != ".git"
        and (folder / "HEAD").is_file()
        and (folder / "objects").is_dir()
        and (folder / "refs").is_dir()
    )


def _git(repository: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the Python files of a bare repository's HEAD."""
    listing = _run_git(repository, "ls-tree", "-r", "-z", "HEAD").decode("utf-8", "replace")
    entries = []
    for entry in listing.split("\0"):
        meta, _, path = entry.partition("\t")
        if path.endswith(".py") and not _hidden(Path(path)) and not meta.startswith("120000"):
            entries.append((path, meta.split()[2]))
    wanted = "".join(f"{blob}\n" for _, blob in entries).encode()
    stream = _run_git(repository, "cat-file", "--batch", given=wanted)
    position = 0
    for path, _ in entries:
        end = stream.index(b"\n", position)
        size = int(stream[position:end].split()[2])
        yield f"{repository.name}/{path}", stream[end + 1 : end + 1 + size]
        position = end + 1 + size + 1


def _run_git(repository: Path, *arguments: str, given: bytes = b"") -> bytes:
    result = subprocess.run(
        ["git", "-C", str(repository), *arguments], input=given, capture_output=True, check=False
    )
    if result.returncode != 0:
        message = result.stderr.decode("utf-8", "replace").strip()
        raise BenchmarkDataError(f"cannot read the repository {repository}: {message}")
    return result.stdout
