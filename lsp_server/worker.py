"""One thread that runs jobs in order, can be given up, and never keeps the process alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerDiedError(Exception):
    """The thread ended while a job was running or waiting."""


class Worker:
    """Unlike an executor's, its thread is a daemon: a job that hangs cannot block the exit.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue a job. Its future fails with `WorkerDiedError` if the thread ends before it."""
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                future.set_exception(WorkerDiedError("the thread has ended"))
            else:
                self._jobs.put((future, job))
        return future

    def close(self, seconds: float = 0.0) -> None:
        """Take no more jobs, drop those that wait, and wait so long for the one that runs."""
        self._end()
        self._jobs.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:
                # SystemExit and its like end this thread; nobody may wait for it any more.
                future.set_exception(WorkerDiedError(repr(error)))
                self._end()
                return
            else:
                future.set_result(result)

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            while not self._jobs.empty():
                item = self._jobs.get()
                if item is not None and item[0].set_running_or_notify_cancel():
                    item[0].set_exception(WorkerDiedError("the thread has ended"))
