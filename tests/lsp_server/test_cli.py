from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import lsp_server.loading
import lsp_server.server
from completion.engine import CompletionEngine
from completion.types import CompletionRequest, Hidden, HiddenReason, Outcome, Record, Suggestion
from lsp_server.cli import app
from lsp_server.demo import choose_places, play
from lsp_server.session import Loaded
from models.errors import WeightsError
from tests.completion.scripted import ScriptedBackend

SOURCE = "def add(first, second):\n    return \n\n\ndef other():\n    pass\n"
LINES = "".join(f"value_{n} = compute_something({n})\n" for n in range(30))


class Seer:
    """Suggests the rest of the line it knows, from the fifth character on."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.accepted_ids: list[str] = []
        self.forgotten: list[str] = []

    def complete(self, request: CompletionRequest) -> Outcome:
        number = request.text.count("\n", 0, request.offset)
        typed = request.text[: request.offset].rpartition("\n")[2]
        rest = self.lines[number][len(typed) :]
        if len(typed) < 5:
            return Hidden(HiddenReason.LOW_CONFIDENCE, "not sure", Record())
        return Suggestion(str(number), rest, request.offset, request.offset, Record())

    def prepare(self, request: CompletionRequest) -> None:
        pass

    def accepted(self, suggestion_id: str) -> None:
        self.accepted_ids.append(suggestion_id)

    def dismissed(self, suggestion_id: str) -> None:
        raise NotImplementedError

    def forget(self, uri: str) -> None:
        self.forgotten.append(uri)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "code.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedBackend]:
    """Install a scripted model under the command line."""

    def install(*texts: str) -> ScriptedBackend:
        backend = ScriptedBackend(*texts)
        loaded = Loaded(CompletionEngine(backend), lambda: 0)
        monkeypatch.setattr(lsp_server.loading, "load_engine", lambda model, threads: loaded)
        return backend

    return install


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_complete_prints_the_suggestion_and_nothing_else(
    source: Path, answers: Callable[..., ScriptedBackend]
) -> None:
    answers("first + second")
    code, out, _ = run("complete", f"{source}:2:12")
    assert (code, out) == (0, "first + second\n")


def test_complete_as_json(source: Path, answers: Callable[..., ScriptedBackend]) -> None:
    answers("first + second")
    code, out, _ = run("complete", f"{source}:2:12", "--json")
    printed = json.loads(out)
    offset = SOURCE.index("return ") + len("return ")
    assert code == 0
    assert list(printed) == ["outcome", "insert", "start", "end", "reason", "detail", "record"]
    assert printed["outcome"] == "suggestion"
    assert printed["insert"] == "first + second"
    assert printed["start"] == printed["end"] == offset
    assert printed["reason"] is printed["detail"] is None
    assert printed["record"]["source"] == "model"


def test_complete_says_why_nothing_is_shown(
    source: Path, answers: Callable[..., ScriptedBackend]
) -> None:
    answers("", "")
    code, out, _ = run("complete", f"{source}:2:12")
    assert code == 0
    assert "(empty)" in out
    printed = json.loads(run("complete", f"{source}:2:12", "--json")[1])
    assert (printed["outcome"], printed["reason"], printed["insert"]) == ("hidden", "empty", None)


def test_other_languages_are_refused_with_a_reason(
    tmp_path: Path, answers: Callable[..., ScriptedBackend]
) -> None:
    answers()
    path = tmp_path / "main.rs"
    path.write_text("fn main() {", encoding="utf-8")
    assert "does not serve rs" in run("complete", f"{path}:1:1")[1]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{file}", "FILE:LINE:COL"),
        ("{file}:2", "FILE:LINE:COL"),
        ("{file}:two:1", "FILE:LINE:COL"),
        ("{file}:-1:1", "FILE:LINE:COL"),
        (":1:1", "FILE:LINE:COL"),
        ("{file}:0:1", "no line 0"),
        ("{file}:99:1", "no line 99"),
        ("{file}:2:13", "no column 13"),
        ("{file}.missing:1:1", "cannot read"),
        ("{folder}:1:1", "cannot read"),
        ("{folder}/latin.py:1:1", "not UTF-8"),
    ],
)
def test_wrong_locations_end_with_one_line_and_code_2(
    source: Path, location: str, message: str
) -> None:
    (source.parent / "latin.py").write_bytes(b"name = 'caf\xe9'\n")
    code, out, err = run("complete", location.format(file=source, folder=source.parent))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_model_is_one_line_and_code_1(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: str | None, threads: int) -> Loaded:
        raise WeightsError(f"no model {model}")

    monkeypatch.setattr(lsp_server.loading, "load_engine", fail)
    for arguments in (("complete", f"{source}:2:12"), ("try", str(source))):
        code, out, err = run(*arguments, "--model", "nowhere")
        assert (code, out, err) == (1, "", "snowcoder: no model nowhere\n")


def test_serve_hands_its_options_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(lsp_server.server, "run", lambda **options: seen.append(options))
    assert run("serve")[0] == 0
    assert run("serve", "--tcp", "127.0.0.1:0", "--threads", "1", "--log-level", "debug")[0] == 0
    assert seen == [
        {"tcp": None, "model": None, "threads": 2, "log_level": "warning"},
        {"tcp": "127.0.0.1:0", "model": None, "threads": 1, "log_level": "debug"},
    ]
    for wrong in (("--log-level", "loud"), ("--threads", "0"), ("here",)):
        assert run("serve", *wrong)[0] == 2
    code, out, _ = run("serve", "--help")
    assert code == 0
    assert all(option in out for option in ("--tcp", "--model", "--threads", "--log-level"))


def test_a_server_does_not_carry_the_command_line() -> None:
    script = """
        import sys
        from lsp_server import entry, server
        server.run = lambda **options: print(options, {"typer", "rich"} & set(sys.modules))
        sys.argv = ["snowcoder", "serve", "--threads", "3"]
        entry.main()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    options = {"tcp": None, "model": None, "threads": 3, "log_level": "warning"}
    assert ended.stdout == f"{options} set()\n", ended.stderr


