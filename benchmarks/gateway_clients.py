"""Editors of the gateway benchmark: each types its part of the trace, in real time.

Every editor's names carry a word of its own (`values` is `values_oak`), so that text that was
meant for another editor shows itself.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import keyword
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.trace import Place, Session, keystrokes

WORDS = (
    *("oak", "elm", "ash", "fir", "yew", "bay", "fig", "gum"),
    *("box", "may", "ivy", "rue", "tea", "pea", "hop", "rye"),
)
"""As different as words of the same length are: a small model may copy a number wrongly."""
ANSWER_LIMIT_S = 30.0
SUPERSEDED = 499
_LINES_BEFORE, _LINES_AFTER = 256, 64
"""What llama.vim sends."""
_NAME = re.compile(r"\b[A-Za-z_]\w{5,}\b")
_KNOWN = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"import", "return", "lambda"}
_TIMING = re.compile(r"engine;dur=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        word: of the editor that asked.
        status: of the answer; None where there was none in time, or no connection.
        content: what was suggested.
        milliseconds: the client's time.
        engine_ms: the engine's own time, where the gateway told it.
    """

    word: str
    status: int | None
    content: str
    milliseconds: float
    engine_ms: float | None

    @property
    def foreign(self) -> bool:
        """Whether another editor's text came."""
        others = "|".join(word for word in WORDS if word != self.word)
        return re.search(rf"_({others})\b", self.content) is not None


def tagged(session: Session, word: str) -> Session:
    """The same file with the editor's word behind every longer name."""

    def tag(match: re.Match[str]) -> str:
        name = match[0]
        return name if name in _KNOWN else f"{name}_{word}"

    return replace(session, lines=tuple(_NAME.sub(tag, line) for line in session.lines))


def bodies(session: Session, place: Place) -> Iterator[tuple[dict[str, Any], float]]:
    """What llama.vim would send after each key of a place, and the seconds before the next key."""
    keys = keystrokes(session.lines[place.start : place.end])
    before = "\n".join(session.lines[max(0, place.start - _LINES_BEFORE) : place.start])
    after = "\n".join(["", *session.lines[place.end : place.end + _LINES_AFTER]])
    typed = ""
    for index, key in enumerate(keys):
        typed += key
        head, _, line = (before + typed).rpartition("\n")
        gap = place.gaps_ms[index % len(place.gaps_ms)] / 1000
        yield (
            {
                "input_prefix": head + "\n",
                "prompt": line,
                "input_suffix": after,
                "n_predict": 128,
                "t_max_prompt_ms": 500,
                "t_max_predict_ms": 1000,
                "stream": False,
            },
            gap,
        )


async def ask(client: httpx.AsyncClient, word: str, body: dict[str, Any]) -> Asked:
    """One request as the editor of that word."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            answer = await client.post("/infill", json=body, headers={"X-Client-Id": word})
    except (httpx.HTTPError, TimeoutError):
        return Asked(word, None, "", (time.perf_counter() - began) * 1e3, None)
    elapsed = (time.perf_counter() - began) * 1e3
    content = answer.json().get("content", "") if answer.status_code == 200 else ""
    engine_ms = _engine_ms(answer.headers.get("server-timing"))
    return Asked(word, answer.status_code, content, elapsed, engine_ms)


def _engine_ms(timing: str | None) -> float | None:
    found = _TIMING.search(timing or "")
    return float(found[1]) if found else None


def type_in_turn(address: str, files: Sequence[Session], most: int) -> list[Asked]:
    """One editor alone, each request behind the answer of the last; at most `most` requests.

    Through `http.client`, from bytes to bytes: what a larger library adds is not the gateway's.
    """
    asked: list[Asked] = []
    place_of = urlsplit(address)
    connection = HTTPConnection(place_of.hostname or "", place_of.port, timeout=ANSWER_LIMIT_S)
    headers = {"Content-Type": "application/json", "X-Client-Id": WORDS[0]}
    typed = (
        body for session in files for place in session.places for body in bodies(session, place)
    )
    for body, _ in islice(typed, most):
        sent = json.dumps(body).encode()
        began = time.perf_counter()
        connection.request("POST", "/infill", sent, headers)
        answer = connection.getresponse()
        received = answer.read()
        elapsed = (time.perf_counter() - began) * 1e3
        content = json.loads(received).get("content", "")
        engine_ms = _engine_ms(answer.headers.get("server-timing"))
        asked.append(Asked(WORDS[0], answer.status, content, elapsed, engine_ms))
    connection.close()
    return asked


async def type_all(address: str, files: Sequence[Session], seconds: float) -> list[Asked]:
    """An editor for each of `WORDS`, all at once, for so long; keys do not wait for answers."""
    give_up = time.monotonic() + seconds

    async def editor(index: int, word: str) -> list[Asked]:
        pending: list[asyncio.Task[Asked]] = []
        async with httpx.AsyncClient(base_url=address, timeout=ANSWER_LIMIT_S) as client:
            while time.monotonic() < give_up:
                first = index % len(files)
                for session in [*files[first:], *files[:first]]:
                    own = tagged(session, word)
                    for place in own.places:
                        for body, gap in bodies(own, place):
                            if time.monotonic() >= give_up:
                                return list(await asyncio.gather(*pending))
                            pending.append(asyncio.create_task(ask(client, word, body)))
                            await asyncio.sleep(gap)
        return list(await asyncio.gather(*pending))

    editors = await asyncio.gather(*(editor(i, word) for i, word in enumerate(WORDS)))
    return [one for asked in editors for one in asked]
