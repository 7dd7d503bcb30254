"""Ends the server when the editor that started it is gone (LSP 3.18, `processId`).

Usually the closed input ends it. An editor that was killed may leave the pipe open in a child
of its own, and then this is what keeps servers from piling up.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

logger = logging.getLogger(__name__)

_INTERVAL_S = 2.0


def is_alive(process_id: int) -> bool:
    """Whether a process exists. A dead one that nobody waited for is not alive."""
    if sys.platform == "win32":
        # os.kill would end the process there; without a handle it cannot be asked.
        return _is_alive_on_windows(process_id)
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return not _is_zombie(process_id)


def _is_zombie(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat", "rb") as stream:  # noqa: PTH123 - polled
            return stream.read().rpartition(b")")[2].split()[:1] == [b"Z"]
    except OSError:
        # No such file system (macOS), or the process ended in between: the next look tells.
        return False


def _is_alive_on_windows(process_id: int) -> bool:
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    synchronize, timeout = 0x00100000, 0x102
    handle = kernel.OpenProcess(synchronize, False, process_id)
    if not handle:
        return False
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == timeout)
    finally:
        kernel.CloseHandle(handle)


def end_process(status: int) -> NoReturn:
    """End the process at once, whatever its threads are at.

    A thread inside the model, which may be loading, cannot be told to stop. The interpreter's own
    way out ends it where it next wants the interpreter, and aborts the process if that is below
    a C++ frame.
    """
    logging.shutdown()
    os._exit(status)


def _end() -> None:
    logger.warning("the editor is gone; the server ends")
    end_process(1)


def watch(
    process_id: int | None, end: Callable[[], None] = _end, interval_s: float = _INTERVAL_S
) -> threading.Thread | None:
    """Call `end` within `interval_s` after a process ended; returns the watching thread.

    A process that cannot be seen from the start (None, or an editor outside of this container)
    is not watched.
    """
    if process_id is None or process_id <= 0 or not is_alive(process_id):
        return None

    def wait() -> None:
        while is_alive(process_id):
            time.sleep(interval_s)
        end()

    thread = threading.Thread(target=wait, name="parent-watch", daemon=True)
    thread.start()
    return thread
