from __future__ import annotations

import asyncio

from benchmarks.gateway import overhead, together
from benchmarks.gateway_clients import Asked, bodies, tagged, type_all, type_in_turn
from benchmarks.killed_remote import Remote, kill_often
from benchmarks.servers import gateway
from benchmarks.trace import Glance, Place, Session

LINES = ("def area(width, height):", "    return width * height", "", "print(area(1, 2))")
GLANCE = Glance(after=1, line=0, pause_ms=1, back_ms=1)
PLACE = Place("p", "f.py", "", 1, 2, 1, tuple([1] * 22), GLANCE)
SESSION = Session("p/f.py", LINES, (PLACE,))


def test_names_carry_the_editor_s_word() -> None:
    assert tagged(SESSION, "oak").lines == (
        "def area(width, height_oak):",
        "    return width * height_oak",
        "",
        "print(area(1, 2))",
    )


def test_requests_are_what_is_typed() -> None:
    typed = [body for body, _ in bodies(SESSION, PLACE)]
    assert [body["prompt"] for body in typed[:3]] == ["    ", "    r", "    re"]
    assert typed[-1]["input_prefix"] + typed[-1]["prompt"] == "\n".join(LINES[:2])
    assert typed[0]["input_suffix"] == "\n\nprint(area(1, 2))"


def asked(status: int | None, content: str = "", engine: float | None = 5.0) -> Asked:
    return Asked("oak", status, content, 7.0, engine)


def test_what_counts() -> None:
    found = [asked(200, "value_oak"), asked(200, "value_elm"), asked(499), asked(None), asked(503)]
    counts = together(found)
    assert counts["answered"] == 2
    assert counts["superseded"] == 1
    assert counts["unanswered"] == 2
    assert counts["foreign_text"] == 1
    assert overhead([asked(200), asked(200, engine=None)])["overhead_p95_ms"] == 2.0


def test_all_of_it_in_short(tiny_weights) -> None:
    with gateway(str(tiny_weights), threads=1) as (address, _):
        alone = type_in_turn(address, [SESSION], most=3)
        assert [one.status for one in alone] == [200, 200, 200]
        assert overhead(alone)["requests"] == 3
        counts = together(asyncio.run(type_all(address, [SESSION], seconds=0.5)))
    assert counts["clients_requests"] > 0
    assert counts["unanswered"] == counts["foreign_text"] == 0


def test_a_killed_remote_engine_loses_nothing(tiny_weights, tiny_backend) -> None:
    remote = Remote(str(tiny_weights), threads=1)
    killed = kill_often(remote, tiny_backend, [SESSION], times=3, seed=0)
    assert killed["killed"] == 3
    assert killed["tried"] >= 3
    assert killed["lost_silently"] == 0
