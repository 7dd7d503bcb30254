"""`snowcoder telemetry`: where the local record is, what is in it, take it along, delete it."""

from __future__ import annotations

import json
import sqlite3
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lsp_server import collector_cli
from telemetry.export import ExportError, connect, export_parquet
from telemetry.paths import database_path

app = typer.Typer(help="The local record of what was suggested.", no_args_is_help=True)

_COUNTS = {
    "requests": "select count(*) from opportunities",
    "suggestions": "select count(*) from suggestions",
    "events lost": "select coalesce(sum(events), 0) from lost",
    "checks to come": "select count(*) from pending",
}
_GROUPS = {
    "how suggestions ended": "select coalesce(resolution, 'unknown'), count(*) from suggestions "
    "group by 1 order by 2 desc",
    "why nothing was shown": "select hidden_reason, count(*) from opportunities "
    "where hidden_reason is not null group by 1 order by 2 desc",
}


@app.command()
def path() -> None:
    """Print where the record is kept."""
    print(database_path())


@app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what the record holds."""
    file = database_path()
    try:
        with closing(connect(file)) as connection:
            summary: dict[str, Any] = {
                name: connection.execute(query).fetchone()[0] for name, query in _COUNTS.items()
            }
            for name, query in _GROUPS.items():
                summary[name] = {row[0]: row[1] for row in connection.execute(query)}
    except (ExportError, sqlite3.Error) as error:
        raise _failure(str(error)) from None
    aside = sorted(str(p) for p in file.parent.glob(f"{file.name}.corrupt-*"))
    if as_json:
        print(json.dumps(summary | {"path": str(file), "set aside": aside}))
        return
    console = Console()
    for name, value in summary.items():
        if isinstance(value, dict):
            table = Table(title=name, show_header=False, title_justify="left")
            for key, count in value.items():
                table.add_row(str(key), str(count))
            console.print(table)
        else:
            console.print(f"{name}: {value}")
    for damaged in aside:
        console.print(f"a damaged record was set aside: {damaged}", soft_wrap=True)


@app.command()
def export(
    parquet: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the Parquet files.")],
) -> None:
    """Write every table and view as a Parquet file."""
    try:
        written = export_parquet(database_path(), parquet)
    except ExportError as error:
        raise _failure(str(error)) from None
    for name, rows in written.items():
        print(f"{name}: {rows}")


@app.command()
def purge(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the record, and damaged ones that were set aside; open editors begin a new one."""
    from telemetry.store import purge as delete

    file = database_path()
    if not yes:
        typer.confirm(f"Delete {file}?", abort=True, err=True)
    try:
        delete(file)
    except OSError as error:
        raise _failure(f"cannot delete {file}: {error.strerror}") from None


def report(
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare the arms of this experiment.")
    ] = None,
    db: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Another record: a database, a folder of exported Parquet files (spark:FOLDER "
            "reads it with Spark), or a postgresql:// URL.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page with charts.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what became of suggestions, or what came of an experiment."""
    try:
        from telemetry.analysis.dashboard import render_overview
        from telemetry.analysis.html import render
        from telemetry.analysis.metrics import ExperimentDataError
        from telemetry.analysis.report import overview, report_experiment
        from telemetry.analysis.source import SourceError, open_source
    except ImportError:
        raise _failure("report needs: pip install 'snowcoder[analysis]'") from None
    if open_ and html is None:
        html = database_path().with_name("report.html")
    try:
        source = open_source(db or database_path())
        if experiment is None:
            if html is not None:
                _write_page(html, render_overview(source, linked=False), show=open_)
            _print_overview(overview(source), as_json=as_json)
            return
        result = report_experiment(source, experiment)
        if html is not None:
            _write_page(html, render(result), show=open_)
    except (SourceError, ExperimentDataError) as error:
        raise _failure(str(error)) from None
    except OSError as error:
        raise _failure(f"cannot write {html}: {error.strerror}") from None
    if as_json:
        print(json.dumps(result.as_dict()))
        return
    console = Console()
    console.print(f"{experiment}: {result.arms} by {result.unit}", markup=False)
    if result.refusal:
        console.print(result.refusal, markup=False)
    table = Table("metric", "arm", result.control, "value", "difference", "always valid", "verdict")
    for row in result.comparisons:
        low, high = row.always_valid
        numbers = [f"{n:.4g}" for n in (row.control_value, row.value, row.difference)]
        table.add_row(row.label, row.arm, *numbers, f"{low:.4g} … {high:.4g}", row.verdict)
    console.print(table)


def _write_page(path: Path, page: str, *, show: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    # A file, not a server: nothing listens, and nobody else can look.
    if show and not webbrowser.open(path.resolve().as_uri()):
        Console(stderr=True).print(f"no browser was found; open {path}", soft_wrap=True)


def _print_overview(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name}: {value}")


def _failure(message: str) -> typer.Exit:
    Console(stderr=True, highlight=False).print(
        f"snowcoder: {message}", markup=False, soft_wrap=True
    )
    return typer.Exit(1)


def register(command_line: typer.Typer) -> None:
    """Add `telemetry` and `report` to the command line."""
    collector_cli.register(command_line, app)
    command_line.add_typer(app, name="telemetry")
    command_line.command()(report)
