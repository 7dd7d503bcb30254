"""`snowcoder serve`, which editors start and wait for.

It parses its options itself: the rest of the command line, with Typer and Rich, would take a
process that lives all day 8 MB and its start a tenth of a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

LOG_LEVELS = ("debug", "info", "warning", "error")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main(given: Sequence[str]) -> None:
    """Serve one client, then end the process."""
    parser = argparse.ArgumentParser(
        prog="snowcoder serve", description="Run the language server; editors start this."
    )
    parser.add_argument(
        "--tcp", metavar="HOST:PORT", help="Listen there, not on standard input and output."
    )
    parser.add_argument("--model", help="Name or folder of weights; the packaged ones by default.")
    parser.add_argument(
        "--threads", type=_positive, default=2, help="Processor cores that a suggestion uses (2)."
    )
    parser.add_argument(
        "--log-level", choices=LOG_LEVELS, default="warning", help="Lowest level logged (warning)."
    )
    options = parser.parse_args(given)
    from lsp_server.server import run

    run(**vars(options))
