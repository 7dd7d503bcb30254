from __future__ import annotations

import pytest

from completion.types import Policies
from lsp_server.settings import Settings, read_settings


@pytest.mark.parametrize("options", [None, {}, {"other": 1}, 5, {"snowcoder": {}}])
def test_nothing_given_means_the_defaults(options: object) -> None:
    assert read_settings(options) == (Settings(), [])
    assert Settings().policies() == Policies()


def test_settings_reach_the_policies() -> None:
    given = {"deadlineMs": 100, "minLogprob": None, "languages": ["python", "lua"]}
    settings, problems = read_settings({"snowcoder": given})
    policies = settings.policies()
    assert not problems
    assert policies.decode.deadline_ms == 100
    assert policies.confidence.min_logprob is None
    assert policies.trigger.languages == {"python", "lua"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadlineMs", "soon"),
        ("deadlineMs", -1),
        ("minLogprob", 3),
        ("threads", 0),
        ("threads", True),
        ("languages", "python"),
        ("languages", [1, 2]),
        ("model", 7),
        ("colour", "blue"),
    ],
)
def test_an_invalid_value_costs_only_itself(name: str, value: object) -> None:
    settings, problems = read_settings({"snowcoder": {"deadlineMs": 250, name: value}})
    assert settings == Settings(deadline_ms=400 if name == "deadlineMs" else 250)
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}: ")


def test_settings_that_are_no_object() -> None:
    assert read_settings({"snowcoder": ["x"]}) == (Settings(), ["the settings are not an object"])
