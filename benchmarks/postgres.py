"""A PostgreSQL server of its own for a test or a benchmark: real, empty, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.servers import free_port

USER = "postgres"


def find() -> Path | None:
    """The folder of the newest server's programs, or None where none is installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    known = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(known).parent if known else None


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server on this machine, with synchronous commits as PostgreSQL has them.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
        subprocess.CalledProcessError: it does not start.
    """
    programs = find()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed: apt install postgresql")
    # The server refuses to run as root; Debian's package made a user for it.
    other = os.geteuid() == 0
    prefix = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if other else []
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    if other:
        shutil.chown(folder, USER, USER)

    def do(*words: str | Path) -> None:
        command = [*prefix, *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, cwd=folder)

    data, log = folder / "data", folder / "log"
    port = free_port()
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    try:
        do(programs / "initdb", "-D", data, "-U", USER, "--auth=trust", "-E", "UTF8")
        do(programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        finally:
            do(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
