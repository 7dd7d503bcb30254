"""Starts the language server: over standard input and output, or TCP on loopback."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pygls.io_ import StdoutWriter, run_async

from lsp_server import features, logfile
from lsp_server.framing import FrameReader
from lsp_server.indexing import Indexing
from lsp_server.language_server import Loader, SnowCoderServer
from lsp_server.loading import load_engine
from lsp_server.parent import end_process
from lsp_server.paths import cache_dir, state_dir

logger = logging.getLogger(__name__)

_SWITCH_S = 0.001
"""How long a thread may keep the interpreter while another one wants it."""


class AddressError(ValueError):
    """`--tcp` was not HOST:PORT on the loopback interface."""


def create_server(
    model: str | None = None,
    threads: int = 2,
    load: Loader | None = None,
    state: Path | None = None,
) -> SnowCoderServer:
    """A server with all features registered, not yet started.

    Args:
        model: weights to load if the client names none; None for the packaged ones.
        threads: threads of one decode if the client gives no number.
        load: makes the engine of a model and a number of threads; by default `load_engine`, which
            gets the indexes of the workspace's folders.
        state: folder for the file of decisions; None keeps them in memory.
    """
    indexing = Indexing(cache_dir())
    load = load or partial(load_engine, find_index=indexing.find)
    server = SnowCoderServer(model, threads, load, state, indexing)
    features.register(server)
    return server


def serve(server: SnowCoderServer, tcp: str | None = None) -> int:
    """Serve one client until it leaves; returns the exit status that LSP prescribes.

    Args:
        tcp: HOST:PORT on the loopback interface; None for standard input and output.

    Raises:
        AddressError: `tcp` is something else.
    """
    try:
        if tcp is None:
            asyncio.run(_serve_streams(server, *_standard_streams()))
        else:
            server.start_tcp(*parse_address(tcp))
    except BrokenPipeError:
        logger.warning("the connection to the editor is lost")
    except (SystemExit, KeyboardInterrupt):
        # The first is how pygls leaves its loop at `exit`.
        pass
    finally:
        server.close()
    return server.protocol.exit_status


def run(*, tcp: str | None, model: str | None, threads: int, log_level: str) -> None:
    """Serve, then end the process; what `snowcoder serve` does.

    Args:
        tcp: HOST:PORT on the loopback interface; None for standard input and output.
        model: name or folder of weights; None for the packaged ones.
        threads: threads of one decode.
        log_level: lowest level written to standard error, a name that `logging` knows.
    """
    # While the engine's thread prepares a prompt, an arriving message should not wait 5 ms for it.
    sys.setswitchinterval(_SWITCH_S)
    state = state_dir()
    logfile.configure(log_level.upper(), state)
    try:
        status = serve(create_server(model, threads, state=state), tcp)
    except AddressError as error:
        print(f"snowcoder: {error}", file=sys.stderr)
        sys.exit(2)
    end_process(status)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
        AddressError: it is not of that form, or other machines could reach it.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(port)
    except ValueError:
        raise AddressError(f"--tcp wants HOST:PORT, not {address!r}") from None
    if not loopback:
        raise AddressError(f"--tcp serves without a password, so only on loopback, not on {host}")
    return host, number


async def _serve_streams(server: SnowCoderServer, stdin: BinaryIO, stdout: BinaryIO) -> None:
    server.protocol.set_writer(StdoutWriter(stdout))
    reader = FrameReader(stdin)
    reader.start()
    # What ends it is the end of the input, or `exit`.
    await run_async(threading.Event(), reader, server.protocol, None, server.report_server_error)


def _standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for the protocol alone.

    Whatever else reads or prints, native libraries included, gets an empty input and
    standard error from now on.
    """
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return stdin, stdout
