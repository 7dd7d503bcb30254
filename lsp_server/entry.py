"""Start of the `snowcoder` command.

Our import names (`models`, `completion`, `telemetry`) also exist in users' projects, and
editors start servers inside those projects, often with `PYTHONPATH=.`. So this module,
which imports nothing of ours, first takes such folders off the path.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path


def isolate_path(path: list[str], pythonpath: str, *, safe: bool) -> list[str]:
    """The import path without what belongs to the user's project.

    Drops the script's or working folder (first entry, unless `safe`, Python's `-P`) and
    all that PYTHONPATH added, but keeps the interpreter's own folders. Our own root comes
    last, so that a start by PYTHONPATH still finds the packages beside this one.
    """
    own = {os.path.realpath(p) for p in (*sysconfig.get_paths().values(), *site.getsitepackages())}
    foreign = {os.path.realpath(p) for p in pythonpath.split(os.pathsep)} if pythonpath else set()
    if path and not safe:
        foreign.add(os.path.realpath(path[0]))
    root = str(Path(__file__).resolve().parent.parent)
    kept = [
        entry
        for entry in path
        if Path(entry).is_absolute()
        and (os.path.realpath(entry) in own or os.path.realpath(entry) not in foreign)
    ]
    return kept if root in kept else [*kept, root]


def main() -> None:
    """Run the command line isolated from the folder that it was started in."""
    pythonpath = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    sys.path[:] = isolate_path(sys.path, pythonpath, safe=sys.flags.safe_path)
    if sys.argv[1:2] == ["serve"]:
        from lsp_server.serve_command import main as serve

        serve(sys.argv[2:])
    else:
        from lsp_server.cli import app

        app()
