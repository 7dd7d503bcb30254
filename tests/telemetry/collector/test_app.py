from __future__ import annotations

import base64
import json
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from telemetry.collector.app import Limits
from telemetry.collector.intake import parse
from telemetry.collector.sinks import SinkError, SqliteSink
from telemetry.events import Opportunity
from telemetry.store import open_database
from tests.telemetry.collector.conftest import HOSTILE, Serve, Service, as_upload, shown


def stored(path: Path, query: str = "select event_id from shown order by 1") -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(query)]


def password(token: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}


def test_duplicates_and_disorder_count_once(service: Service) -> None:
    first = service.post(shown(3), shown(1), shown(3))
    assert (first.status, first.json) == (200, {"stored": 2, "duplicates": 1, "aside": []})
    again = service.post(shown(1), shown(2), shown(3))
    assert again.json == {"stored": 1, "duplicates": 2, "aside": []}
    assert stored(service.path) == ["e1", "e2", "e3"]


def test_a_second_event_of_the_same_id_changes_nothing(service: Service) -> None:
    service.post(shown(1))
    service.post(shown(1) | {"suggestion_id": "other"})
    assert stored(service.path, "select suggestion_id from shown") == ["s1"]


def test_what_has_no_place_is_kept_aside_once(service: Service) -> None:
    newer = shown(1) | {"version": 9, "new": HOSTILE}
    for _ in range(2):
        answer = service.post(newer, "text", shown(2))
        assert answer.status == 200
        assert [item["reason"] for item in answer.json["aside"]] == ["newer_version", "malformed"]
    assert stored(service.path, "select count(*) from aside") == [2]
    bodies = stored(service.path, "select body from aside where reason = 'newer_version'")
    assert json.loads(bodies[0]) == newer


def test_hostile_texts_are_stored_as_they_are(service: Service) -> None:
    event = Opportunity(at_us=1, request_id="r", language=HOSTILE, trigger=HOSTILE, model=HOSTILE)
    assert service.post(as_upload(event)).json["stored"] == 1
    assert stored(service.path, "select language from opportunities") == [HOSTILE]


@pytest.mark.parametrize("kind", ["none", "wrong", "read", "basic"])
def test_wrong_tokens_are_refused(service: Service, kind: str) -> None:
    headers = {
        "none": {},
        "wrong": {"authorization": "Bearer wrong"},
        "read": {"authorization": f"Bearer {service.read}"},
        "basic": password(service.upload),
    }[kind]
    answer = service.ask("/v1/events", {"events": [shown(1)]}, headers=headers)
    assert (answer.status, answer.json["reason"]) == (401, "wrong_token")
    assert stored(service.path) == []


def test_bodies_too_large_are_refused_unread(serve: Serve) -> None:
    service = serve(limits=Limits(body_bytes=10_000))
    # A gigabyte is announced; the answer comes before it is sent.
    parts = urlsplit(service.url)
    head = (
        f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.upload}\r\n"
        f"content-length: {2**30}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    # Its length is not announced: it is not read beyond the limit.
    head = head.replace(f"content-length: {2**30}", "transfer-encoding: chunked")
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    packed = {"authorization": f"Bearer {service.upload}", "content-encoding": "gzip"}
    answer = service.ask("/v1/events", b"\x1f\x8b", headers=packed)
    assert (answer.status, answer.json["reason"]) == (415, "encoded")
    assert service.post(shown(1)).json["stored"] == 1


def test_senders_that_are_too_fast_wait(serve: Serve) -> None:
    service = serve(limits=Limits(events_per_s=0.001, burst=2))
    assert service.post(shown(1), shown(2)).status == 200
    answer = service.post(shown(3))
    assert (answer.status, answer.json["reason"]) == (429, "too_fast")
    assert int(answer.headers["retry-after"]) > 900
    assert stored(service.path) == ["e1", "e2"]


def test_a_locked_database_keeps_nothing_and_says_so(service: Service) -> None:
    with closing(sqlite3.connect(service.path)) as other:
        other.execute("begin immediate")
        answer = service.post(shown(1))
        assert (answer.status, answer.json["reason"]) == (503, "locked")
        assert answer.headers["retry-after"]
    assert service.post(shown(1)).json["stored"] == 1


def test_a_full_disk_keeps_nothing_of_a_batch(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "full.db")
    sink.open()
    assert sink._database is not None
    pages = sink._database.execute("pragma page_count").fetchone()[0]
    sink._database.execute(f"pragma max_page_count={pages + 2}")
    events = {"events": [shown(n) | {"suggestion_id": "x" * 60} for n in range(900)]}
    with pytest.raises(SinkError) as caught:
        sink.write(parse(json.dumps(events).encode()))
    assert caught.value.reason == "full"
    assert stored(tmp_path / "full.db") == []
    sink._database.execute("pragma max_page_count=100000")
    assert sink.write(parse(json.dumps(events).encode())) == 900
    sink.close()


def test_databases_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 200)
    open_database(tmp_path / "new.db").conn.close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        connection.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at) "
            "values ('snowcoder', 'of_the_future', '2030')"
        )
        connection.commit()
    for name, reason in {"text.db": "corrupt", "new.db": "newer"}.items():
        with pytest.raises(SinkError) as caught:
            SqliteSink(tmp_path / name).open()
        assert caught.value.reason == reason
    assert (tmp_path / "text.db").read_text().startswith("no database")


def test_the_dashboard_needs_a_read_token(serve: Serve) -> None:
    asked: list[str | None] = []

    def render(location: str, name: str | None) -> str:
        asked.append(name)
        if name == "gone":
            raise LookupError("nobody was exposed to 'gone'")
        if name == "broken":
            raise RuntimeError("secret")
        return "<p>page</p>"

    service = serve(render=render)
    for headers in ({}, password(service.upload), {"authorization": "Basic !"}):
        answer = service.ask("/", headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    assert asked == []
    reader = password(service.read)
    for _ in range(3):
        answer = service.ask("/", headers=reader)
        assert (answer.status, answer.body) == (200, b"<p>page</p>")
    assert asked == [None]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert service.ask("/experiments/x", headers=reader).status == 200
    assert service.ask("/experiments/gone", headers=reader).json["reason"] == "unknown_experiment"
    broken = service.ask("/experiments/broken", headers=reader)
    assert broken.status == 503
    assert b"secret" not in broken.body


def test_openapi_describes_the_upload(service: Service) -> None:
    document = service.ask("/openapi.json", headers={}).json
    upload = document["paths"]["/v1/events"]["post"]
    schema = upload["requestBody"]["content"]["application/json"]["schema"]
    tables = {
        v["properties"]["table"]["const"] for v in schema["properties"]["events"]["items"]["oneOf"]
    }
    assert {"opportunities", "shown", "ended", "persistence"} <= tables
    assert {"200", "400", "401", "413", "429", "503"} <= set(upload["responses"])
    assert upload["security"]
    assert "#/$defs" not in json.dumps(document)
    # Their pages would load scripts from elsewhere.
    assert service.ask("/docs", headers={}).status == 404
    assert service.ask("/v1/health", headers={}).json == {"version": 1}
