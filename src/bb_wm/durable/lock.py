"""One writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref

from bb_wm.durable.files import make_directory, save_error
from bb_wm.errors import LockError


class RunLock:
    """The right to write in a directory; a second writer gets LockError at once.

    It is the kernel's lock on `lock` in that directory, so a dead holder's is free by itself.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = make_directory(directory) / "lock"
        self._descriptor: int | None = None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as cause:
            raise save_error(self.path, cause) from cause
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LockError(
                "path",
                expected="a run that no other process writes to",
                actual=f"{self.path.parent} held by process {holder or 'unknown'}",
                hint="wait for it to end, or use another directory.",
            ) from cause
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # only for the message above
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        _HELD.add(self)

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        """Let others write; harmless when released before."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.release()


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _release_in_child() -> None:
    # A forked worker would otherwise keep the lock of its dead parent.
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
