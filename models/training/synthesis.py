"""Have a larger model write problem-solving files, for the last phase of training.

    python -m models.training.synthesis --data BEST/*.zst --url http://127.0.0.1:8000/v1 \
        --model NAME --out DIR [--count 1000] [--api chat|completions] [--token-env VARIABLE]

Phase 3 of Arctic-SnowCoder (arXiv 2409.02326, section 2.3): excerpts of the files that phase 2 was
trained on inspire a model behind any OpenAI-compatible server to state a problem and to solve it.
`chat` is for models that follow instructions, `completions` for base models of code. Kept is what
parses, defines something, passes the corpus's own filters, and resembles neither its seed nor an
earlier file nor a benchmark. `answers.jsonl` in DIR grows by a line an answer: a run that was
stopped goes on from there, and one with a larger --count asks only for what is new. The shards
and `report.json` are written at the end.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import heapq
import json
import os
import random
import re
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from models.remote import RemoteConfig
from models.source_tree import parse
from models.training.corpus import benchmark_texts
from models.training.dedup import NearDuplicates, Protected, shingles
from models.training.filters import clean
from models.training.shards import Document, ShardError, read_shards, write_shards
from models.training.sources import SourceError

EXCERPT_CHARACTERS = 2000
BEGUN = '"""Problem:'
"""How every file begins that a base model writes. No space at its end: tokens begin with it."""
_FILE = "# File: "
_TASK = """Here is an excerpt of a Python file:

```python
{excerpt}```

Let it inspire you to one programming problem that a good programmer would find worth solving, and
solve it. Answer with one complete Python file in one ```python block: a module docstring that
states the problem, then the solution in functions or classes with type hints and docstrings, then
a short example of its use. It must stand on its own: neither copy nor mention the excerpt.
"""
_RETRIES = 4
_MOST_NO_ANSWER = 20
_CONNECT_S = 10.0
_ANSWER_S = 600.0
_LONGEST_PAUSE_S = 600
_SECONDS = re.compile(r"[0-9]{1,9}")
_TOP_LEVEL = re.compile(r"^(?:@|async def |def |class )", re.MULTILINE)
_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t\r]*$", re.MULTILINE | re.DOTALL)
_PYTHON = ("", "py", "python", "python3")
# An `else` at the margin belongs to the statement above it.
_STATEMENT = re.compile(r"^(?!(?:else|elif|except|finally)\b)\S", re.MULTILINE)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NO_ANSWER = {"refused": "no answer"}


class SynthesisError(Exception):
    """No more files can be had; what was answered before is kept."""


class NoAnswerError(Exception):
    """The server has no usable answer for one seed."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A file that inspires another one."""

    repo: str
    path: str
    text: str
    excerpt: str

    @property
    def name(self) -> str:
        """What answers are kept by."""
        return f"{self.repo}/{self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and whether its tokens ran out before its end."""

    text: str
    cut_off: bool


def draw(documents: Iterable[Document], count: int, seed: int) -> list[Seed]:
    """Random files in random order; more of them begin with the same ones."""

    def place(document: Document) -> bytes:
        name = f"{seed}/{document['repo']}/{document['path']}"
        return hashlib.blake2b(name.encode(), digest_size=16).digest()

    drawn: dict[str, Seed] = {}
    for row in heapq.nsmallest(count, documents, key=place):
        chance = random.Random(f"{seed}/{row['repo']}/{row['path']}")
        own = Seed(row["repo"], row["path"], row["text"], excerpt(row["text"], chance))
        drawn.setdefault(own.name, own)
    return list(drawn.values())


def excerpt(text: str, chance: random.Random) -> str:
    """Whole lines of a file, from one of its functions or classes on where it has any."""
    begin = chance.choice([found.start() for found in _TOP_LEVEL.finditer(text)] or [0])
    piece = text[begin : begin + EXCERPT_CHARACTERS]
    return piece[: piece.rfind("\n") + 1] if begin + len(piece) < len(text) else piece


