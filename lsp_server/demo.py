"""`snowcoder try`: somebody types into a real file and the real engine suggests.

A few lines of the file are deleted and typed again, one key at a time. After every key the
engine is asked, as an editor would; what it suggests and how long it took is what is shown.
The typist takes a suggestion that is right (it knows the line that it deleted) and types on
through any other.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from completion.types import (
    CompletionRequest,
    DecodePolicy,
    Outcome,
    Policies,
    Source,
    Suggestion,
)
from lsp_server.session import Engine

PLACES = 6
_MIN_VISIBLE_CHARACTERS = 18
_MIN_ACCEPTED_CHARACTERS = 4
_KEY_SECONDS = (0.04, 0.11)
_READ_SECONDS = 0.45
_PAUSE_SECONDS = 0.6
# No line is begun after this many seconds, however slow the machine.
_BUDGET_SECONDS = 22.0
_VISIBLE_LINES = 8
_TAB_SIZE = 4
_URI = "try:"
# A slow answer is worth seeing here; an editor would have given up earlier.
_POLICIES = Policies(decode=DecodePolicy(deadline_ms=2000.0))


@dataclass(frozen=True, slots=True)
class Place:
    """A line to delete and type again: `text[start:end]`, indentation and line break excluded."""

    start: int
    end: int


class Step(StrEnum):
    """What the typist just did."""

    TYPED = "typed"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Frame:
    """The editor after one step.

    Attributes:
        step: what the typist did.
        text: the document.
        offset: the cursor in it.
        outcome: what the engine said; None right after a suggestion was accepted.
        accepted: characters that the accepted suggestion added.
    """

    step: Step
    text: str
    offset: int
    outcome: Outcome | None = None
    accepted: int = 0

    @property
    def ghost(self) -> str:
        """The suggested text, empty for none."""
        return self.outcome.insert if isinstance(self.outcome, Suggestion) else ""


@dataclass(slots=True)
class Tally:
    """What a session amounted to; times in milliseconds."""

    lines: int = 0
    characters: int = 0
    accepted: int = 0
    accepted_characters: int = 0
    shown: int = 0
    all_ms: list[float] = field(default_factory=list)
    model_ms: list[float] = field(default_factory=list)

    def count(self, frame: Frame) -> None:
        """Add one step."""
        if frame.step is Step.ACCEPTED:
            self.accepted += 1
            self.accepted_characters += frame.accepted
        if frame.outcome is None:
            return
        self.shown += bool(frame.ghost)
        self.all_ms.append(frame.outcome.record.total_ms)
        if frame.outcome.record.source is Source.MODEL:
            self.model_ms.append(frame.outcome.record.total_ms)

    def table(self) -> Table:
        """The summary at the end."""
        table = Table(title="What happened", show_header=False, title_justify="left")
        table.add_column(style="dim")
        table.add_column(justify="right")
        share = self.accepted_characters / self.characters if self.characters else 0.0
        table.add_row("lines typed", str(self.lines))
        table.add_row("requests (one after every key)", str(len(self.all_ms)))
        table.add_row("requests that ran the model", str(len(self.model_ms)))
        table.add_row("requests with a suggestion", str(self.shown))
        table.add_row("median latency, model ran", _median(self.model_ms))
        table.add_row("median latency, all requests", _median(self.all_ms))
        table.add_row("suggestions accepted", str(self.accepted))
        completed = f"{self.accepted_characters} of {self.characters} characters ({share:.0%})"
        table.add_row("text completed", completed)
        return table


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ms" if values else "none"


def choose_places(text: str, count: int = PLACES) -> list[Place]:
    """Up to `count` lines worth typing, spread evenly over `text`."""
    places, start = list[Place](), 0
    for line in text.splitlines(keepends=True):
        content = line.strip()
        if len(content) >= _MIN_VISIBLE_CHARACTERS and not content.startswith(("#", '"', "'")):
            begin = start + line.index(content)
            places.append(Place(begin, begin + len(content)))
        start += len(line)
    # The first lines have nothing before them to learn from.
    places = places[len(places) // 4 :]
    step = max(1.0, len(places) / count)
    return [places[int(index * step)] for index in range(min(count, len(places)))]


def retype(engine: Engine, text: str, place: Place, language: str = "python") -> Iterator[Frame]:
    """Delete the line at `place` and type it again; one frame per key and per acceptance."""
    head, line, tail = text[: place.start], text[place.start : place.end], text[place.end :]
    typed = 0
    while typed < len(line):
        document, offset = head + line[:typed] + tail, place.start + typed
        request = CompletionRequest(
            document, offset, uri=_URI, language=language, policies=_POLICIES
        )
        outcome = engine.complete(request)
        frame = Frame(Step.TYPED, document, offset, outcome)
        yield frame
        if isinstance(outcome, Suggestion) and _right(frame.ghost, line[typed:]):
            engine.accepted(outcome.suggestion_id)
            typed += len(frame.ghost)
            document, offset = head + line[:typed] + tail, place.start + typed
            yield Frame(Step.ACCEPTED, document, offset, accepted=len(frame.ghost))
        else:
            typed += 1


def _right(ghost: str, rest: str) -> bool:
    """Whether the typist takes `ghost`, with `rest` of the line to go."""
    return len(ghost) >= _MIN_ACCEPTED_CHARACTERS and rest.startswith(ghost)


def play(
    engine: Engine,
    text: str,
    console: Console,
    *,
    name: str,
    language: str = "python",
    live: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Tally:
    """Type several lines of `text` and draw what happens.

    Args:
        engine: suggests.
        text: the file.
        console: where to draw.
        name: the file's name, for the title.
        language: LSP language id.
        live: redraw in place at a human pace; otherwise one line per suggestion, unpaced.
        sleep: waits so many seconds.
    """
    places = choose_places(text)
    tally = Tally()
    began = time.monotonic()
    draw = _play_live if live else _play_plain
    for place in places:
        if time.monotonic() - began > _BUDGET_SECONDS:
            break
        tally.lines += 1
        tally.characters += place.end - place.start
        draw(_counted(retype(engine, text, place, language), tally), console, name, sleep)
    engine.forget(_URI)
    console.print(tally.table())
    return tally


def _counted(frames: Iterator[Frame], tally: Tally) -> Iterator[Frame]:
    for frame in frames:
        tally.count(frame)
        yield frame


def _play_live(
    frames: Iterator[Frame], console: Console, name: str, sleep: Callable[[float], None]
) -> None:
    rhythm = random.Random(0)
    shown = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for frame in frames:
            live.update(_screen(frame, name), refresh=True)
            if frame.step is Step.ACCEPTED:
                sleep(_PAUSE_SECONDS)
            else:
                # A new suggestion takes a moment to read.
                fresh = bool(frame.ghost) and not shown.endswith(frame.ghost)
                sleep(_READ_SECONDS if fresh else rhythm.uniform(*_KEY_SECONDS))
            shown = frame.ghost


def _play_plain(
    frames: Iterator[Frame], console: Console, name: str, sleep: Callable[[float], None]
) -> None:
    console.print()
    for frame in frames:
        left, _, number = _line(frame)
        if frame.step is Step.ACCEPTED:
            console.print(
                f"{'accepted':>22}  {left}", markup=False, highlight=False, soft_wrap=True
            )
        elif frame.ghost and frame.outcome and frame.outcome.record.source is Source.MODEL:
            latency = f"{frame.outcome.record.total_ms:.0f} ms"
            console.print(
                f"{name}:{number}".rjust(14) + f"{latency:>8}  {left}│{frame.ghost}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _line(frame: Frame) -> tuple[str, str, int]:
    """The cursor's line left and right of the cursor, and its number from 1."""
    start = frame.text.rfind("\n", 0, frame.offset) + 1
    right = frame.text[frame.offset :].partition("\n")[0]
    return frame.text[start : frame.offset], right, frame.text.count("\n", 0, start) + 1


