from __future__ import annotations

import http.server
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lsp_server.cli import app
from telemetry import outbox
from telemetry.collector.app import Limits
from telemetry.events import Activity, Event, Shown
from telemetry.outbox import (
    CONFIG,
    Collector,
    CollectorConfigError,
    Outbox,
    SendError,
    Uploader,
    hash_user,
    read_collector,
    send,
    write_collector,
)
from telemetry.paths import DATA_VARIABLE
from telemetry.store import open_database
from tests.telemetry.analysis.conftest import insert
from tests.telemetry.collector.conftest import Serve, Service
from tests.telemetry.conftest import TIMEOUT


def events(numbers: range) -> list[Event]:
    return [Shown(at_us=n, event_id=f"e{n}", suggestion_id=f"s{n}") for n in numbers]


def make_record(path: Path, numbers: range = range(10)) -> Path:
    open_database(path).conn.close()
    insert(path, "me", events(numbers))
    return path


def arrived(service: Service, column: str = "event_id") -> list[Any]:
    with closing(sqlite3.connect(service.path)) as connection:
        return [row[0] for row in connection.execute(f"select {column} from shown order by at_us")]


def to(service: Service, since_us: int = 0) -> Collector:
    return Collector(service.url, service.upload, since_us)


def test_everything_is_sent_once_and_users_are_hashed(service: Service, path: Path) -> None:
    make_record(path)
    insert(path, "me", [Activity(at_us=1, active_us=1, typed_chars=1, completed_chars=1)])
    box = Outbox(path, to(service))
    assert box.flush() == 11
    assert box.flush() == 0
    assert Outbox(path, to(service)).flush() == 0
    assert arrived(service) == [f"e{n}" for n in range(10)]
    assert set(arrived(service, "user_id")) == {hash_user("me")}
    assert "me" not in hash_user("me")
    insert(path, "me", events(range(10, 12)))
    assert box.flush() == 2


def test_more_than_a_batch(service: Service, path: Path) -> None:
    make_record(path, range(2 * outbox.BATCH + 7))
    assert Outbox(path, to(service)).flush() == 2 * outbox.BATCH + 7
    assert len(arrived(service)) == 2 * outbox.BATCH + 7


def test_what_is_older_than_the_connection_stays(service: Service, path: Path) -> None:
    make_record(path)
    assert Outbox(path, to(service, since_us=7)).flush() == 3
    assert arrived(service) == ["e7", "e8", "e9"]


