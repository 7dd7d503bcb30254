"""Problem-solving files from a model behind a real HTTP server on loopback."""

from __future__ import annotations

import ast
import gzip
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.servers import free_port, gateway
from models.training import synthesis
from models.training.shards import read_shards, write_shards
from models.training.synthesis import Answer, code_of, complete_part, draw, excerpt, main

TOKEN = "very-secret-token-0123456789"
VARIABLE = "SYNTHESIS_TEST_TOKEN"


def program(name: str, steps: int = 12) -> str:
    """A file whose every line is its own."""
    lines = [f"    {name}_{i} = {name}_{i}_of(value, {name}_part_{i})" for i in range(steps)]
    return f'"""Compute {name}."""\n\n\ndef {name}(value):\n' + "\n".join(lines) + "\n"


BENCHMARK = program("benchmark")
SEEDS = [
    {"repo": f"owner/project{i}", "path": f"src/seed{i}.py", "text": program(f"seed{i}")}
    for i in range(6)
]


def fenced(code: str) -> str:
    return f"Here it is.\n\n```python\n{code}```\n\nIt is fast."


def chat(content: object, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": reason}]}


def seed_of(prompt: str) -> int:
    """Which of `SEEDS` a prompt is about."""
    return next(i for i in range(len(SEEDS)) if f"def seed{i}(" in prompt)


@dataclass
class Server:
    """Answers as it is told.

    Attributes:
        answer: status, headers and JSON (or bytes) for the number of a seed.
        asked: numbers of the seeds, in order.
    """

    url: str = ""
    answer: Callable[[int], tuple[int, dict[str, str], Any]] = field(
        default=lambda seed: (200, {}, chat(fenced(program(f"solution{seed}"))))
    )
    asked: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def says(self, *contents: object) -> None:
        """One content a seed."""
        self.answer = lambda seed: (200, {}, chat(contents[seed % len(contents)]))


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seed = seed_of(body.get("prompt") or body["messages"][-1]["content"])
            state.asked.append(seed)
            state.bodies.append(body)
            state.headers.append(dict(self.headers))
            state.paths.append(self.path)
            status, headers, content = state.answer(seed)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    class Listening(ThreadingHTTPServer):
        def handle_error(self, *arguments: object) -> None:
            """Clients that are tested leave early."""

    with Listening(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{listening.server_port}"
        yield state
        listening.shutdown()


class Patience(threading.Event):
    """Waits for nothing, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `data` (shards of the seeds) and `benchmarks`."""
    write_shards(SEEDS, tmp_path / "data")
    (tmp_path / "benchmarks").mkdir()
    problem = {"prompt": "", "canonical_solution": BENCHMARK, "suffix": ""}
    with gzip.open(tmp_path / "benchmarks" / "x.jsonl.gz", "wt") as out:
        out.write(json.dumps(problem) + "\n")
    return tmp_path


def run(folder: Path, url: str, *more: str, stop: threading.Event | None = None) -> int:
    data = [str(path) for path in sorted((folder / "data").glob("*.zst"))]
    arguments = ["--data", *data, "--url", url, "--model", "m", "--out", str(folder / "out")]
    arguments += ["--benchmarks", str(folder / "benchmarks"), *more]
    return main(arguments, stop or Patience())


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "report.json").read_text())


