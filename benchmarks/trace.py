"""The typing trace: where and when a person types, without the text.

`trace.jsonl` names lines of the pinned validation projects. A replay opens the file with
those lines taken out and types them again, so no foreign code is kept here. One JSON object
per place, in the order of the visits; consecutive places in one file are one session.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.prepare import CACHE, load_projects

TRACE_FILE = Path(__file__).with_name("trace.jsonl")
SPLIT = "validation"


class TraceError(Exception):
    """The trace or the sources that it points into are not what they should be."""


@dataclass(frozen=True, slots=True)
class Glance:
    """A look at another line of the file in the middle of typing, and back.

    Attributes:
        after: number of keystrokes before it.
        line: line of the whole file (0-based) to whose end the cursor goes.
        pause_ms: how long it stays there.
        back_ms: time before the next key, once it is back.
    """

    after: int
    line: int
    pause_ms: int
    back_ms: int


@dataclass(frozen=True, slots=True)
class Place:
    """One stretch of typing.

    Attributes:
        project: name in `projects.toml`.
        file: path inside the project's source distribution.
        sha256: of the file.
        start, end: lines (0-based, end exclusive) that are taken out and typed.
        pause_ms: time before the first key, after the cursor came here.
        gaps_ms: time after each key, before whatever comes next.
        glance: a look elsewhere meanwhile.
    """

    project: str
    file: str
    sha256: str
    start: int
    end: int
    pause_ms: int
    gaps_ms: tuple[int, ...]
    glance: Glance

    def to_json(self) -> str:
        """Return the line of `trace.jsonl`."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Place:
        """Read a line of `trace.jsonl`.

        Raises:
            TraceError: it is not one.
        """
        try:
            fields: dict[str, Any] = json.loads(line)
            glance = Glance(**fields.pop("glance"))
            gaps = tuple(fields.pop("gaps_ms"))
            return cls(**fields, gaps_ms=gaps, glance=glance)
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(f"not a place of a trace: {line[:80]!r} ({error})") from error


@dataclass(frozen=True, slots=True)
class Session:
    """The places visited in one file, and the whole file's lines."""

    name: str
    lines: tuple[str, ...]
    places: tuple[Place, ...]


def load_trace(path: Path = TRACE_FILE) -> list[Place]:
    """Read a trace.

    Raises:
        TraceError: a line is malformed.
    """
    return [Place.from_json(line) for line in path.read_text("utf-8").splitlines() if line]


def keystrokes(lines: Sequence[str]) -> list[str]:
    """Return what each key inserts: the line break with its indentation, then each character."""
    keys = []
    for line in lines:
        content = line.lstrip()
        keys.append("\n" + line[: len(line) - len(content)])
        keys.extend(content)
    return keys


def jump_share(places: Sequence[Place]) -> float:
    """Return the share of requests that follow an opened file or a cursor jump.

    Every place is reached by one, its glance is two more (there and back). Counted without
    accepted suggestions, which only make the other requests fewer.
    """
    jumps = 3 * len(places)
    return jumps / (jumps + sum(len(place.gaps_ms) for place in places))


def sessions(places: Sequence[Place], sources: Path = CACHE) -> Iterator[Session]:
    """Group a trace by file and read the sources it points into.

    Raises:
        TraceError: a file is missing, is another one than the trace was made from, or a
            place does not fit it.
    """
    folders = {project.name: project.folder for project in load_projects()}
    for (project, file), group in groupby(places, lambda place: (place.project, place.file)):
        visited = tuple(group)
        if project not in folders:
            raise TraceError(f"{project} is not in projects.toml")
        path = sources / folders[project] / file
        if not path.is_file():
            raise TraceError(f"{path} is missing; run python -m benchmarks.prepare")
        data = path.read_bytes()
        lines = tuple(data.decode("utf-8").split("\n"))
        for place in visited:
            if hashlib.sha256(data).hexdigest() != place.sha256:
                raise TraceError(f"{path} is not the file that the trace was made from")
            if len(keystrokes(lines[place.start : place.end])) != len(place.gaps_ms):
                raise TraceError(f"{path}:{place.start + 1} does not have one gap per key")
        yield Session(f"{project}/{file}", lines, visited)
