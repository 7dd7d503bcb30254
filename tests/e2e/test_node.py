"""The server against `vscode-languageserver-protocol`, which shares no code with pygls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).with_name("node") / "client.js"
LIMIT_S = 120.0


def test_an_independent_client(tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.fail("make e2e needs Node")
    command = [sys.executable, "-I", "-m", "lsp_server", "serve"]
    if model := os.environ.get("SNOWCODER_E2E_MODEL"):
        command += ["--model", model]
    ended = subprocess.run(
        [node, str(CLIENT), *command],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | {"SNOWCODER_STATE_DIR": str(tmp_path), "SNOWCODER_DATA": str(tmp_path)},
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["capable"] is True
    assert report["states"][:2] == ["loading", "idle"]
    assert report["items"] == 1
    assert report["insertText"]
    assert report["onTheLine"] is True
    assert report["events"] == ["shown", "accepted"]
    # Answered in time or cancelled: both are right, hanging is not.
    assert report["cancelled"] in ("answered", -32800)
    assert report["refused"] == -32602
    assert report["exit"] == 0
    assert (tmp_path / "decisions.jsonl").is_file()