def answers(folder: Path) -> dict[str, dict[str, str]]:
    lines = (folder / "out" / "answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["seed"] for row in rows}) == len(rows)
    return {row["seed"]: row for row in rows}


def kept(folder: Path) -> list[dict[str, str]]:
    return list(read_shards(sorted((folder / "out").glob("*.zst"))))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_file_is_asked_for_with_each_seed_and_kept(server, folder, suffix):
    assert run(folder, server.url + suffix, "--tokens", "77") == 0
    assert sorted(server.asked) == list(range(6))
    assert set(server.paths) == {"/v1/chat/completions"}
    assert {(body["model"], body["max_tokens"]) for body in server.bodies} == {("m", 77)}
    assert report(folder) == {"asked": 6, "kept": 6, "refused": {}}
    rows = {row["path"]: row for row in kept(folder)}
    for i in range(6):
        row = rows[f"src/seed{i}.py"]
        assert row["repo"] == f"synthesis/owner+project{i}"
        assert row["text"] == program(f"solution{i}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("I would rather not write this file.", "no code"),
        ("Run it:\n\n```bash\nls\n```\n", "no code"),
        ("```python\n" + program("unclosed"), "no code"),
        (fenced("def broken(:\n    pass\n"), "syntax error"),
        (fenced("value = 1\n"), "no definition"),
        (fenced('def f():\n    return "' + "x" * 2000 + '"\n'), "filter"),
        (fenced("# Licensed under the GNU General Public License v3\n" + program("x")), "filter"),
        (fenced(BENCHMARK), "protected: benchmark"),
        (fenced("import os\n\n\n" + BENCHMARK + program("other")), "protected: benchmark"),
        (None, "no answer"),
    ],
)
def test_what_is_no_new_good_file_is_refused(server, folder, content, reason):
    server.says(content)
    assert run(folder, server.url, "--count", "1") == 0
    assert report(folder) == {"asked": 1, "kept": 0, "refused": {reason: 1}}
    assert [row["refused"] for row in answers(folder).values()] == [reason]
    assert kept(folder) == []


def test_a_copy_of_its_seed_is_refused(server, folder):
    copies = [fenced(seed["text"] + f"last_{i} = {i}\n") for i, seed in enumerate(SEEDS)]
    server.says(*copies)
    assert run(folder, server.url) == 0
    assert report(folder)["refused"] == {"near its seed": 6}


def test_of_files_that_are_alike_the_first_seed_s_is_kept(server, folder):
    server.says(fenced(program("same")))
    assert run(folder, server.url) == 0
    assert report(folder) == {"asked": 6, "kept": 1, "refused": {"near-duplicate": 5}}
    (row,) = kept(folder)
    first = draw(SEEDS, 6, 0)[0]
    assert row["path"] == first.path


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"\xff\xfe", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{}]}',
     b'{"choices": [{"message": {"content": 7}}]}', b"[" * 50_000],
)  # fmt: skip
def test_answers_that_are_none_are_counted(server, folder, body):
    server.answer = lambda seed: (200, {}, body)
    assert run(folder, server.url) == 0
    assert report(folder) == {"asked": 6, "kept": 0, "refused": {"no answer": 6}}


def test_many_answers_in_a_row_that_are_none_end_the_run(server, folder, monkeypatch, capsys):
    monkeypatch.setattr(synthesis, "_MOST_NO_ANSWER", 3)
    server.answer = lambda seed: (400, {}, {"error": "too long"})
    assert run(folder, server.url, "--parallel", "1") == 1
    error = capsys.readouterr().err
    assert error.startswith("models.training.synthesis: no answer 3 times in a row")
    assert "400" in error
    assert len(answers(folder)) >= 3
    assert not (folder / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("told", "waited"), [("7", [7]), ("99999999", [600]), ("soon", [1]), (None, [1])]
)
def test_a_busy_server_is_asked_again_after_the_time_it_tells(server, folder, told, waited):
    good = server.answer
    headers = {} if told is None else {"Retry-After": told}
    server.answer = lambda seed: (429, headers, {}) if len(server.asked) == 1 else good(seed)
    stop = Patience()
    assert run(folder, server.url, "--count", "1", stop=stop) == 0
    assert stop.waits == waited
    assert report(folder)["kept"] == 1


def test_a_server_that_keeps_failing_is_named(server, folder, capsys):
    server.answer = lambda seed: (500, {}, {"error": "secret source"})
    stop = Patience()
    assert run(folder, server.url, "--count", "1", stop=stop) == 1
    assert stop.waits == [1, 2, 4, 8]
    assert len(server.asked) == 5
    error = capsys.readouterr().err
    assert error.startswith("models.training.synthesis: ")
    assert "answered 500, 5 times in a row" in error
    assert "secret" not in error


