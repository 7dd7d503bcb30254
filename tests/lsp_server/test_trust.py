"""Settings, status, reasons and pauses, seen from the other end of the server's streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from completion.types import Trigger
from lsp_server.power import Power
from lsp_server.server import create_server
from lsp_server.session import Loaded
from lsp_server.settings import Settings
from tests.lsp_server.client import TIMEOUT, Client, stub_command
from tests.lsp_server.stub_server import StubEngine

URI = "file:///project/a.py"
CONFIGURABLE = {
    "workspace": {
        "configuration": True,
        "didChangeConfiguration": {"dynamicRegistration": True},
        "didChangeWatchedFiles": {"dynamicRegistration": True},
    }
}


def rules(client: Client) -> list[str]:
    return [row["rule"] for row in client.command("snowcoder.why")]


def change(client: Client, **settings: Any) -> None:
    params = {"settings": {"snowcoder": settings}}
    client.notify("workspace/didChangeConfiguration", params)


# Settings ------------------------------------------------------------------------------


def test_the_client_is_asked_for_its_settings() -> None:
    with Client(stub_command()) as client:
        client.initialize({"threads": 1}, capabilities=CONFIGURABLE)
        asked = client.respond("workspace/configuration", [{"deadlineMs": "soon"}])
        assert asked["items"] == [{"section": "snowcoder"}]
        assert "deadlineMs" in client.notifications.get(timeout=TIMEOUT)["params"]["message"]
        registered = client.respond("client/registerCapability", None)["registrations"]
        assert [one["method"] for one in registered] == [
            "workspace/didChangeConfiguration",
            "workspace/didChangeWatchedFiles",
        ]
        client.notify("workspace/didChangeConfiguration", {"settings": None})
        client.respond("workspace/configuration", [{"exclude": ["a.py"]}])
        client.open(URI, "ab")
        assert client.complete(URI, 0, 2) == []
        assert rules(client) == ["excluded"]


@pytest.mark.parametrize("answer", [None, [], [None], [5], "x", [{}, {}]])
def test_any_answer_about_settings_is_survived(answer: Any) -> None:
    with Client(stub_command()) as client:
        client.initialize(capabilities=CONFIGURABLE)
        client.respond("workspace/configuration", answer)
        client.respond("client/registerCapability", None)
        client.open(URI, "ab")
        assert client.complete(URI, 0, 2) != []
        assert client.leave() == 0


def test_changed_settings_apply_and_the_same_mistake_is_told_once(client: Client) -> None:
    client.open(URI, "ab")
    change(client, exclude=["*.py"], threads="many")
    assert client.complete(URI, 0, 2) == []
    change(client, exclude=[], threads="many")
    assert client.complete(URI, 0, 2) != []
    assert "threads" in client.notifications.get(timeout=TIMEOUT)["params"]["message"]
    assert client.notifications.empty()


def test_another_model_is_loaded_and_a_broken_one_leaves_the_old(client: Client) -> None:
    client.status("idle")
    client.open(URI, "ab")
    change(client, model="broken")
    client.status("loading")
    message = client.notifications.get(timeout=TIMEOUT)["params"]["message"]
    assert "goes on with the model it has: the weights are broken" in message
    client.status("idle")
    assert client.complete(URI, 0, 2) != []
    change(client, model="another")
    client.status("loading")
    client.status("idle")


# What stays private --------------------------------------------------------------------


def test_files_that_are_never_completed(tmp_path: Path) -> None:
    (tmp_path / ".snowcoderignore").write_text("internal/\n")
    with Client(stub_command()) as client:
        client.initialize(folders=[tmp_path.as_uri()])
        for name in (".env", "internal/a.py", "a.py"):
            client.open(f"{tmp_path.as_uri()}/{name}", "ab")
        assert client.complete(f"{tmp_path.as_uri()}/.env", 0, 2) == []
        while not client.complete(f"{tmp_path.as_uri()}/a.py", 0, 2):
            assert "not been read" in client.command("snowcoder.why")[-1]["detail"]
        assert client.complete(f"{tmp_path.as_uri()}/internal/a.py", 0, 2) == []
        assert rules(client)[0] == rules(client)[-1] == "excluded"


# Status and pauses ---------------------------------------------------------------------


def test_the_status_follows_what_happens(client: Client) -> None:
    client.status("loading")
    client.status("idle")
    client.open(URI, "slow")
    first = client.begin_complete(URI, 0, 4)
    client.status("working")
    client.notify("$/cancelRequest", {"id": first})
    assert client.status("idle")["reason"] == ""
    with Client(stub_command()) as other:
        other.initialize({"model": "broken"})
        assert "weights are broken" in other.status("error")["reason"]


def test_loading_is_shown_as_progress_to_clients_that_know_it() -> None:
    with Client(stub_command()) as client:
        client.initialize(capabilities={"window": {"workDoneProgress": True}})
        token = client.respond("window/workDoneProgress/create", None)["token"]
        for kind in ("begin", "end"):
            message = client.notifications.get(timeout=TIMEOUT)
            assert message["method"] == "$/progress"
            assert message["params"]["token"] == token
            assert message["params"]["value"]["kind"] == kind
        assert client.notifications.empty()
        assert client.leave() == 0


def test_nothing_is_generated_while_paused_or_hidden(client: Client) -> None:
    client.open(URI, "ab")
    client.command("snowcoder.pause")
    assert "user" in client.status("paused")["reason"]
    assert client.complete(URI, 0, 2, 1) == []
    client.command("snowcoder.resume")
    client.status("idle")
    assert client.complete(URI, 0, 2) != []
    client.notify("snowcoder/didChangeVisibility", {"visible": False})
    assert "hidden" in client.status("paused")["reason"]
    assert client.complete(URI, 0, 2) == []
    for nonsense in (None, [], {}, {"visible": "no"}):
        client.notify("snowcoder/didChangeVisibility", nonsense)
    assert client.complete(URI, 0, 2) == []
    client.notify("snowcoder/didChangeVisibility", {"visible": True})
    assert client.complete(URI, 0, 2) != []
    assert client.request("snowcoder/stats", None)["requests"] == 2
    assert rules(client).count("paused") == 3


@pytest.mark.parametrize(
    ("setting", "automatic", "invoked"),
    [("always", True, True), ("invoked", False, True), ("never", False, False)],
)
def test_on_battery_the_setting_decides(setting: str, automatic: bool, invoked: bool) -> None:
    server = create_server(load=lambda model, threads: Loaded(StubEngine(), int))
    server.settings = Settings.model_validate({"onBattery": setting})

    def served(trigger: Trigger) -> bool:
        refused = server.refusal(URI, trigger)
        assert refused is None or "battery" in refused.detail
        return refused is None

    server.power = Power(lambda: True)
    assert [served(Trigger.AUTOMATIC), served(Trigger.INVOKED)] == [automatic, invoked]
    server.power = Power(lambda: False)
    assert served(Trigger.AUTOMATIC)
    server.close()


# Why -----------------------------------------------------------------------------------


def test_every_request_leaves_one_decision(client: Client) -> None:
    client.open(URI, "slow\nboom\nquick\n\n")
    older = client.begin_complete(URI, 0, 4)
    cancelled = client.begin_complete(URI, 0, 4, 1)
    assert client.result(older) is None
    client.notify("$/cancelRequest", {"id": cancelled})
    client.complete(URI, 1, 4)
    client.complete(URI, 3, 0)
    (item,) = client.complete(URI, 2, 5)
    for method in ("didShowCompletion", "didPartiallyAcceptCompletion", "didDismissCompletion"):
        client.notify(f"textDocument/{method}", {"item": item, "acceptedLength": 2})
        for nonsense in (None, {}, {"item": 5}, {"item": {"command": {"arguments": [1]}}}):
            client.notify(f"textDocument/{method}", nonsense)
    client.command(item["command"]["command"], *item["command"]["arguments"])
    rows = client.command("snowcoder.why")
    assert [row["outcome"] for row in rows] == [
        "superseded",
        "cancelled",
        "hidden",
        "hidden",
        "suggestion",
    ]
    assert [row["rule"] for row in rows[2:4]] == ["error", "empty"]
    assert (rows[4]["file"], rows[4]["line"], rows[4]["trigger"]) == ("a.py", 3, "automatic")
    assert rows[4]["stages"]["prompt_tokens"] == 5
    assert rows[4]["events"] == ["shown", "partially_accepted", "dismissed", "accepted"]
    assert "quick" not in str(rows).lower()
    assert client.command("snowcoder.why", 1) == rows[-1:]
    assert client.command("snowcoder.why", 0) == []
