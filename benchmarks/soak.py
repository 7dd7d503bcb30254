"""Edits, asks, cancels and disturbs one server after another for a long time.

Usage: python -m benchmarks.soak [--steps N] [--seed K] [--model PATH] [--json]

A third of the steps runs in each position encoding, against a server of its own. Keys: steps,
unanswered (requests without an answer within thirty seconds), text_mismatches (the server's
documents, compared by SHA-256 every hundred steps, are not the client's), rss_growth (largest
share by which a server's memory grew after the first half of its steps; null where there is no
/proc). Exit status 1 if the first two are not 0.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import own_state, parser, report
from benchmarks.latency import resident_mb, server_command
from benchmarks.lsp_client import Answer, LspClient, ServerError

ENCODINGS = ("utf-8", "utf-16", "utf-32")
ANSWER_S = 30.0
CHECKED_EVERY = 100
WARM_SHARE = 0.5
"""Buffers for every length of prompt are there after about 14,000 steps; then memory is level."""
DOCUMENTS = 6
MAX_CHARACTERS = 6_000
PIECES = (
    "x", " ", "self.", "return ", "\n", "\r\n", "\r", "\t", "é", "漢", "😀", "\f", "\u2028",
    "(", ")",
    "def name(a, b):\n    ", "print(", '"""text"""\n', "import os\n", "# comment 😀é\n", "\n\n    ",
)  # fmt: skip


def units(text: str, encoding: str) -> int:
    """Length of `text` in the units of a position encoding."""
    if encoding == "utf-8":
        return len(text.encode())
    return len(text) if encoding == "utf-32" else len(text.encode("utf-16-le")) // 2


def position(text: str, offset: int, encoding: str) -> dict[str, int]:
    """Line and character of an offset, by LSP's line ends, found by counting them."""
    before = text[:offset]
    normal = before.replace("\r\n", "\n").replace("\r", "\n")
    last = max(before.rfind("\n"), before.rfind("\r"))
    return {"line": normal.count("\n"), "character": units(before[last + 1 :], encoding)}


