"""One file or one directory name at a time: written beside, fsynced, renamed into place."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

from bb_wm.errors import BBWMError, SaveError

MAX_BYTES: Final = 16 << 30  # of all that is read at once

Bytes = bytes | bytearray | memoryview

_TEMPORARY: Final = re.compile(r"\.tmp-(\d+)-([0-9a-f]{8})-\d+-(.+)")
_TOKEN: Final = secrets.token_hex(4)  # tells ours from those of a dead process of our pid
_COUNTER: Final = itertools.count()


def write_file(path: str | os.PathLike[str], data: Bytes) -> None:
    """Replace one file atomically; durable on return. SaveError: the old file is intact."""
    target = Path(os.path.realpath(path))
    temporary = temporary_path(target)
    try:
        write_new(temporary, data)
        os.replace(temporary, target)
    except OSError as cause:
        remove(temporary)
        raise save_error(target, cause) from cause
    except BaseException:
        remove(temporary)
        raise
    try:
        sync_directory(target.parent)
    except OSError as cause:
        hint = "the new file is in place, but may not survive a power cut."
        raise save_error(target, cause, hint) from cause


def read_file(
    path: str | os.PathLike[str],
    *,
    error: type[BBWMError],
    field: str = "path",
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """All bytes of a regular file; `error` for a FIFO, device, directory, or one above the cap."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: a FIFO would block
            raise error(field, expected="a regular file", actual=os.fspath(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as cause:
        if isinstance(cause, BBWMError):
            raise
        raise error(field, expected="a readable file", actual=f"{path}: {reason(cause)}") from cause
    return read_descriptor(descriptor, error, field, str(path), max_bytes, None)


def read_descriptor(
    descriptor: int, error: type[BBWMError], field: str, name: str, cap: int, size: int | None
) -> bytes:
    """All bytes of an open regular file of `size` bytes, at most `cap`; closes it."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(field, expected="a regular file", actual=name)
        if size is not None and status.st_size != size:
            raise error(field, expected=f"{size} bytes in {name}", actual=f"{status.st_size} bytes")
        if status.st_size > cap:
            raise error(
                field, expected=f"at most {cap} bytes", actual=f"{status.st_size} in {name}"
            )
        with open(descriptor, "rb", closefd=False) as stream:
            data: bytes = stream.read(status.st_size + 1)  # one more would show that it grew
        if len(data) != status.st_size:
            raise error(field, expected=f"{status.st_size} bytes in {name}", actual=len(data))
    except OSError as cause:
        if isinstance(cause, error):
            raise
        raise error(field, expected="a readable file", actual=f"{name}: {reason(cause)}") from cause
    finally:
        os.close(descriptor)
    return data


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory with all its parents, created durably where absent."""
    target = Path(os.path.realpath(path))
    missing = [target, *target.parents]
    missing = list(itertools.takewhile(lambda p: not p.is_dir(), missing))
    try:
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory)
            if not directory.is_dir():
                raise NotADirectoryError(20, "exists and is not a directory", str(directory))
            sync_directory(directory.parent)
    except OSError as cause:
        raise save_error(target, cause) from cause
    return target


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clean_temporaries(directory: str | os.PathLike[str], name: str | None = None) -> int:
    """Remove what dead writers left (of one target `name`, or all); how many were removed."""
    removed = 0
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return 0
    for entry in entries:
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or (name is not None and match[3] != name):
            continue
        pid = int(match[1])
        if match[2] == _TOKEN if pid == os.getpid() else _alive(pid):
            continue
        remove(Path(entry.path))
        removed += 1
    return removed


def save_error(path: object, cause: OSError, hint: str = "") -> SaveError:
    """The SaveError for a failed write, with its errno."""
    known = {
        28: "free some disk space.",
        122: "free some disk quota.",
        30: "file system is read-only.",
    }
    error = SaveError(
        "path",
        expected="a place that can be written",
        actual=f"{path}: {reason(cause)}",
        hint=hint or known.get(cause.errno or 0, "what was there before is intact."),
    )
    error.errno = cause.errno
    return error


def reason(cause: BaseException) -> str:
    """Why, in the words of the system."""
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def temporary_path(target: Path) -> Path:
    """A name beside `target` that no other writer uses."""
    return target.parent / f".tmp-{os.getpid()}-{_TOKEN}-{next(_COUNTER)}-{target.name}"


def write_new(path: Path, data: Bytes) -> None:
    """Write a file that must not exist yet, and fsync it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or folder if it can be; never raises OSError."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
