"""Run generated code: a separate process with limits on time, memory, files and network.

This keeps a model's accidents (endless loops, memory bombs, stray sockets) away from the
machine; it is not a jail against an attacker. POSIX only.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TIME_LIMIT_S = 3.0
"""Wall-clock limit of one program, as in HumanEval's own harness."""
MEMORY_LIMIT_MB = 1024
OUTPUT_LIMIT_BYTES = 16 * 2**20

# Runs inside the child before the program. Limits are set here and not in a `preexec_fn`,
# which may deadlock in a process with threads. `-S` leaves out `exit` and `quit`, which
# contest programs use.
_PREAMBLE = """
import builtins, os, resource, socket, sys
memory, cpu, output = map(int, sys.argv[1:4])
path, nonce = sys.argv[4:6]
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
class _NoNetwork:
    def __init__(self, *args, **kwargs):
        raise OSError("network access is off")
socket.socket = socket.create_connection = socket.socketpair = _NoNetwork
sys.modules["_socket"] = None
builtins.exit = builtins.quit = sys.exit
sys.argv = [path]
sys.setrecursionlimit(10_000)
with open(path, encoding="utf-8") as file:
    source = file.read()
done = os.open("done", os.O_WRONLY | os.O_CREAT)
names = {"__name__": "__main__", "__builtins__": builtins}
exec(compile(source, path, "exec", dont_inherit=True), names)
os.write(done, nonce.encode())
"""


@dataclass(frozen=True, slots=True)
class Execution:
    """What a program did.

    Attributes:
        completed: it ran to its last line; `sys.exit(0)` half-way is not completion.
        returncode: exit status, negative for a signal; None when it ran out of time.
        stdout: what it printed, undecodable bytes replaced.
        stderr: the end of its error output.
    """

    completed: bool
    returncode: int | None
    stdout: str
    stderr: str


@functools.cache
def _network_namespace() -> tuple[str, ...]:
    """Return the command prefix that removes the network, empty where the kernel forbids it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, "--map-root-user", "--net", "--")
    probe = subprocess.run([*prefix, sys.executable, "-I", "-S", "-c", ""], capture_output=True)
    return prefix if probe.returncode == 0 else ()


def run_program(
    source: str,
    *,
    stdin: str = "",
    time_limit_s: float = TIME_LIMIT_S,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
) -> Execution:
    """Run Python source with the standard library only, in an empty directory and environment.

    Args:
        source: the program; a syntax error is a failed run like any other.
        stdin: text of its standard input.
        time_limit_s: wall-clock seconds, start of the interpreter included.
        memory_limit_mb: limit of its address space.
    """
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        program, output, errors, given, done = (
            work / name for name in ("program.py", "stdout", "stderr", "stdin", "done")
        )
        # Lone surrogates cannot be encoded; such a program fails as a syntax error.
        program.write_bytes(source.encode("utf-8", "surrogatepass"))
        given.write_text(stdin, encoding="utf-8")
        limits = (memory_limit_mb * 2**20, int(time_limit_s) + 1, OUTPUT_LIMIT_BYTES)
        command = [
            *_network_namespace(),
            *(sys.executable, "-I", "-S", "-c", _PREAMBLE),
            *(str(limit) for limit in limits),
            *(program.name, nonce),
        ]
        with given.open("rb") as source_in, output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=source_in,
                stdout=out,
                stderr=err,
                cwd=work,
                env={"PYTHONIOENCODING": "utf-8"},
                start_new_session=True,
            )
            try:
                returncode: int | None = process.wait(timeout=time_limit_s)
            except subprocess.TimeoutExpired:
                returncode = None
            finally:
                # The whole session, so that nothing the program started outlives it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        completed = (
            returncode == 0 and done.is_file() and done.read_text("utf-8", "replace") == nonce
        )
        return Execution(
            completed=completed,
            returncode=returncode,
            stdout=output.read_bytes().decode("utf-8", "replace"),
            stderr=errors.read_bytes()[-2000:].decode("utf-8", "replace"),
        )