class Walk:
    """One client that does something at random, with its own idea of every document."""

    def __init__(self, client: LspClient, encoding: str, draw: random.Random) -> None:
        self._client, self._encoding, self._draw = client, encoding, draw
        self._texts: dict[str, str] = {}
        self._waiting: list[tuple[int, Answer]] = []
        self._folders = 0
        self.unanswered = 0
        self.mismatches = 0

    def start(self) -> None:
        """Open the connection."""
        capabilities = {"general": {"positionEncodings": [self._encoding]}}
        params = {"processId": None, "rootUri": None, "capabilities": capabilities}
        answer = self._client.call("initialize", params)
        if answer["capabilities"]["positionEncoding"] != self._encoding:
            raise ServerError(f"the server does not take {self._encoding}")
        self._client.notify("initialized", {})

    def step(self) -> None:
        """One action of an editor."""
        actions: tuple[tuple[int, Callable[[], None]], ...] = (
            (60, self._edit),
            (20, self._ask),
            (8, self._cancel),
            (4, self._reopen),
            (2, self._folder),
            (3, self._feedback),
            (3, self._disturb),
        )
        weights = [weight for weight, _ in actions]
        self._draw.choices([action for _, action in actions], weights)[0]()

    def check(self) -> None:
        """Wait for every answer and compare the documents."""
        for _, answer in self._waiting:
            self.unanswered += not answer.wait(ANSWER_S)
        self._waiting.clear()
        found = self._client.call("snowcoder/documents", {})
        own = {uri: hashlib.sha256(t.encode()).hexdigest() for uri, t in self._texts.items()}
        self.mismatches += sum(found.get(uri) != value for uri, value in own.items())
        self.mismatches += len(set(found) - set(own))

    def _uri(self) -> str:
        return f"file:///soak/{self._draw.randrange(DOCUMENTS)}.py"

    def _open(self, uri: str) -> None:
        text = "".join(self._draw.choices(PIECES, k=self._draw.randrange(200)))
        self._texts[uri] = text
        item = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self._client.notify("textDocument/didOpen", {"textDocument": item})

    def _edit(self) -> None:
        if (uri := self._uri()) not in self._texts:
            self._open(uri)
        changes = [self._change(uri) for _ in range(self._draw.choice((1, 1, 1, 2, 3)))]
        params = {"textDocument": {"uri": uri, "version": 2}, "contentChanges": changes}
        self._client.notify("textDocument/didChange", params)

    def _change(self, uri: str) -> dict[str, Any]:
        text, draw = self._texts[uri], self._draw
        piece = "".join(draw.choices(PIECES, k=draw.randrange(4)))
        if draw.random() < 0.02 or len(text) > MAX_CHARACTERS:
            self._texts[uri] = piece
            return {"text": piece}
        start = self._offset(text)
        end = min(len(text), start + draw.choice((0, 0, 0, 1, 5, 40)))
        end -= text[end - 1 : end + 1] == "\r\n" and end > start
        span = {
            "start": position(text, start, self._encoding),
            "end": position(text, end, self._encoding),
        }
        self._texts[uri] = text[:start] + piece + text[end:]
        return {"range": span, "text": piece}

    def _offset(self, text: str) -> int:
        """A place where a cursor may stand: not inside a line end of two characters."""
        offset = self._draw.randint(0, len(text))
        return offset - (text[offset - 1 : offset + 1] == "\r\n" and offset > 0)

    def _ask(self) -> None:
        uri = self._uri()
        text = self._texts.get(uri, "")
        params = {
            "textDocument": {"uri": uri},
            "position": position(text, self._offset(text), self._encoding),
            "context": {"triggerKind": self._draw.choice((1, 2, 2, 2))},
        }
        self._waiting.append(self._client.request("textDocument/inlineCompletion", params))

    def _cancel(self) -> None:
        if self._waiting:
            self._client.cancel(self._draw.choice(self._waiting)[0])

    def _reopen(self) -> None:
        if self._texts.pop(uri := self._uri(), None) is None:
            self._open(uri)
        else:
            self._client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def _folder(self) -> None:
        self._folders = (self._folders + 1) % 4
        folder = {"uri": f"file:///nowhere/{self._folders}", "name": "folder"}
        event = {"added": [folder], "removed": []}
        if self._draw.random() < 0.5:
            event = {"added": [], "removed": [folder]}
        self._client.notify("workspace/didChangeWorkspaceFolders", {"event": event})

    def _feedback(self) -> None:
        item = {"command": {"arguments": [f"{self._draw.random()}"]}}
        event = self._draw.choice(("didShow", "didPartiallyAccept", "didDismiss"))
        self._client.notify(f"textDocument/{event}Completion", {"item": item})

    def _disturb(self) -> None:
        """What should not happen and does: each must cost nothing but itself."""
        fault = self._draw.randrange(6)
        if fault == 0:
            self._waiting.append(self._client.request("textDocument/inlineCompletion", {}))
        elif fault == 1:
            params = {"textDocument": {"uri": "file:///closed.py", "version": 1}}
            self._client.notify("textDocument/didChange", {**params, "contentChanges": []})
        elif fault == 2:
            settings = {"snowcoder": {"deadlineMs": self._draw.choice((100, 400, "soon"))}}
            self._client.notify("workspace/didChangeConfiguration", {"settings": settings})
        elif fault == 3:
            self._client.notify("workspace/didDeleteFiles", {"files": [{"uri": self._uri()}]})
        elif fault == 4:
            self._client.cancel(-1)
        else:
            for command in ("snowcoder.pause", "snowcoder.resume"):
                asked = self._client.request("workspace/executeCommand", {"command": command})
                self._waiting.append(asked)


def soak(command: Sequence[str], steps: int, seed: int) -> dict[str, Any]:
    """Do so many steps and report."""
    unanswered = mismatches = done = 0
    growth: list[float] = []
    began = time.perf_counter()
    for index, encoding in enumerate(ENCODINGS):
        share = steps // len(ENCODINGS) + (index < steps % len(ENCODINGS))
        with LspClient(command) as client:
            walk = Walk(client, encoding, random.Random(f"{seed} {encoding}"))
            walk.start()
            warm: float | None = None
            for step in range(1, share + 1):
                walk.step()
                if step % CHECKED_EVERY == 0 or step == share:
                    walk.check()
                    if warm is None and step >= share * WARM_SHARE:
                        warm = resident_mb(client.process.pid)
            last = resident_mb(client.process.pid)
            if warm and last:
                growth.append(last / warm - 1)
        unanswered, mismatches = unanswered + walk.unanswered, mismatches + walk.mismatches
        done += share
    return {
        "steps": done,
        "unanswered": unanswered,
        "text_mismatches": mismatches,
        "rss_growth": round(max(growth), 4) if growth else None,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=3000)
    arguments = options.parse_args(given)
    with own_state():
        command = server_command(arguments.threads, arguments.model)
        result = soak(command, arguments.steps, arguments.seed)
    report(result, arguments.json)
    return 1 if result["unanswered"] or result["text_mismatches"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