def test_a_server_that_does_not_answer_in_time_is_named(server, folder, monkeypatch, capsys):
    monkeypatch.setattr(synthesis, "_ANSWER_S", 0.05)
    release = threading.Event()
    server.answer = lambda seed: (200 if release.wait(30) else 500, {}, {})
    stop = Patience()
    try:
        assert run(folder, server.url, "--count", "1", stop=stop) == 1
    finally:
        release.set()
    assert len(stop.waits) == 4
    assert "did not answer in time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "says"), [(401, "refused the token"), (403, "refused the token"), (404, "no such")]
)
def test_what_asking_again_cannot_mend_ends_the_run_at_once(server, folder, status, says, capsys):
    server.answer = lambda seed: (status, {}, {})
    stop = Patience()
    assert run(folder, server.url, "--parallel", "1", stop=stop) == 1
    assert stop.waits == []
    error = capsys.readouterr().err
    assert says in error
    assert str(status) in error


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}", "nonsense", "http://["])
def test_nobody_to_connect_to_is_named(folder, url, capsys):
    assert run(folder, url.format(free_port())) == 1
    assert "models.training.synthesis: no connection to" in capsys.readouterr().err


def test_what_was_answered_before_a_failure_is_kept_and_not_asked_for_again(server, folder):
    good = server.answer
    server.answer = lambda seed: good(seed) if len(server.asked) <= 3 else (401, {}, {})
    assert run(folder, server.url, "--parallel", "1") == 1
    before = answers(folder)
    assert len(before) == 3
    server.asked.clear()
    server.answer = good
    assert run(folder, server.url) == 0
    assert {f"owner/project{i}/src/seed{i}.py" for i in server.asked} == answers(
        folder
    ).keys() - before.keys()
    assert report(folder)["kept"] == 6


def test_a_seed_without_an_answer_is_asked_for_again(server, folder):
    good = server.answer
    server.answer = lambda seed: (400, {}, {}) if seed == 2 else good(seed)
    assert run(folder, server.url) == 0
    assert report(folder)["refused"] == {"no answer": 1}
    server.asked.clear()
    server.answer = good
    assert run(folder, server.url) == 0
    assert server.asked == [2]
    assert report(folder) == {"asked": 6, "kept": 6, "refused": {}}


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_killed_run_goes_on_with_the_line_it_was_writing(server, folder, cut):
    assert run(folder, server.url, "--parallel", "1") == 0
    path = folder / "out" / "answers.jsonl"
    whole, shards = answers(folder), kept(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4])[:-cut])
    server.asked.clear()
    assert run(folder, server.url) == 0
    missing = [json.loads(line)["seed"] for line in lines[3:]]
    assert sorted(f"owner/project{i}/src/seed{i}.py" for i in server.asked) == sorted(missing)
    assert answers(folder) == whole
    assert kept(folder) == shards
    server.asked.clear()
    assert run(folder, server.url) == 0
    assert server.asked == []


def test_a_damaged_line_is_named_and_nothing_is_lost(server, folder, capsys):
    assert run(folder, server.url) == 0
    path = folder / "out" / "answers.jsonl"
    damaged = b"{\n" + path.read_bytes()
    path.write_bytes(damaged)
    assert run(folder, server.url) == 1
    assert "line 1 is damaged" in capsys.readouterr().err
    assert path.read_bytes() == damaged


def test_a_larger_count_asks_only_for_what_is_new(server, folder):
    assert run(folder, server.url, "--count", "2") == 0
    server.asked.clear()
    assert run(folder, server.url, "--count", "5") == 0
    assert len(server.asked) == 3
    assert len(kept(folder)) == 5
    # And a smaller one leaves none of the larger one's shards.
    assert run(folder, server.url, "--count", "2") == 0
    assert len(kept(folder)) == 2


