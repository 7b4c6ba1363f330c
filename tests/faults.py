"""Faults at every file call of a piece of code: kill -9 in a forked child, or an OSError here."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink")


@contextlib.contextmanager
def before_each_call(action: Callable[[int], None]) -> Iterator[None]:
    """Run `action(k)` before the k-th file call (counted from 0)."""
    count = 0
    originals = {name: getattr(os, name) for name in CALLS}

    def wrap(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            here, count = count, count + 1
            action(here)
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in CALLS:
            setattr(os, name, wrap(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def kill_before_call(k: int, work: Callable[[], None]) -> bool:
    """Run `work` in a forked child that is killed -9 before its k-th file call; was it killed?"""
    pid = os.fork()
    if pid == 0:

        def action(here: int) -> None:
            if here == k:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with before_each_call(action):
                work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return False


def failing(k: int, number: int, *, for_ever: bool) -> contextlib.AbstractContextManager[None]:
    """The k-th file call (and all later ones) fails with errno `number`."""

    def action(here: int) -> None:
        if here == k or (for_ever and here > k):
            raise OSError(number, os.strerror(number))

    return before_each_call(action)
