"""Cursors inside whole projects, with an index that knows nothing from the cursor on.

A cursor's own file is left out of the index (what stands above the cursor is in the query), and
so is every file that shares half of its lines: a copy would give the answer away.
"""

from __future__ import annotations

import ast
import builtins
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import BenchmarkDataError
from benchmarks.lines import python_files, usable_lines
from completion.context.memory import MemoryIndex
from completion.context.view import View, without_copies

_LEAST_NAME, _MOST_HOMES = 4, 5
"""Calls to shorter names, or names defined in more places, do not tell what they call."""
_BUILTIN = frozenset(dir(builtins)).union(
    *(dir(kind) for kind in (str, bytes, list, dict, set, tuple, int, float))
)


@dataclass(frozen=True, slots=True)
class Project:
    """Texts by path, and the index over all of them."""

    name: str
    files: dict[str, str]
    index: MemoryIndex


@dataclass(frozen=True, slots=True)
class Site:
    """A cursor: the rest of its line is the gold text."""

    project: Project
    path: str
    line: int
    column: int

    @property
    def parts(self) -> tuple[str, str, str]:
        """Text before the cursor, gold, text behind the line."""
        lines = self.project.files[self.path].split("\n")
        before = "\n".join([*lines[: self.line], lines[self.line][: self.column]])
        after = "\n".join(["", *lines[self.line + 1 :]])
        return before, lines[self.line][self.column :], after

    @property
    def cluster(self) -> str:
        """What cursors that are not independent have in common."""
        return f"{self.project.name}/{self.path}"

    def index(self) -> View:
        """The project's, without this file and its copies."""
        return without_copies(self.project.index, self.project.files, self.path)

    def find(self, uri: str) -> tuple[View, str]:
        """What a `ContextProvider` asks: this site's index and path, whatever the URI."""
        return self.index(), self.path


def load_projects(folder: Path) -> list[Project]:
    """Every folder in `folder` is a project.

    Raises:
        BenchmarkDataError: there is none.
    """
    if not folder.is_dir():
        raise BenchmarkDataError(f"{folder} is missing; run python -m benchmarks.prepare")
    loaded = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (files := dict(python_files(path))):
            loaded.append(Project(path.name, files, MemoryIndex(files)))
    if not loaded:
        raise BenchmarkDataError(f"no projects with Python files in {folder}")
    return loaded


def line_sites(projects: Sequence[Project], count: int, seed: int) -> list[Site]:
    """Random columns of random code lines, drawn as in `benchmarks.lines`."""
    generator = random.Random(seed)
    files = [
        (project, path, usable)
        for project in projects
        for path, text in project.files.items()
        if (usable := usable_lines(text))
    ]
    sites = []
    for _ in range(count):
        project, path, usable = generator.choice(files)
        number = generator.choice(usable)
        line = project.files[path].split("\n")[number]
        indentation = len(line) - len(line.lstrip())
        column = generator.randint(indentation, len(line.rstrip()) - 3)
        sites.append(Site(project, path, number, column))
    return sites


def api_sites(projects: Sequence[Project], count: int, seed: int) -> list[Site]:
    """Cursors before the name of a call to something that another file of the project defines."""
    generator = random.Random(seed)
    by_file = [
        found
        for project in projects
        for path in sorted(project.files)
        if (found := list(_calls(project, path)))
    ]
    if not by_file:
        return []
    return [generator.choice(generator.choice(by_file)) for _ in range(count)]


def _calls(project: Project, path: str) -> Iterator[Site]:
    text = project.files[path]
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines, usable = text.split("\n"), set(usable_lines(text))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        function = node.func
        name = function.id if isinstance(function, ast.Name) else function.attr
        number = (function.end_lineno or 0) - 1
        if number not in usable or len(name) < _LEAST_NAME or name in _BUILTIN:
            continue
        end = len(lines[number].encode()[: function.end_col_offset].decode("utf-8", "ignore"))
        homes = project.index.definitions(name, _MOST_HOMES + 1)
        known = 0 < len(homes) <= _MOST_HOMES and all(home.path != path for home in homes)
        if known and lines[number][end - len(name) : end] == name:
            yield Site(project, path, number, end - len(name))
