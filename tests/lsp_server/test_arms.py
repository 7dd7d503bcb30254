from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from completion.types import Mode, Policies
from lsp_server.arms import apply_arms, apply_settings, read_experiments
from telemetry.experiments import Arm, ExperimentError
from tests.lsp_server.client import TIMEOUT, Client
from tests.lsp_server.test_measure import URI, client, folder, rows

__all__ = ["client", "folder"]

EAGER = """
[experiments.eager]
unit = "user"
[experiments.eager.arms.a]
[experiments.eager.arms.b]
settings = {settings}
"""


def test_settings_become_policies() -> None:
    changes = {"confidence.min_logprob": -2, "decode.mode": "sep", "window.prefix_tokens": 9}
    policies = apply_settings(Policies(), changes)
    assert policies.confidence.min_logprob == -2.0
    assert policies.decode.mode is Mode.SEP
    assert policies.window.prefix_tokens == 9


def test_arms_that_decide_alike_are_different_policies() -> None:
    a, b = (apply_arms(Policies(), {"x": Arm(name, 1, {})}) for name in "ab")
    assert a.arms == "x=a"
    assert a != b


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("colour", 1),
        ("confidence.colour", 1),
        ("arms.x", 1),
        ("confidence.min_logprob", "much"),
        ("decode.mode", "sideways"),
        ("decode.max_tokens", 1.5),
        ("shape.enabled", 1),
        ("trigger.languages", "python"),
    ],
)
def test_settings_that_cannot_be(name: str, value: object) -> None:
    with pytest.raises(ExperimentError, match=name):
        apply_settings(Policies(), {name: value})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    assert read_experiments(path) == ()
    path.write_bytes(b"\xff")
    with pytest.raises(ExperimentError):
        read_experiments(path)
    path.write_text(EAGER.format(settings='{ "no.such" = 1 }'))
    with pytest.raises(ExperimentError, match=r"no\.such"):
        read_experiments(path)


def test_requests_carry_their_arm(client: Client, folder: Path) -> None:
    folder.mkdir()
    settings = '{ "confidence.min_logprob" = -2.5 }'
    (folder / "experiments.toml").write_text(EAGER.format(settings=settings))
    client.initialize()
    client.open(URI, "x = a")
    # Until the database is open there is no user to assign.
    while True:
        client.complete(URI, 0, 5)
        if rows_or_none("select * from exposures"):
            break
    client.complete(URI, 0, 5)
    assert client.leave() == 0
    (exposure,) = rows("select * from exposures")
    assert (exposure["experiment"], exposure["unit"]) == ("eager", "user")
    (*_, last) = rows("select * from opportunities order by at_us")
    assert last["arms"] == f"eager={exposure['arm']}"


def rows_or_none(query: str) -> object:
    try:
        return rows(query)
    except sqlite3.Error:
        return None


def test_a_mistake_disables_experiments_with_one_message(client: Client, folder: Path) -> None:
    folder.mkdir()
    (folder / "experiments.toml").write_text("[experiments")
    client.initialize()
    message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
    assert "experiments.toml" in message
    client.open(URI, "x = a")
    assert client.complete(URI, 0, 5)
    assert client.leave() == 0
    assert client.notifications.empty()
    assert [row["arms"] for row in rows("select * from opportunities")] == [""]
