"""The `snowcoder` command: `serve`, `try`, `complete`; more from `inspection` and `*_cli`.

Standard output carries results only; messages go to standard error. Exit codes: 0 done
(a hidden suggestion is an answer too), 1 the model cannot be used, 2 the input is wrong.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from completion.text import BYTE_ORDER_MARK, CursorError, offset_at
from completion.types import (
    CompletionRequest,
    DecodePolicy,
    Hidden,
    HiddenReason,
    Outcome,
    Policies,
    Suggestion,
    Trigger,
    WindowPolicy,
)
from lsp_server import inspection, models_cli, serve_command, telemetry_cli
from lsp_server.gateway import command as gateway_command

if TYPE_CHECKING:
    from lsp_server.session import Engine

app = typer.Typer(
    help="Code completion that runs on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
inspection.register(app)
models_cli.register(app)
telemetry_cli.register(app)
gateway_command.register(app)

_SAMPLE = Path(__file__).parent / "samples" / "inventory.py"
_LANGUAGES = {".py": "python", ".pyi": "python", ".pyw": "python"}
_UNSERVED = frozenset({HiddenReason.LANGUAGE, HiddenReason.TOO_LARGE})

ModelOption = Annotated[
    str | None,
    typer.Option(help="Name or folder of weights; the packaged ones by default."),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Processor cores that a suggestion uses.")]


class InputError(Exception):
    """What the user typed cannot be used; the message says why."""


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Run the language server; editors start this."""
    serve_command.main(context.args)


@app.command()
def complete(
    location: Annotated[
        str,
        typer.Argument(
            metavar="FILE:LINE:COL", help="Where the cursor stands; line and column count from 1."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    model: ModelOption = None,
    threads: ThreadsOption = 2,
) -> None:
    """Print one suggestion, or why there is none."""
    try:
        path, line, column = parse_location(location)
        text = read_source(path)
        offset = offset_at(text, line, column)
    except (InputError, CursorError) as error:
        raise _failure(str(error), 2) from None
    engine = _load(model, threads)
    request = CompletionRequest(
        text,
        offset,
        uri=path.resolve().as_uri(),
        language=language_of(path),
        trigger=Trigger.INVOKED,
        policies=Policies(window=WindowPolicy().rested(), decode=DecodePolicy(deadline_ms=None)),
    )
    outcome = engine.complete(request)
    if as_json:
        print(json.dumps(as_dict(outcome), ensure_ascii=False))
    else:
        _print_outcome(outcome)


@app.command("try")
def try_(
    file: Annotated[
        Path | None, typer.Argument(help="A file to type into (on screen only, never saved).")
    ] = None,
    model: ModelOption = None,
    threads: ThreadsOption = 2,
) -> None:
    """Watch suggestions appear while a file is typed, with the latency of each."""
    from lsp_server.demo import choose_places, play

    path = file or _SAMPLE
    try:
        text = read_source(path).removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n")
    except InputError as error:
        raise _failure(str(error), 2) from None
    language = language_of(path)
    if not choose_places(text):
        raise _failure(f"{path} has no line long enough to type", 2)
    engine = _load(model, threads)
    probe = engine.complete(CompletionRequest(text, 0, language=language))
    if isinstance(probe, Hidden) and probe.reason in _UNSERVED:
        raise _failure(f"{path}: {probe.detail}", 2)
    console = Console()
    live = console.is_terminal and sys.stdin.isatty()
    play(engine, text, console, name=path.name, language=language, live=live)


def parse_location(location: str) -> tuple[Path, int, int]:
    """Split FILE:LINE:COL; FILE itself may hold colons.

    Raises:
        InputError: not of that form.
    """
    name, *position = location.rsplit(":", 2)
    if not name or len(position) != 2 or not all(part.isdecimal() for part in position):
        raise InputError(f"{location!r} is not of the form FILE:LINE:COL, for example app.py:12:5")
    return Path(name), int(position[0]), int(position[1])


def read_source(path: Path) -> str:
    """The text of a source file, line endings untouched.

    Raises:
        InputError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from None


def language_of(path: Path) -> str:
    """LSP language id by file name; unknown ones give the bare extension."""
    extension = path.suffix.lower()
    return _LANGUAGES.get(extension, extension.removeprefix("."))


def as_dict(outcome: Outcome) -> dict[str, object]:
    """What `complete --json` prints; keys that do not apply are null."""
    shown = outcome if isinstance(outcome, Suggestion) else None
    hidden = None if isinstance(outcome, Suggestion) else outcome
    return {
        "outcome": "suggestion" if shown else "hidden",
        "insert": shown.insert if shown else None,
        "start": shown.start if shown else None,
        "end": shown.end if shown else None,
        "reason": hidden.reason.value if hidden else None,
        "detail": hidden.detail if hidden else None,
        "record": asdict(outcome.record),
    }


def _print_outcome(outcome: Outcome) -> None:
    if isinstance(outcome, Suggestion):
        print(outcome.insert)
        _messages().print(f"{outcome.record.total_ms:.0f} ms", style="dim")
    else:
        print(f"nothing to show ({outcome.reason.value}): {outcome.detail}")


def _load(model: str | None, threads: int) -> Engine:
    from lsp_server.loading import load_engine
    from models.errors import ModelError

    try:
        return load_engine(model, threads).engine
    except ModelError as error:
        raise _failure(str(error), 1) from None


def _failure(message: str, code: int) -> typer.Exit:
    """Say what went wrong; the caller raises what this returns."""
    _messages().print(f"snowcoder: {message}", markup=False, soft_wrap=True)
    return typer.Exit(code)


def _messages() -> Console:
    return Console(stderr=True, highlight=False)
