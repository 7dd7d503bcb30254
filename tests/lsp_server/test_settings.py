from __future__ import annotations

import json
from pathlib import Path

import pytest

from completion.types import DecodePolicy, Pivot, Policies
from lsp_server.settings import OnBattery, Settings, read_settings, schema, section


@pytest.mark.parametrize("options", [None, {}, {"command": ["snowcoder"]}])
def test_nothing_given_means_the_defaults(options: object) -> None:
    assert read_settings(options) == (Settings(), [])
    decode = DecodePolicy(block_lines=8, candidates=3)
    assert Settings().policies() == Policies(decode=decode)


def test_settings_reach_the_policies() -> None:
    given = {"deadlineMs": 100, "minLogprob": None, "languages": ["python", "lua"], "pivot": "keep"}
    settings, problems = read_settings(given)
    policies = settings.policies()
    assert not problems
    assert policies.decode.deadline_ms == 100
    assert policies.confidence.min_logprob is None
    assert policies.trigger.languages == {"python", "lua"}
    assert policies.pivot.mode is Pivot.KEEP


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadlineMs", "soon"),
        ("deadlineMs", -1),
        ("minLogprob", 3),
        ("pivot", "yes"),
        ("threads", 0),
        ("threads", True),
        ("languages", "python"),
        ("languages", [1, 2]),
        ("model", 7),
        ("colour", "blue"),
        ("exclude", "*.py"),
        ("exclude", ["fine", "!"]),
        ("onBattery", "sometimes"),
        ("onBattery", True),
    ],
)
def test_an_invalid_value_costs_only_itself(name: str, value: object) -> None:
    settings, problems = read_settings({"deadlineMs": 250, name: value})
    assert settings == Settings(deadline_ms=400 if name == "deadlineMs" else 250)
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}: ")


def test_settings_that_are_no_object() -> None:
    assert read_settings(["x"]) == (Settings(), ["the settings are not an object"])


def test_later_layers_go_on_top_of_earlier_ones() -> None:
    settings, problems = read_settings(
        {"threads": 1, "deadlineMs": 100}, None, {"deadlineMs": "soon", "onBattery": "invoked"}
    )
    assert (settings.threads, settings.on_battery) == (1, OnBattery.INVOKED)
    assert settings.deadline_ms == 400
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("options", "found"), [({"snowcoder": {"threads": 1}}, {"threads": 1}), ({}, None), (5, None)]
)
def test_the_section_of_an_object_of_settings(options: object, found: object) -> None:
    assert section(options) == found


def test_the_committed_schema_is_made_from_the_model() -> None:
    committed = Path(__file__).parents[2] / "docs" / "settings.schema.json"
    assert json.loads(committed.read_text(encoding="utf-8")) == schema(), (
        "run: snowcoder settings-schema > docs/settings.schema.json"
    )
    assert set(schema()["properties"]) >= {"deadlineMs", "exclude", "languages", "threads"}
    assert all("description" in prop for prop in schema()["properties"].values())


def test_every_setting_is_in_the_editor_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "editors.md").read_text(encoding="utf-8")
    for name in schema()["properties"]:
        assert f"| `{name}` |" in guide