def test_the_token_is_sent_and_never_written(server, folder, monkeypatch, capfd):
    monkeypatch.setenv(VARIABLE, TOKEN + "\n")
    assert run(folder, server.url, "--token-env", VARIABLE) == 0
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {TOKEN}"}
    server.answer = lambda seed: (401, {}, {"error": f"bad token {TOKEN}"})
    (folder / "out" / "answers.jsonl").write_text("")
    assert run(folder, server.url, "--token-env", VARIABLE) == 1
    assert TOKEN not in "".join(capfd.readouterr())
    assert TOKEN not in json.dumps(server.bodies)
    for path in (folder / "out").iterdir():
        assert TOKEN.encode() not in path.read_bytes()
    assert all(TOKEN not in row["text"] for row in kept(folder))


def test_without_a_token_no_header_is_sent(server, folder):
    assert run(folder, server.url) == 0
    assert all("Authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--count", "0"], "--count"),
        (["--parallel", "0"], "--parallel"),
        (["--tokens", "-1"], "--tokens"),
        (["--api", "other"], "--api"),
        (["--token-env", "SYNTHESIS_NOT_SET"], "SYNTHESIS_NOT_SET"),
        (["--token-env", VARIABLE], VARIABLE),
    ],
)
def test_bad_arguments_are_told(folder, monkeypatch, more, says, capsys):
    monkeypatch.setenv(VARIABLE, "two\nlines")
    with pytest.raises(SystemExit) as raised:
        run(folder, "http://127.0.0.1:1", *more)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "two" not in error


def test_without_benchmarks_nothing_is_asked(server, folder, capsys):
    (folder / "benchmarks" / "x.jsonl.gz").unlink()
    assert run(folder, server.url) == 1
    assert "no benchmark data" in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-5]), "cut short"),
        (lambda shard: shard.write_bytes(b"no shard"), "damaged"),
        (lambda shard: shard.write_bytes(zstandard.compress(b"")), "no files in the data"),
    ],
)
def test_data_that_cannot_be_read_are_named(server, folder, change, says, capsys):
    change(folder / "data" / "shard-000.jsonl.zst")
    assert run(folder, server.url) == 1
    error = capsys.readouterr().err
    assert error.startswith("models.training.synthesis: ")
    assert says in error
    assert server.asked == []


def test_a_full_disk_ends_the_asking(server, folder, monkeypatch, capsys):
    stop, good = Patience(), server.answer

    def full(*arguments: object) -> dict[str, str]:
        raise OSError("no space left")

    def waits(seed: int) -> tuple[int, dict[str, str], Any]:
        if len(server.asked) > 1:
            assert threading.Event.wait(stop, 30)
        return good(seed)

    monkeypatch.setattr(synthesis, "judge", full)
    server.answer = waits
    assert run(folder, server.url, "--parallel", "1", stop=stop) == 1
    assert len(server.asked) <= 2
    assert "models.training.synthesis: no space left" in capsys.readouterr().err


def test_data_that_are_not_there_are_named(folder, tmp_path, capsys):
    more = ["--data", str(tmp_path / "none.zst")]
    assert run(folder, "http://127.0.0.1:1", *more) == 1
    assert "none.zst" in capsys.readouterr().err


def test_another_corpus_is_not_written_over(server, folder, capsys):
    write_shards(SEEDS, folder / "out")
    assert run(folder, server.url) == 1
    assert "holds another corpus" in capsys.readouterr().err
    assert kept(folder) == SEEDS


def test_a_base_model_continues_a_file_that_was_begun(server, folder):
    def continued(seed: int) -> tuple[int, dict[str, str], Any]:
        own = program(f"solution{seed}").removeprefix('"""Compute')
        cut_off = own + "\n\ndef unfinished(value):\n    return valu"
        choice = {"text": cut_off, "finish_reason": "length"}
        return 200, {}, {"choices": [choice]}

    server.answer = continued
    assert run(folder, server.url, "--api", "completions") == 0
    assert set(server.paths) == {"/v1/completions"}
    for body in server.bodies:
        assert body["prompt"].endswith('\n"""Problem:')
    assert report(folder)["kept"] == 6
    for row in kept(folder):
        i = row["path"].removeprefix("src/seed").removesuffix(".py")
        assert row["text"] == program(f"solution{i}").replace('"""Compute', '"""Problem:')


