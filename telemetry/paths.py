"""Where the record is kept."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

DATA_VARIABLE = "SNOWCODER_DATA"
"""Environment variable: a folder to use in place of the platform's user data folder."""


def data_path() -> Path:
    """The folder of everything that SnowCoder keeps for a user; it may not exist yet."""
    if folder := os.environ.get(DATA_VARIABLE):
        return Path(folder)
    return user_data_path("snowcoder", appauthor=False)


def database_path() -> Path:
    """The telemetry database."""
    return data_path() / "telemetry.db"
