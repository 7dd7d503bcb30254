"""VS Code offers exactly the settings that the server reads."""

from __future__ import annotations

import json
from pathlib import Path

from lsp_server.settings import schema

MANIFEST = Path(__file__).resolve().parents[1] / "vscode-ext/package.json"


def test_contributed_settings_are_those_of_the_server() -> None:
    contributed = json.loads(MANIFEST.read_text())["contributes"]["configuration"]["properties"]
    for of_extension in ("command", "package"):
        contributed.pop(f"snowcoder.{of_extension}")
    of_server = schema()
    expected = {}
    for name, value in of_server["properties"].items():
        definition = of_server["$defs"][value["$ref"].split("/")[-1]] if "$ref" in value else {}
        merged = definition | value
        expected[f"snowcoder.{name}"] = {
            key: merged[key] for key in merged if key not in ("$ref", "title")
        }
    assert contributed == expected, "run `npm run settings` in vscode-ext"
