"""What the benchmarks of the whole server share: its command line, its state, its report."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FOLDERS = ("SNOWCODER_STATE_DIR", "SNOWCODER_DATA", "SNOWCODER_CACHE_DIR")


@contextmanager
def own_state() -> Iterator[Path]:
    """Let servers started inside keep log, decisions and telemetry in a folder removed later."""
    before = {name: os.environ.get(name) for name in _FOLDERS}
    with tempfile.TemporaryDirectory(prefix="snowcoder-bench-") as folder:
        os.environ.update(dict.fromkeys(_FOLDERS, folder))
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all of them take."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", help="a packaged model's name or a folder with weights")
    made.add_argument("--threads", type=int, default=2, help="of the model (default 2)")
    made.add_argument("--seed", type=int, default=0, help="of everything drawn")
    made.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return made


def report(result: dict[str, Any], as_json: bool) -> None:
    """Print a result for people or as one JSON object."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:24} {value}")
