from __future__ import annotations

import threading

import pytest

from lsp_server.worker import Worker, WorkerDiedError


def test_jobs_run_in_order_and_errors_are_theirs() -> None:
    worker = Worker("test")
    done: list[int] = []
    jobs = [worker.submit(lambda number=number: done.append(number)) for number in range(5)]
    failing = worker.submit(lambda: 1 // 0)
    assert worker.submit(lambda: "after").result(10) == "after"
    assert done == [0, 1, 2, 3, 4]
    assert all(job.done() for job in jobs)
    assert isinstance(failing.exception(), ZeroDivisionError)
    worker.close(10)


def test_a_thread_that_ends_fails_all_that_wait() -> None:
    worker = Worker("test")
    go = threading.Event()

    def die() -> None:
        go.wait()
        raise SystemExit

    jobs = [worker.submit(die), worker.submit(lambda: None)]
    go.set()
    for job in jobs:
        with pytest.raises(WorkerDiedError):
            job.result(10)
    with pytest.raises(WorkerDiedError):
        worker.submit(lambda: None).result(10)


def test_closing_does_not_wait_for_a_job_that_hangs() -> None:
    worker = Worker("test")
    release, running = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        release.wait()

    worker.submit(hang)
    running.wait()
    waiting = worker.submit(lambda: None)
    worker.close()
    assert isinstance(waiting.exception(10), WorkerDiedError)
    release.set()
