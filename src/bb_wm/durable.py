"""Files and directories that are either the old ones or the new ones, whole, after any crash.

Everything is written beside its place, fsynced, renamed into place, and the directory fsynced. A
directory carries `manifest.json` with size and SHA-256 of every member and a seal over itself, so a
reader gets bytes only after every digest agrees. Standard library only; POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bb_wm.errors import BBWMError, CheckpointError, LockError, PathError, SaveError, VersionError

SCHEMA: Final = 1
MANIFEST: Final = "manifest.json"
MAX_JSON_BYTES: Final = 1 << 20
MAX_JSON_DEPTH: Final = 32
MAX_JSON_DIGITS: Final = 64
MAX_MEMBERS: Final = 10_000
MAX_BYTES: Final = 16 << 30  # of all members read at once

Bytes = bytes | bytearray | memoryview

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_RESERVED: Final = {"con", "prn", "aux", "nul"} | {
    f"{p}{i}" for p in ("com", "lpt") for i in "123456789"
}
_TEMPORARY: Final = re.compile(r"\.tmp-(\d+)-([0-9a-f]{8})-\d+-(.+)")
_TOKEN: Final = secrets.token_hex(
    4
)  # tells our temporaries from those of a dead process of our pid
_COUNTER: Final = itertools.count()


# --- names, JSON ---------------------------------------------------------------------------------


def check_name(name: object, field: str = "name") -> str:
    """The name, when it is a harmless file name; PathError otherwise."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        if name.split(".")[0].lower() not in _RESERVED:
            return name
    raise PathError(
        field,
        expected="1 to 64 characters of A-Z a-z 0-9 . _ - not starting with a dot",
        actual=ascii(name),
    )