class Endpoint:
    """An OpenAI-compatible server; `ask` may be called from several threads."""

    def __init__(
        self, client: httpx.Client, options: argparse.Namespace, stop: threading.Event
    ) -> None:
        """`options`: see `main`. `stop`: when set, nothing is asked any more."""
        self.stop = stop
        self._client, self._chat = client, options.api == "chat"
        self._fixed = {"model": options.model, "max_tokens": options.tokens}
        self._address = RemoteConfig(options.url, options.model).endpoint
        if self._chat:
            self._address = self._address.removesuffix("completions") + "chat/completions"

    def ask(self, seed: Seed) -> Answer:
        """One answer; waits and asks again where the server is busy, fails or breaks off.

        Raises:
            SynthesisError: there is no use in asking for other files either.
            NoAnswerError: what came back holds no text.
        """
        trouble = ""
        for attempt in range(_RETRIES + 1):
            if self.stop.is_set():
                raise SynthesisError("stopped")
            told = ""
            try:
                response = self._client.post(self._address, json=self._fixed | self._prompt(seed))
            except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise SynthesisError(f"no connection to {self._address}") from error
            except httpx.TimeoutException:
                trouble = "did not answer in time"
            except httpx.TransportError:
                trouble = "broke off"
            except httpx.HTTPError as error:
                raise NoAnswerError("it could not be read") from error
            else:
                status = response.status_code
                if status != 429 and status < 500:
                    return self._read(response)
                trouble, told = f"answered {status}", response.headers.get("Retry-After", "")
            if attempt < _RETRIES:
                self.stop.wait(_pause(attempt, told))
        raise SynthesisError(f"{self._address} {trouble}, {_RETRIES + 1} times in a row")

    def _prompt(self, seed: Seed) -> dict[str, Any]:
        if self._chat:
            content = _TASK.format(excerpt=seed.excerpt)
            return {"messages": [{"role": "user", "content": content}]}
        told = "problem.py: a problem that the file above inspired, and its solution"
        name = PurePosixPath(seed.path).name
        prompt = f"{_FILE}{name}\n{seed.excerpt}\n\n{_FILE}{told}\n{BEGUN}"
        return {"prompt": prompt, "stop": ["\n" + _FILE]}

    def _read(self, response: httpx.Response) -> Answer:
        # No error's body is told: it may repeat the excerpt, or the token.
        status = response.status_code
        if status in (401, 403):
            raise SynthesisError(f"{self._address} refused the token ({status})")
        if status == 404:
            raise SynthesisError(f"{self._address} knows no such model or path (404)")
        if status != 200:
            raise NoAnswerError(f"it answered {status}")
        try:
            choice = response.json()["choices"][0]
            text = choice["message"]["content"] if self._chat else choice["text"]
            cut_off = choice.get("finish_reason") == "length"
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise NoAnswerError("it sent what is no completion") from None
        if not isinstance(text, str):
            raise NoAnswerError("it sent what is no completion")
        return Answer(text, cut_off)


def _pause(attempt: int, told: str) -> int:
    """Seconds to wait: what the server told, else twice as long each time."""
    return min(int(told) if _SECONDS.fullmatch(told) else 2**attempt, _LONGEST_PAUSE_S)


def code_of(answer: Answer, api: str) -> str | None:
    """The Python file in an answer, None where there is none.

    Of a chat the largest fenced block, or all of an answer that is code; of a completion all of it,
    up to the last complete statement where the tokens ran out.
    """
    if api == "completions":
        text = BEGUN + answer.text
        return complete_part(text) if answer.cut_off else text
    blocks = [found[2] for found in _FENCED.finditer(answer.text) if found[1].lower() in _PYTHON]
    alone = answer.text if parse(answer.text) else None
    return max(blocks, key=len, default=alone)


def complete_part(text: str) -> str | None:
    """The beginning of a file up to its last top-level statement that was surely finished."""
    for start in reversed([found.start() for found in _STATEMENT.finditer(text)]):
        tree = parse(text[:start])
        if tree and tree.body:
            # Without comments on what was cut away.
            return "\n".join(text[:start].split("\n")[: tree.body[-1].end_lineno])
    return None


def judge(seed: Seed, code: str | None, protected: Protected) -> dict[str, str]:
    """{"text": what is kept} or {"refused": why}."""
    if code is None:
        return {"refused": "no code"}
    tree = parse(code)
    if tree is None:
        return {"refused": "syntax error"}
    text = clean(seed.path, code.encode())
    if text is None:
        return {"refused": "filter"}
    if not any(isinstance(node, _DEFINITIONS) for node in ast.walk(tree)):
        return {"refused": "no definition"}
    found, near = shingles(text), NearDuplicates()
    near.seen(shingles(seed.text))
    near.seen(shingles(seed.excerpt))
    if near.seen(found):
        return {"refused": "near its seed"}
    if reason := protected.matches(found):
        return {"refused": f"protected: {reason}"}
    return {"text": text}


