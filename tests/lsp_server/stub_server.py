"""The real server around an engine that needs no weights; a script that tests start.

The engine suggests `<line number>`-independent text that tells what it saw: the text of
the line before the cursor, upper-cased. The line's text steers it:

    slow   waits until it is cancelled
    boom   raises
    shout  prints to standard output, from Python and past it
    die    ends the engine's thread
    told, notes, around, several: see below
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from completion.types import CompletionRequest, Hidden, HiddenReason, Outcome, Record, Suggestion
from lsp_server.server import create_server, serve
from lsp_server.session import Loaded


class StubEngine:
    """Echoes the line; counts what it is told."""

    def __init__(self) -> None:
        self.accepted_ids: list[str] = []
        self.dismissed_ids: list[str] = []
        self.prepared: list[int] = []
        self.forgotten: list[str] = []

    def complete(self, request: CompletionRequest) -> Outcome:
        head = request.text[: request.offset]
        line = head[max(head.rfind("\n"), head.rfind("\r")) + 1 :]
        if "boom" in line:
            raise RuntimeError("boom")
        if "die" in line:
            raise SystemExit
        if "shout" in line:
            print("noise")
            os.write(1, b"noise\n")
        if "slow" in line:
            request.cancel.wait()
            return Hidden(HiddenReason.CANCELLED, "cancelled", Record())
        if "notes" in line:
            insert = f"{self.dismissed_ids} {self.prepared}"
            return Suggestion("notes", insert, request.offset, request.offset, Record())
        if "around" in line:
            insert = repr(request.text[: request.offset] + "|" + request.text[request.offset :])
            return Suggestion("around", insert, request.offset, request.offset, Record())
        if "several" in line:
            one, two = (
                Suggestion(name, name, request.offset, request.offset, Record()) for name in "ab"
            )
            return replace(one, alternatives=(two,)) if request.trigger == "invoked" else one
        if "told" in line:
            insert = f"{self.accepted_ids} {self.forgotten} {request.trigger}"
            return Suggestion("told", insert, request.offset, request.offset, Record())
        if len(request.text) > request.policies.trigger.max_file_bytes:
            return Hidden(HiddenReason.TOO_LARGE, "the file is too large", Record())
        if not line.strip():
            return Hidden(HiddenReason.EMPTY, "nothing here", Record())
        record = Record(prompt_tokens=len(line))
        return Suggestion("id-1", line.upper(), request.offset, request.offset, record)

    def prepare(self, request: CompletionRequest) -> None:
        self.prepared.append(request.offset)

    def accepted(self, suggestion_id: str) -> None:
        self.accepted_ids.append(suggestion_id)

    def dismissed(self, suggestion_id: str) -> None:
        self.dismissed_ids.append(suggestion_id)

    def forget(self, uri: str) -> None:
        self.forgotten.append(uri)


def load(model: str | None, threads: int) -> Loaded:
    if model == "broken":
        raise RuntimeError("the weights are broken")
    return Loaded(StubEngine(), lambda: 1_500_000)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr)
    sys.exit(serve(create_server(load=load), sys.argv[1] if sys.argv[1:] else None))