def test_a_real_base_model_is_asked(folder, tiny_weights):
    with gateway(str(tiny_weights), threads=1) as (address, _):
        more = ["--api", "completions", "--count", "4", "--tokens", "24"]
        assert run(folder, address, *more) == 0
    found, told = answers(folder), report(folder)
    assert found.keys() == {seed.name for seed in draw(SEEDS, 4, 0)}
    assert told["asked"] == 4
    assert told["kept"] == len(kept(folder))
    assert told["kept"] + sum(told["refused"].values()) == 4
    assert "no answer" not in told["refused"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na = 1\n```\n```py\nb = 1\nc = 2\n```\n", "b = 1\nc = 2\n"),
        ("```python\na = 1\n```\n```json\n[1, 2, 3, 4, 5, 6]\n```\n", "a = 1\n"),
        ("```\na = 1\n```", "a = 1\n"),
        ("```Python\r\na = 1\n```\r\n", "a = 1\n"),
        ('```python\nx = """\n    ```\n"""\n```\n', 'x = """\n    ```\n"""\n'),
        ("a = 1\n", "a = 1\n"),
        ("Just do it.", None),
        ("", ""),
    ],
)
def test_the_code_of_a_chat_answer(text, code):
    found = code_of(Answer(text, cut_off=False), "chat")
    assert (found or "") == (code or "")


def test_code_with_doubtful_escapes_brings_no_warning():
    assert code_of(Answer('x = "\\d"\n', cut_off=False), "chat") == 'x = "\\d"\n'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a = 1\nb = f(", "a = 1"),
        ("a = 1\nb = c", "a = 1"),
        ("a = 1\n\n# about b\nb = c", "a = 1"),
        ("a = 1\n@deco\ndef f():\n    retu", "a = 1"),
        ("a = 1\nif a:\n    b\nelse:\n    c(", "a = 1"),
        ("try:\n    a\nexcept E:\n    b(", None),
        ('"""Problem: never', None),
        ("x = [\n1,\n2,\n", None),
        ("", None),
    ],
)
def test_what_was_cut_off_ends_with_a_complete_statement(text, part):
    assert complete_part(text) == part


OURS = Path(synthesis.__file__).read_text()


@settings(deadline=None)
@given(st.integers(0, len(OURS)))
def test_wherever_tokens_ran_out_what_is_kept_are_statements_of_the_whole(end):
    part = complete_part(OURS[:end])
    if part is not None:
        assert OURS.startswith(part)
        whole, own = ast.parse(OURS).body, ast.parse(part).body
        assert own
        assert [ast.dump(node) for node in own] == [ast.dump(node) for node in whole[: len(own)]]


@settings(deadline=None)
@given(st.text(alphabet="ab \n@", max_size=200), st.integers())
def test_an_excerpt_is_whole_lines_of_its_file(filler, seed):
    text = "import x\n" + filler + "\ndef f(a):\n" + "    a += 1\n" * 300
    piece = excerpt(text, random.Random(seed))
    assert len(piece) <= synthesis.EXCERPT_CHARACTERS
    assert piece.endswith("\n")
    assert "\n" + piece in text
    assert piece.startswith(("def ", "@"))


@settings(deadline=None)
@given(st.permutations(SEEDS), st.integers(1, 6), st.integers(0, 5))
def test_seeds_depend_on_the_number_alone_and_not_on_the_shards(documents, count, seed):
    drawn = draw(documents, count, seed)
    assert drawn == draw(SEEDS, 6, seed)[:count]
    assert len({own.name for own in drawn}) == count


def test_another_number_draws_other_seeds():
    assert len({tuple(own.name for own in draw(SEEDS, 3, seed)) for seed in range(10)}) > 1
