"""`snowcoder collector` takes in events; `snowcoder telemetry connect` and the like send them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from telemetry.paths import data_path, database_path

TOKENS = "collector-tokens"
DATABASE = "collector.db"


def collector(
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any.")] = 8710,
    db: Annotated[
        str | None,
        typer.Option(
            envvar="SNOWCODER_COLLECTOR_DB",
            help="A SQLite file or a postgresql:// URL; a file in the data folder by default.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(help="Lines `upload TOKEN` and `read TOKEN`; made if none is named."),
    ] = None,
) -> None:
    """Take in the events of many users, and show a dashboard of them."""
    try:
        import uvicorn

        from telemetry.analysis.dashboard import render_location
        from telemetry.collector.access import TokenFileError, make_tokens, read_tokens
        from telemetry.collector.app import create_app
        from telemetry.collector.sinks import SinkError, open_sink
    except ImportError:
        raise _failure("collector needs: pip install 'snowcoder[collector]'") from None
    file = tokens or data_path() / TOKENS
    sink = open_sink(db or str(data_path() / DATABASE))
    console = Console(stderr=True, highlight=False)
    try:
        if tokens is None and not file.exists():
            make_tokens(file)
        known = read_tokens(file)
        # Opened here for its message, and again by the thread that writes.
        sink.open()
        sink.close()
    except (TokenFileError, SinkError) as error:
        raise _failure(str(error)) from None
    console.print(
        f"Events are taken at http://{host}:{port}/v1/events with an upload token; the dashboard "
        f"is at http://{host}:{port}/, its password is a read token. Tokens: {file}",
        markup=False,
        soft_wrap=True,
    )
    if host not in ("127.0.0.1", "::1", "localhost"):
        console.print(
            "Others can reach this address: put it behind a proxy that speaks https, or tokens "
            "travel in the clear.",
            soft_wrap=True,
        )
    uvicorn.run(
        create_app(sink, known, render_location),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
    )


def connect(
    url: Annotated[str, typer.Argument(help="Of the collector: https, or http on this machine.")],
    token: Annotated[
        str,
        typer.Option(prompt=True, hide_input=True, help="An upload token; asked for if missing."),
    ],
) -> None:
    """Send what is recorded from now on to a collector. Restart your editors."""
    from telemetry.outbox import (
        Collector,
        CollectorConfigError,
        SendError,
        send,
        write_collector,
    )

    try:
        named = Collector(url.rstrip("/"), token, time.time_ns() // 1000)
        send(named, [])
        file = write_collector(database_path(), named)
    except (CollectorConfigError, SendError) as error:
        raise _failure(str(error)) from None
    except OSError as error:
        raise _failure(f"cannot be written: {error}") from None
    print(f"connected; {file} says so")


def disconnect() -> None:
    """Send nothing any more. Restart your editors."""
    from telemetry.outbox import remove_collector

    print("disconnected" if remove_collector(database_path()) else "no collector was named")


def upload() -> None:
    """Send now what the collector does not have yet."""
    from telemetry.outbox import CollectorConfigError, Outbox, SendError, read_collector

    try:
        named = read_collector(database_path())
        if named is None:
            raise _failure("no collector is named; see: snowcoder telemetry connect")
        if not database_path().exists():
            raise _failure("there is no record yet")
        outbox = Outbox(database_path(), named)
        sent = outbox.flush()
    except (CollectorConfigError, SendError, sqlite3.Error) as error:
        raise _failure(str(error)) from None
    print(f"sent: {sent}, of them not taken or kept aside: {outbox.refused}")


def register(command_line: typer.Typer, telemetry: typer.Typer) -> None:
    """Add the commands to the command line and to `snowcoder telemetry`."""
    command_line.command()(collector)
    for command in (connect, disconnect, upload):
        telemetry.command()(command)


def _failure(message: str) -> typer.Exit:
    Console(stderr=True, highlight=False).print(
        f"snowcoder: {message}", markup=False, soft_wrap=True
    )
    return typer.Exit(1)
