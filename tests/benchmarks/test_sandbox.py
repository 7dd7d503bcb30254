"""Generated code may fail in many ways; only running to the end counts."""

import pytest

from benchmarks.sandbox import run_program


def test_success_and_output():
    execution = run_program("name = input()\nprint('hello', name)\n", stdin="world\n")
    assert execution.completed
    assert execution.stdout == "hello world\n"


@pytest.mark.parametrize(
    "source",
    [
        "assert 1 == 2",
        "raise ValueError('no')",
        "this is not python",
        "import sys\nsys.exit(0)",
        "exit()",
        "import os\nos._exit(0)",
        "block = bytearray(8 << 30)",
        "import site_packages_are_not_here",
        "import onnxruntime",
    ],
)
def test_anything_but_the_end_is_a_failure(source):
    assert not run_program(source).completed


def test_endless_loop_is_stopped():
    execution = run_program("while True:\n    pass\n", time_limit_s=0.5)
    assert not execution.completed
    assert execution.returncode is None


def test_no_network():
    source = "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)\n"
    execution = run_program(source)
    assert not execution.completed
    assert "network access is off" in execution.stderr


def test_empty_environment_and_directory():
    execution = run_program("import os\nprint('HOME' in os.environ, sorted(os.listdir('.')))\n")
    assert execution.completed
    assert execution.stdout.startswith("False")


def test_endless_output_is_cut():
    execution = run_program("while True:\n    print('x' * 10000)\n")
    assert not execution.completed
    assert len(execution.stdout) <= 16 * 2**20