def test_try_without_a_terminal_prints_plain_lines(
    answers: Callable[..., ScriptedBackend],
) -> None:
    answers(*["self.items.values()"] * 2000)
    code, out, _ = run("try")
    assert code == 0
    assert "\x1b" not in out
    assert "inventory.py:" in out
    assert " ms" in out
    assert "requests that ran the model" in out


def test_try_refuses_what_it_cannot_type(
    tmp_path: Path, answers: Callable[..., ScriptedBackend]
) -> None:
    answers()
    for name, content, message in [
        ("empty.py", "", "no line long enough"),
        ("main.rs", LINES, "does not serve rs"),
    ]:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        code, out, err = run("try", str(path))
        assert (code, out) == (2, "")
        assert message in err


@pytest.mark.parametrize("live", [False, True])
def test_the_typist_accepts_what_is_right_and_the_tally_adds_up(live: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=live, width=100, height=40)
    waits: list[float] = []
    seer = Seer(LINES)
    tally = play(seer, LINES, console, name="code.py", live=live, sleep=waits.append)
    places = choose_places(LINES)
    assert tally.lines == tally.accepted == len(places) == 6
    assert len(seer.accepted_ids) == 6
    assert tally.characters == sum(place.end - place.start for place in places)
    # Six requests a line: after 0 to 5 characters, the last of which brings the suggestion.
    assert len(tally.all_ms) == 36
    assert tally.accepted_characters == tally.characters - 6 * 5
    assert seer.forgotten
    assert bool(waits) is live
    if live:
        assert "accepted" in screen.getvalue()
    assert "compute_something" in screen.getvalue()


def test_places_are_distinct_lines_of_code_without_indentation() -> None:
    text = "# a comment that is long enough\r\n\r\n" + "    indented_call(argument)\r\n" * 3
    places = choose_places(text)
    assert [text[place.start : place.end] for place in places] == ["indented_call(argument)"] * 3
    assert len({place.start for place in places}) == 3


def test_ghost_text_stands_at_the_cursor_behind_tabs() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=100)
    text = "if ready:\n" + "\t\tvalue = compute_it(first)\n" * 4
    play(Seer(text), text, console, name="tabs.py", live=True, sleep=lambda seconds: None)
    drawn = [line for line in screen.getvalue().splitlines() if "compute_it" in line]
    assert drawn
    assert all("        value = compute_it(first)" in line for line in drawn)