def dump_json(value: Any, field: str = "meta") -> bytes:
    """Canonical JSON: sorted, indented, ASCII. SaveError where it would not come back the same."""
    _check_json(value, field, 0)
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def _check_json(value: Any, field: str, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise SaveError(field, expected=f"at most {MAX_JSON_DEPTH} levels", actual="more")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SaveError(field, expected="keys that are strings", actual=repr(key))
            _check_json(item, f"{field}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{field}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise SaveError(field, expected="a finite number", actual=value)
    elif value is not None and not isinstance(value, bool | int | str):
        raise SaveError(field, expected="plain JSON values", actual=type(value).__name__)


def load_json(
    data: bytes,
    *,
    error: type[BBWMError],
    field: str = "json",
    max_bytes: int = MAX_JSON_BYTES,
    max_depth: int = MAX_JSON_DEPTH,
) -> Any:
    """Parsed JSON; `error` on anything doubtful: NaN, 1e999, duplicate keys, depth, size, encoding."""

    def refuse(actual: object) -> BBWMError:
        return error(field, expected="plain JSON in UTF-8", actual=actual)

    def no_constant(text: str) -> float:
        raise refuse(f"the number {text}")

    def real(text: str) -> float:
        number = float(text)
        if not math.isfinite(number) or len(text) > MAX_JSON_DIGITS:
            raise refuse(f"the number {text[:20]}")
        return number

    def whole(text: str) -> int:
        if len(text) > MAX_JSON_DIGITS:
            raise refuse(f"a number of {len(text)} digits")
        return int(text)

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise refuse(f"the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
        return result

    if len(data) > max_bytes:
        raise error(field, expected=f"at most {max_bytes} bytes", actual=f"{len(data)} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=no_constant,
            parse_float=real,
            parse_int=whole,
            object_pairs_hook=no_duplicates,
        )
    except (ValueError, RecursionError) as cause:
        if isinstance(cause, BBWMError):
            raise
        raise refuse(str(cause)[:80]) from None
    level = [value]
    for _ in range(max_depth + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return value
        level = [
            item for node in level for item in (node.values() if isinstance(node, dict) else node)
        ]
    raise error(field, expected=f"at most {max_depth} levels", actual="more")


# --- single files --------------------------------------------------------------------------------


def write_file(path: str | os.PathLike[str], data: Bytes) -> None:
    """Replace one file atomically; durable on return. SaveError: the old file is intact."""
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        _write_new(temporary, data)
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as cause:
        _remove(temporary)
        raise save_error(target, cause) from cause
    except BaseException:
        _remove(temporary)
        raise


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
        raise error(
            field, expected="a readable file", actual=f"{path}: {_reason(cause)}"
        ) from cause
    with open(descriptor, "rb") as stream:
        return _read_stream(stream, error, field, str(path), max_bytes, None)


def _read_stream(
    stream: Any, error: type[BBWMError], field: str, name: str, cap: int, size: int | None
) -> bytes:
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise error(field, expected="a regular file", actual=name)
    if size is not None and status.st_size != size:
        raise error(field, expected=f"{size} bytes in {name}", actual=f"{status.st_size} bytes")
    if status.st_size > cap:
        raise error(field, expected=f"at most {cap} bytes", actual=f"{status.st_size} in {name}")
    try:
        data: bytes = stream.read(status.st_size + 1)  # one more would show that it grew
    except OSError as cause:
        raise error(
            field, expected="a readable file", actual=f"{name}: {_reason(cause)}"
        ) from cause
    if len(data) != status.st_size:
        raise error(
            field, expected=f"{status.st_size} bytes in {name}", actual=f"{len(data)} bytes"
        )
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
        if match[2] == _TOKEN or (int(match[1]) != os.getpid() and _alive(int(match[1]))):
            continue
        _remove(Path(entry.path))
        removed += 1
    return removed


def save_error(path: object, cause: OSError) -> SaveError:
    """The SaveError for a failed write, with its errno."""
    hint = {
        28: "free some disk space.",
        122: "free some disk quota.",
        30: "file system is read-only.",
    }
    error = SaveError(
        "path",
        expected="a place that can be written",
        actual=f"{path}: {_reason(cause)}",
        hint=hint.get(cause.errno or 0, "what was there before is intact."),
    )
    error.errno = cause.errno
    return error


def _reason(cause: BaseException) -> str:
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _temporary(target: Path) -> Path:
    return target.parent / f".tmp-{os.getpid()}-{_TOKEN}-{next(_COUNTER)}-{target.name}"


def _write_new(path: Path, data: Bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
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


# --- directories with a manifest -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """Size and SHA-256 of one file of a committed directory."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed directory holds; `meta` is the writer's own JSON object."""

    members: Mapping[str, Member]
    meta: Mapping[str, Any]
    schema: int = SCHEMA

    def to_bytes(self) -> bytes:
        """manifest.json, sealed: `seal` is the SHA-256 of the same JSON without it."""
        body: dict[str, Any] = {
            "schema": self.schema,
            "members": {
                name: {"bytes": member.bytes, "sha256": member.sha256}
                for name, member in self.members.items()
            },
            "meta": dict(self.meta),
        }
        return dump_json(body | {"seal": hashlib.sha256(dump_json(body)).hexdigest()})


def write_files(
    directory: str | os.PathLike[str],
    files: Mapping[str, Bytes],
    meta: Mapping[str, Any] | None = None,
) -> Manifest:
    """Replace a whole directory atomically by `files` and a manifest; durable on return.

    A directory that was there is first renamed to `.NAME.previous`, which readers fall back to, so
    at every moment the old or the new one can be read. SaveError: the old one is in place.
    """
    target = Path(os.path.realpath(directory))
    members: dict[str, Member] = {}
    for name, data in files.items():
        if check_name(name, "member").lower() in {MANIFEST, *(key.lower() for key in members)}:
            raise PathError("member", expected="distinct names, not manifest.json", actual=name)
        members[name] = Member(memoryview(data).nbytes, hashlib.sha256(data).hexdigest())
    manifest = Manifest(members, dict(meta or {}))
    content = manifest.to_bytes()
    if len(content) > MAX_JSON_BYTES or len(members) > MAX_MEMBERS:
        raise SaveError("meta", expected=f"at most {MAX_JSON_BYTES} bytes", actual=len(content))
    make_directory(target.parent)
    clean_temporaries(target.parent, target.name)
    temporary = _temporary(target)
    try:
        os.mkdir(temporary)
        for name, data in files.items():
            _write_new(temporary / name, data)
        _write_new(temporary / MANIFEST, content)
        sync_directory(temporary)
        _swap(temporary, target)
    except OSError as cause:
        _remove(temporary)
        raise save_error(target, cause) from cause
    except BaseException:
        _remove(temporary)
        raise
    return manifest


def _previous(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def _swap(temporary: Path, target: Path) -> None:
    previous = _previous(target)
    if target.exists():
        _remove(previous)
        os.rename(target, previous)
    try:
        os.rename(temporary, target)
        sync_directory(target.parent)
    except OSError:
        with contextlib.suppress(OSError):
            if previous.exists():
                if target.exists():
                    os.rename(target, temporary)
                os.rename(previous, target)
        raise
    _remove(previous)


def read_manifest(
    directory: str | os.PathLike[str], *, error: type[BBWMError] = CheckpointError
) -> Manifest:
    """The verified manifest of a committed directory, without reading its members."""
    return _read(directory, (), error, MAX_BYTES)[0]


def read_files(
    directory: str | os.PathLike[str],
    names: Iterable[str] | None = None,
    *,
    error: type[BBWMError] = CheckpointError,
    max_bytes: int = MAX_BYTES,
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and members (all, or `names`), only after sizes and digests agree."""
    return _read(directory, None if names is None else tuple(names), error, max_bytes)


def _read(
    directory: str | os.PathLike[str],
    names: tuple[str, ...] | None,
    error: type[BBWMError],
    max_bytes: int,
) -> tuple[Manifest, dict[str, bytes]]:
    target = Path(os.path.realpath(directory))
    for attempt in itertools.count():
        handle = _open_directory(target, error)
        try:
            return _read_members(handle, target, names, error, max_bytes)
        except error:
            # A writer may have replaced the directory while we read its predecessor: look again.
            if attempt >= 3 or not _replaced(handle, target):
                raise
        finally:
            os.close(handle)
    raise AssertionError("unreachable")


def _open_directory(target: Path, error: type[BBWMError]) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    cause: OSError | None = None
    for path in (target, _previous(target), target):  # the last: a swap between the first two
        try:
            return os.open(path, flags)
        except OSError as failure:
            cause = cause or failure
    raise error(
        "path",
        expected="a directory with a manifest",
        actual=f"{target}: {_reason(cause or OSError())}",
    ) from cause


def _replaced(handle: int, target: Path) -> bool:
    try:
        now = os.stat(target)
    except OSError:
        return False
    then = os.fstat(handle)
    return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)


def _read_members(
    handle: int,
    target: Path,
    names: tuple[str, ...] | None,
    error: type[BBWMError],
    max_bytes: int,
) -> tuple[Manifest, dict[str, bytes]]:
    raw = _read_member(handle, target, MANIFEST, error, MAX_JSON_BYTES, None)
    manifest = _parse_manifest(raw, target, error)
    wanted = tuple(manifest.members) if names is None else names
    absent = [name for name in wanted if name not in manifest.members]
    if absent:
        raise error(
            "member", expected=f"{absent[0]!r} in {target}", actual=sorted(manifest.members)
        )
    total = sum(manifest.members[name].bytes for name in wanted)
    if total > max_bytes:
        raise error("path", expected=f"at most {max_bytes} bytes", actual=f"{total} in {target}")
    files = {}
    for name in wanted:
        member = manifest.members[name]
        data = _read_member(handle, target, name, error, max_bytes, member.bytes)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise error(
                "member",
                expected=f"the SHA-256 of the manifest for {target.name}/{name}",
                actual="another one: the file was changed or damaged",
            )
        files[name] = data
    return manifest, files


def _read_member(
    handle: int, target: Path, name: str, error: type[BBWMError], cap: int, size: int | None
) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    label = f"{target.name}/{name}"
    try:
        descriptor = os.open(name, flags, dir_fd=handle)
    except OSError as cause:
        raise error(
            "member",
            expected="a regular file, no link",
            actual=f"{label}: {_reason(cause)}",
        ) from cause
    with open(descriptor, "rb") as stream:
        if os.fstat(descriptor).st_nlink > 1:
            raise error("member", expected="a file with one name", actual=f"hard link {label}")
        return _read_stream(stream, error, "member", label, cap, size)


def _parse_manifest(raw: bytes, target: Path, error: type[BBWMError]) -> Manifest:
    def broken(why: str) -> BBWMError:
        return error("manifest", expected="an intact manifest.json", actual=f"{target}: {why}")

    data = load_json(raw, error=error, field="manifest")
    if not isinstance(data, dict):
        raise broken("not an object")
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        kind = VersionError if issubclass(error, CheckpointError) else error
        raise kind(
            "schema",
            expected=f"at most {SCHEMA}",
            actual=f"{schema} in {target}",
            hint="install a newer bb_wm.",
        )
    try:
        if data.keys() != {"schema", "members", "meta", "seal"} or schema != SCHEMA:
            raise broken("unknown fields")
        if len(data["members"]) > MAX_MEMBERS:
            raise broken("too many members")
        members = {
            check_name(name): Member(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in data["members"].items()
        }
        manifest = Manifest(members, dict(data["meta"]))
        same = manifest.to_bytes() == raw  # canonical, so any changed byte shows
    except (TypeError, ValueError, KeyError, AttributeError, SaveError) as cause:
        if type(cause) is error:
            raise
        raise broken("malformed") from cause
    if not same:
        raise broken("its seal does not fit")
    if len({name.lower() for name in members}) != len(members):
        raise broken("names that differ only in case")
    if any(member.bytes < 0 for member in members.values()):
        raise broken("a negative size")
    return manifest


# --- one writer at a time ------------------------------------------------------------------------


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