def _screen(frame: Frame, name: str) -> Panel:
    """The lines around the cursor, ghost text dimmed, and a line about the latest answer."""
    _, _, number = _line(frame)
    lines = frame.text.split("\n")
    first = max(0, number - 1 - _VISIBLE_LINES)
    last = min(len(lines), number + _VISIBLE_LINES)
    rows = list[Text]()
    offset = sum(len(line) + 1 for line in lines[:first])
    for index in range(first, last):
        line = lines[index]
        row = Syntax("", "python", theme="ansi_dark").highlight(line.expandtabs(_TAB_SIZE))
        row.rstrip()
        if index == number - 1:
            at = len(line[: frame.offset - offset].expandtabs(_TAB_SIZE))
            row.append(" " * max(0, at - len(row)))
            row = Text.assemble(row[:at], (frame.ghost or " ", _ghost_style(frame)), row[at:])
        gutter = (f"{index + 1:4} ", "bold" if index == number - 1 else "dim")
        rows.append(Text.assemble(gutter, row, no_wrap=True))
        offset += len(line) + 1
    return Panel(Group(*rows, Text(), _status(frame)), title=f"snowcoder try  {name}")


def _ghost_style(frame: Frame) -> str:
    return "dim italic" if frame.ghost else "reverse"


def _status(frame: Frame) -> Text:
    if frame.step is Step.ACCEPTED:
        return Text("accepted", style="green")
    if frame.outcome is None:
        return Text()
    latency = f"{frame.outcome.record.total_ms:6.1f} ms  "
    if isinstance(frame.outcome, Suggestion):
        source = frame.outcome.record.source or Source.MODEL
        return Text(latency + source.value.replace("_", " "), style="cyan")
    return Text(latency + frame.outcome.detail, style="dim")
