"""`snowcoder gateway`: serve editors' other plugins over HTTP."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from lsp_server.gateway.config import TOKEN_VARIABLE, GatewayConfig, GatewayError

_DEFAULTS = GatewayConfig()


def gateway(
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback demands a token.")
    ] = _DEFAULTS.host,
    port: Annotated[int, typer.Option(min=1, max=65535)] = _DEFAULTS.port,
    model: Annotated[
        str | None,
        typer.Option(help="Name or folder of weights; the packaged ones by default."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Processor cores that a suggestion uses.")
    ] = 2,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Requests a second that one client may send.")
    ] = _DEFAULTS.rate,
    kv_mb: Annotated[
        int, typer.Option(min=20, help="Megabytes of all clients' KV caches together.")
    ] = 400,
) -> None:
    """Serve the OpenAI protocol and llama.cpp's /infill to other editors' plugins.

    The token is read from the environment variable SNOWCODER_GATEWAY_TOKEN.
    """
    console = Console(stderr=True, highlight=False)
    try:
        import uvicorn

        from lsp_server.gateway.app import create_app
    except ModuleNotFoundError as error:
        console.print(f"snowcoder: {error}; install it with: pip install 'snowcoder[gateway]'")
        raise typer.Exit(1) from None
    from lsp_server.gateway.loading import load_engines
    from models.errors import ModelError

    token = os.environ.get(TOKEN_VARIABLE) or None
    try:
        config = GatewayConfig(host=host, port=port, token=token, rate=rate).check()
        with _bind(config) as listening:
            app = create_app(load_engines(model, threads, kv_mb * 1_000_000), config)
            name = f"[{host}]" if ":" in host else host
            console.print(f"serving on http://{name}:{port} (/v1/completions, /infill, /metrics)")
            settings = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                # A header that any client can send must not say who it is.
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=3,
            )
            # Ctrl+C has ended it in order when this is raised.
            with suppress(KeyboardInterrupt):
                uvicorn.Server(settings).run(sockets=[listening])
    except GatewayError as error:
        console.print(f"snowcoder: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except ModelError as error:
        console.print(f"snowcoder: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _bind(config: GatewayConfig) -> socket.socket:
    """The socket to listen on, taken before a second is spent on loading.

    Raises:
        GatewayError: somebody else has the port, or the address is none of this machine.
    """
    taken = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    try:
        if os.name == "posix":
            # Otherwise a gateway could not be started again for a minute.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((config.host, config.port))
    except OSError as error:
        taken.close()
        raise GatewayError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror}; "
            "choose another with --host and --port"
        ) from error
    return taken


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(gateway)
