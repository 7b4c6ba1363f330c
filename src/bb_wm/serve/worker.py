"""One thread that work is given to with a deadline, so that what hangs in it holds up nobody."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """The work did not end in time, or earlier work still has not."""


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.done = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.work()
        except BaseException as error:  # it is the caller's to raise
            self.error = error
        self.done.set()


class Worker:
    """A daemon thread; one job at a time, in order. Nothing waits for it at exit."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._last: _Job[Any] | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` gives. Raises LateError after `seconds` (it goes on, unheard), or at once
        where earlier work is still hanging; what `work` raises is raised here."""
        job = _Job(work)
        if not self._turn.acquire(timeout=max(seconds, 0.0)):
            raise LateError("the queue is full")
        try:
            if self._last is not None and not self._last.done.is_set():
                raise LateError("earlier work is still hanging")
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, daemon=True, name="bb_wm-judge")
                self._thread.start()
            self._last = job
            self._jobs.put(job)
            if not job.done.wait(max(seconds, 0.0)):
                raise LateError(f"not done within {seconds:g} s")
        finally:
            self._turn.release()
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[return-value]

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
