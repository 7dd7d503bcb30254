"""Server-sent events as completion servers send them: `data:` lines, in pieces of any size."""

from __future__ import annotations

from models.errors import RemoteProtocolError

_MOST_BYTES = 1_000_000


class EventReader:
    """Puts the `data` of events together from a response's bytes.

    Other fields and comments are skipped. One `data` line is one event, as every completion
    server writes it.
    """

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[str]:
        """The events that `data` completes.

        Raises:
            RemoteProtocolError: not UTF-8, or a line that does not end.
        """
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > _MOST_BYTES:
            raise RemoteProtocolError(f"a line of the answer exceeds {_MOST_BYTES} bytes")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                try:
                    events.append(line[5:].decode("utf-8").strip())
                except UnicodeDecodeError:
                    raise RemoteProtocolError("the answer is not UTF-8") from None
        return events
