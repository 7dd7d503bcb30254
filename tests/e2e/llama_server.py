"""llama.cpp's server of `llama-cpp-python`, compiled once into an environment under `.cache`.

It stays out of the tests' own environment: it brings versions of its own of what our gateway
needs, and compiling it takes minutes. Run by `make e2e-llama`:

    python -m tests.e2e.llama_server
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.servers import comes_up, free_port

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "llama-server"
PYTHON = CACHE / "venv" / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
CONTEXT = 2048
CMAKE_ARGS = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
"""Not what this processor announces: some virtual machines announce AMX and crash with it. Without
support for pictures: that is less to compile."""


class BuildError(Exception):
    """llama.cpp's server could not be installed; the sentence says why."""


def requirements() -> list[str]:
    """The extra `llama-server` of our own package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = project["optional-dependencies"]["llama-server"]
    return wanted


def install() -> Path:
    """Compile the server unless it is there; the interpreter that runs it.

    Raises:
        BuildError: it did not work.
    """
    # What it was made of: other versions or flags are compiled anew.
    recipe = json.dumps([sys.version, CMAKE_ARGS, requirements(), CONSTRAINTS.read_text()])
    done = CACHE / "recipe.json"
    if done.is_file() and done.read_text() == recipe:
        return PYTHON
    shutil.rmtree(CACHE, ignore_errors=True)
    venv.create(CACHE / "venv", with_pip=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The cache may hold what was compiled for another processor.
    command += ["--no-cache-dir", "--constraint", str(CONSTRAINTS), *requirements()]
    environment = os.environ | {"CMAKE_ARGS": CMAKE_ARGS}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    done.write_text(recipe)
    return PYTHON


@contextmanager
def running(model: Path, alias: str) -> Iterator[tuple[psutil.Popen, str]]:
    """A server of the GGUF file `model`, called `alias`, on a free port; and its address."""
    port = free_port()
    command = [str(PYTHON), "-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(model), "--model_alias", alias]
    command += ["--n_ctx", str(CONTEXT), "--n_threads", "2"]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        if not comes_up(f"{address}/v1/models", process):
            raise AssertionError("llama.cpp's server did not start")
        yield process, address
    finally:
        # Also ends one that was stopped.
        process.kill()
        process.wait()


if __name__ == "__main__":
    try:
        print("llama.cpp's server runs with", install())
    except BuildError as error:
        sys.exit(f"tests.e2e.llama_server: {error}")
