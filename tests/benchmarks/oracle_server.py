"""The real server around an engine that knows the text; a script that tests start.

Its argument is a file. Of each line that file holds it suggests the rest, from the fourth
character on; asked again inside the same line it says that the user types through it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from completion.types import (
    CompletionRequest,
    Hidden,
    HiddenReason,
    Outcome,
    Record,
    Source,
    Suggestion,
)
from lsp_server.server import create_server, serve
from lsp_server.session import Loaded


class Oracle:
    """Suggests the one line that begins as the cursor's line does."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = [*lines, "        total += number"]
        self._offered = ""

    def complete(self, request: CompletionRequest) -> Outcome:
        line = request.text[: request.offset].rpartition("\n")[2]
        found = [other for other in self._lines if other != line and other.startswith(line)]
        record = Record(prompt_tokens=100, reused_tokens=20, generated_tokens=5)
        if len(line.strip()) < 4 or len(found) != 1:
            return Hidden(HiddenReason.EMPTY, "nothing here", record)
        if self._offered == found[0]:
            record = Record(source=Source.TYPED_THROUGH)
        else:
            # The clock of the benchmark has to see that the model ran.
            time.sleep(0.02)
            record.source = Source.MODEL
        self._offered = found[0]
        insert = found[0].removeprefix(line)
        return Suggestion("id", insert, request.offset, request.offset, record)

    def accepted(self, suggestion_id: str) -> None:
        """Nothing is kept."""

    def prepare(self, request: CompletionRequest) -> None:
        pass

    def forget(self, uri: str) -> None:
        """Nothing is kept."""


def load(model: str | None, threads: int) -> Loaded:
    lines = Path(sys.argv[1]).read_text().split("\n")
    return Loaded(Oracle(lines), lambda: 3_000_000)


if __name__ == "__main__":
    sys.exit(serve(create_server(load=load)))
