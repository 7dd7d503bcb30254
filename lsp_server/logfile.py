"""Where log records go: standard error, and a rotated file in the user's state folder."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

PACKAGES = ("lsp_server", "completion", "models", "telemetry")
FILE_NAME = "server.log"
_MAX_BYTES = 1_000_000
_BACKUPS = 3
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


class _QuietRotatingHandler(RotatingFileHandler):
    """A full disk must not end in tracebacks on standard error for every record."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the record; standard error has it."""


def configure(level: str, state: Path) -> None:
    """Log our packages from `level` on, and everybody else's warnings.

    Args:
        level: a name that `logging` knows.
        state: folder of the file `server.log` (a megabyte, three older ones); if it cannot be
            made, standard error alone is used.
    """
    formatter = logging.Formatter(_FORMAT)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    problem: OSError | None = None
    try:
        state.mkdir(parents=True, exist_ok=True)
        handlers.append(
            _QuietRotatingHandler(
                state / FILE_NAME, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8"
            )
        )
    except OSError as error:
        problem = error
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)
    if problem is not None:
        logging.getLogger(__name__).warning("no log file in %s: %s", state, problem.strerror)