def test_an_answer_that_was_lost_counts_once(
    service: Service, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_record(path)

    def delivered_but_unanswered(*given: Any) -> Any:
        send(*given)
        raise SendError("unreachable", "the connection broke")

    monkeypatch.setattr(outbox, "send", delivered_but_unanswered)
    with pytest.raises(SendError):
        Outbox(path, to(service)).flush()
    monkeypatch.undo()
    assert len(arrived(service)) == 10
    assert Outbox(path, to(service)).flush() == 10
    assert len(arrived(service)) == 10


@pytest.mark.parametrize("emptied", ["delete from shown", "delete from shown where at_us > 5"])
def test_row_numbers_that_begin_anew_hide_nothing(
    service: Service, path: Path, emptied: str
) -> None:
    make_record(path)
    Outbox(path, to(service)).flush()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(emptied)
        connection.commit()
    insert(path, "me", events(range(10, 30)))
    Outbox(path, to(service)).flush()
    assert arrived(service) == [f"e{n}" for n in range(30)]


def test_another_collector_gets_it_too(service: Service, path: Path) -> None:
    make_record(path)
    Outbox(path, to(service)).flush()
    other = service.url.replace("127.0.0.1", "localhost")
    assert Outbox(path, Collector(other, service.upload)).flush() == 10


def test_a_collector_that_takes_little_gets_little(serve: Serve, path: Path) -> None:
    service = serve(limits=Limits(body_bytes=700))
    make_record(path, range(20))
    box = Outbox(path, to(service))
    assert box.flush() == 20
    assert box.refused == 0
    assert len(arrived(service)) == 20


def test_an_event_that_nobody_takes_does_not_block_the_others(serve: Serve, path: Path) -> None:
    service = serve(limits=Limits(body_bytes=400))
    make_record(path, range(2))
    insert(path, "me", [Shown(at_us=2, event_id="big", suggestion_id="s" * 300)])
    insert(path, "me", events(range(3, 5)))
    box = Outbox(path, to(service))
    box.flush()
    assert box.refused == 1
    assert arrived(service) == ["e0", "e1", "e3", "e4"]


def test_a_wrong_token_sends_nothing_and_loses_nothing(service: Service, path: Path) -> None:
    make_record(path)
    with pytest.raises(SendError, match="token") as caught:
        Outbox(path, Collector(service.url, "wrong")).flush()
    assert caught.value.reason == "wrong_token"
    assert Outbox(path, to(service)).flush() == 10


def test_a_collector_that_asks_to_wait(serve: Serve, path: Path) -> None:
    service = serve(limits=Limits(events_per_s=0.01, burst=5))
    make_record(path)
    # The first batch is larger than the burst and empties the bucket.
    Outbox(path, to(service)).flush()
    insert(path, "me", events(range(10, 12)))
    with pytest.raises(SendError) as caught:
        Outbox(path, to(service)).flush()
    assert caught.value.reason == "too_fast"
    assert caught.value.retry_s == 600


@contextmanager
def other_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer(self)

        def log_message(self, *given: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_redirects_do_not_get_the_token(service: Service, path: Path) -> None:
    def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("location", f"{service.url}/v1/events")
        handler.end_headers()

    make_record(path)
    with other_server(redirect) as url, pytest.raises(SendError, match="307"):
        Outbox(path, Collector(url, service.upload)).flush()
    assert arrived(service) == []


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"[]", b"{}"])
def test_anything_else_that_answers_is_no_collector(path: Path, body: bytes) -> None:
    def welcome(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    make_record(path)
    with other_server(welcome) as url:
        for _ in range(2):
            with pytest.raises(SendError):
                Outbox(path, Collector(url, "t")).flush()


def test_nobody_there(path: Path) -> None:
    make_record(path)
    with pytest.raises(SendError, match="no answer"):
        Outbox(path, Collector("http://127.0.0.1:1", "t")).flush()


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://example.org", "t"),
        ("ftp://localhost", "t"),
        ("localhost:8710", "t"),
        ("https://", "t"),
        ("https://[", "t"),
        ("http://localhost.example.org", "t"),
        ("https://example.org", "a b"),
        ("https://example.org", "t\r\nx: y"),
        ("https://example.org", "ü"),
    ],
)
def test_tokens_never_travel_in_the_clear(url: str, token: str) -> None:
    with pytest.raises(CollectorConfigError):
        Collector(url, token)


def test_the_file_that_names_it(path: Path) -> None:
    assert read_collector(path) is None
    named = Collector("https://example.org", 'quo"te\\', 5)
    file = write_collector(path, named)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_collector(path) == named
    for text in (
        "url = 1",
        "url =",
        'url = "https://x"\ntoken = "t"\nsince_us = 0\nmore = 1',
        "\0",
    ):
        file.write_text(text)
        with pytest.raises(CollectorConfigError, match=CONFIG):
            read_collector(path)


def test_the_uploader_sends_in_the_background_and_recovers(service: Service, path: Path) -> None:
    ready = threading.Event()
    uploader = Uploader(path, to(service), ready.wait, interval_s=0.01)
    uploader.start()
    make_record(path)
    ready.set()
    waiting = threading.Event()
    for _ in range(int(TIMEOUT / 0.05)):
        if uploader.status()["sent"] == 10:
            break
        waiting.wait(0.05)
    uploader.close(TIMEOUT)
    assert uploader.status() == {"sent": 10, "refused": 0, "problem": None}
    assert len(arrived(service)) == 10


def test_the_commands(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    database = tmp_path / "data" / "telemetry.db"
    make_record(database)

    def run(*words: str, keys: str | None = None) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["telemetry", *words], input=keys)
        return done.exit_code, done.output

    assert run("upload") == (
        1,
        "snowcoder: no collector is named; see: snowcoder telemetry connect\n",
    )
    code, output = run("connect", service.url, "--token", "wrong-token")
    assert code == 1
    assert "token" in output
    assert read_collector(database) is None
    code, output = run("connect", service.url, keys=f"{service.upload}\n")
    assert code == 0, output
    assert service.upload not in output
    # What was there before it was named stays here.
    assert run("upload")[1].startswith("sent: 0")
    insert(database, "me", [Shown(at_us=2**52, suggestion_id="new")])
    assert run("upload")[1].startswith("sent: 1,")
    assert arrived(service, "suggestion_id") == ["new"]
    assert run("disconnect") == (0, "disconnected\n")
    assert run("disconnect") == (0, "no collector was named\n")
