import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lsp_server import models_cli
from lsp_server.cli import app

runner = CliRunner()


@pytest.fixture
def library(tmp_path, monkeypatch, tiny_weights):
    """One imported model, `tiny`."""
    monkeypatch.setenv("SNOWCODER_DATA", str(tmp_path))
    shutil.copytree(tiny_weights, tmp_path / "models" / "tiny")
    return tmp_path / "models"


def run(*arguments):
    return runner.invoke(app, ["models", *arguments])


def test_list_marks_the_model_in_use(library):
    rows = json.loads(run("list", "--json").stdout)
    assert [(row["name"], row["used"]) for row in rows] == [
        ("snowcoder-88m", True),
        ("tiny", False),
    ]
    assert "tiny" in run("list").stdout


def test_a_damaged_model_is_listed_with_its_error(library):
    (library / "tiny" / "manifest.json").write_text("{")
    rows = json.loads(run("list", "--json").stdout)
    assert "not valid JSON" in rows[1]["error"]
    assert run("list").exit_code == 0


def test_use_and_rollback(library):
    assert run("use", "tiny").exit_code == 0
    assert json.loads(run("list", "--json").stdout)[1]["used"]
    assert "snowcoder-88m is in use again" in run("rollback").stdout
    again = run("rollback")
    assert again.exit_code == 1
    assert "no model was in use before" in again.stderr


def test_an_unknown_model_is_named(library):
    for command in ("use", "verify", "bench"):
        result = run(command, "nobody")
        assert result.exit_code == 1
        assert "nobody" in result.stderr


def test_verify_finds_an_altered_file(library):
    assert "files as published" in run("verify", "tiny").stdout
    with (library / "tiny" / "model.data").open("r+b") as data:
        data.write(b"\xff")
    result = run("verify", "tiny")
    assert result.exit_code == 1
    assert "was altered" in result.stderr


def test_bench_measures_the_model(library):
    cost = json.loads(run("bench", "tiny", "--threads", "1", "--json").stdout)
    assert cost["prompt_tokens"] == 512
    assert cost["token_ms"] > 0
    assert "write a token" in run("bench", "tiny", "--threads", "1").stdout


@pytest.mark.parametrize("arguments", [["import", "x"], ["export", "--to", "hf"]])
def test_without_the_extra_it_says_what_to_install(library, monkeypatch, arguments):
    monkeypatch.setattr(models_cli, "_EXTRA", ("torch", "no_such_package"))
    result = run(*arguments)
    assert result.exit_code == 1
    assert "needs no_such_package: pip install 'snowcoder[export]'" in result.stderr


def test_import_from_a_folder_with_packages_named_as_ours(library, tiny_checkpoint, tmp_path):
    """The whole command, as a user runs it; a project may well have a package `models`."""
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    (project / "models" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    command = [sys.executable, "-P", "-c", "from lsp_server.entry import main; main()"]
    done = subprocess.run(
        [*command, "models", "import", str(tiny_checkpoint), "--bits", "4", "--name", "four"],
        cwd=project,
        env={**os.environ, "SNOWCODER_DATA": str(library.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "prompt layout snowcoder" in done.stdout
    assert "first choice equal to PyTorch float32" in done.stdout
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["four"]["bits"] == 4
    assert "files as published" in run("verify", "four").stdout


def test_errors_of_import_reach_the_user(library, tmp_path, capfd):
    result = run("import", str(tmp_path))
    assert result.exit_code == 1
    assert "config.json" in capfd.readouterr().err