def read_answers(path: Path) -> dict[str, dict[str, str]]:
    """Earlier answers by seed; a half-written one at the end is cut away.

    Where the server had none, it is worth asking again: these are left out.

    Raises:
        SynthesisError: another line is damaged.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    answers: dict[str, dict[str, str]] = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            row = json.loads(line)
            answers[row.pop("seed")] = row
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SynthesisError(f"{path}: line {number} is damaged") from error
    return {seed: row for seed, row in answers.items() if row != _NO_ANSWER}


def collect(
    seeds: Iterable[Seed],
    endpoint: Endpoint,
    parallel: int,
    keep: Callable[[Seed, Answer | None], None],
) -> None:
    """Ask for a file a seed; `keep` gets the answers as they come, None where there is none.

    Raises:
        SynthesisError: after all that was answered has been kept.
    """
    failure: SynthesisError | None = None
    unanswered = 0
    with ThreadPoolExecutor(parallel) as pool:
        jobs = {pool.submit(endpoint.ask, seed): seed for seed in seeds}
        try:
            for job in as_completed(jobs):
                try:
                    keep(jobs[job], job.result())
                    unanswered = 0
                except NoAnswerError as error:
                    keep(jobs[job], None)
                    unanswered += 1
                    if unanswered >= _MOST_NO_ANSWER:
                        times = f"no answer {unanswered} times in a row"
                        failure = failure or SynthesisError(f"{times}: the last time {error}")
                        endpoint.stop.set()
                except SynthesisError as error:
                    failure = failure or error
                    endpoint.stop.set()
        finally:
            endpoint.stop.set()  # or the pool would ask to the end before it closes
    if failure:
        raise failure


def finish(seeds: list[Seed], answers: dict[str, dict[str, str]], out: Path) -> dict[str, Any]:
    """Write the shards, in the order of the seeds, and `report.json`; returns the report."""
    near = NearDuplicates()
    refused: Counter[str] = Counter()
    rows: list[Document] = []
    for seed in seeds:
        answer = answers[seed.name]
        if "refused" in answer:
            refused[answer["refused"]] += 1
        elif near.seen(shingles(answer["text"])):
            refused["near-duplicate"] += 1
        else:
            repo = f"synthesis/{seed.repo.replace('/', '+')}"
            rows.append({"repo": repo, "path": seed.path, "text": answer["text"]})
    for old in out.glob("shard-*.jsonl.zst"):
        old.unlink()
    write_shards(rows, out)
    report = {"asked": len(seeds), "kept": len(rows), "refused": dict(sorted(refused.items()))}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _synthesize(
    options: argparse.Namespace, token: str | None, stop: threading.Event
) -> dict[str, Any]:
    out: Path = options.out
    path = out / "answers.jsonl"
    if not path.exists() and any(out.glob("shard-*.jsonl.zst")):
        raise SynthesisError(f"{out} holds another corpus")
    protected = Protected(benchmark_texts(options.benchmarks), ())
    seeds = draw(read_shards(options.data), options.count, options.seed)
    if not seeds:
        raise SynthesisError("there are no files in the data")
    out.mkdir(parents=True, exist_ok=True)
    answers = read_answers(path)
    client = httpx.Client(
        # No redirects and no proxies: excerpts and token go where the user said, nowhere else.
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
        limits=httpx.Limits(max_connections=options.parallel),
        trust_env=False,
        verify=ssl.create_default_context(),
    )
    with client, path.open("ab") as file:

        def keep(seed: Seed, answer: Answer | None) -> None:
            row = judge(seed, code_of(answer, options.api), protected) if answer else _NO_ANSWER
            line = json.dumps({"seed": seed.name, **row}, ensure_ascii=False) + "\n"
            file.write(line.encode())
            file.flush()
            answers[seed.name] = row

        missing = [seed for seed in seeds if seed.name not in answers]
        collect(missing, Endpoint(client, options, stop), options.parallel, keep)
    return finish(seeds, answers, out)


def main(arguments: list[str] | None = None, stop: threading.Event | None = None) -> int:
    """Command line; returns the exit status. `stop` ends it early, and is what waits."""
    parser = argparse.ArgumentParser(prog="python -m models.training.synthesis")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="shards of the seeds")
    parser.add_argument("--url", required=True, help="server's address, with or without /v1")
    parser.add_argument("--model", required=True, help="name that the server knows it by")
    parser.add_argument("--out", type=Path, required=True, help="folder for answers and shards")
    parser.add_argument("--count", type=int, default=1000, help="files to ask for")
    parser.add_argument("--api", choices=("chat", "completions"), default="chat")
    parser.add_argument("--token-env", metavar="VARIABLE", help="where the token is read from")
    parser.add_argument("--parallel", type=int, default=4, help="requests at a time")
    parser.add_argument("--seed", type=int, default=0, help="which files are drawn")
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens of one answer")
    parser.add_argument("--benchmarks", type=Path, default=Path("../shared/benchmarks"))
    options = parser.parse_args(arguments)
    for name in ("count", "parallel", "tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    token = None
    if options.token_env:
        token = os.environ.get(options.token_env, "").strip()
        # A header that cannot be sent would be quoted in the error.
        if not (token and token.isascii() and token.isprintable()):
            parser.error(f"--token-env: {options.token_env} is not set to a token")
    try:
        report = _synthesize(options, token, stop or threading.Event())
    except (SynthesisError, ShardError, SourceError, OSError) as error:
        print(f"models.training.synthesis: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
