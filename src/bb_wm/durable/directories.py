"""A directory committed as one, with a manifest; read only after every digest agrees."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bb_wm.durable.files import (
    MAX_BYTES,
    Bytes,
    clean_temporaries,
    make_directory,
    read_descriptor,
    reason,
    remove,
    save_error,
    sync_directory,
    temporary_path,
    write_new,
)
from bb_wm.durable.plain import MAX_JSON_BYTES, check_name, seal_json, unseal_json
from bb_wm.errors import BBWMError, CheckpointError, PathError, SaveError, VersionError

SCHEMA: Final = 1
MANIFEST: Final = "manifest.json"
MAX_MEMBERS: Final = 10_000


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
        """manifest.json, sealed."""
        members = {
            name: {"bytes": member.bytes, "sha256": member.sha256}
            for name, member in self.members.items()
        }
        return seal_json({"schema": self.schema, "members": members, "meta": dict(self.meta)})


def write_files(
    directory: str | os.PathLike[str],
    files: Mapping[str, Bytes],
    meta: Mapping[str, Any] | None = None,
) -> Manifest:
    """Replace a whole directory atomically by `files` and a manifest; durable on return.

    A directory that was there is first renamed to `.NAME.previous`, which readers fall back to, so
    at every moment the old or the new one can be read. SaveError: the old one is in place; also
    where the directory holds anything that was not written here.
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
    _check_replaceable(target, {*members, MANIFEST})
    make_directory(target.parent)
    clean_temporaries(target.parent, target.name)
    temporary = temporary_path(target)
    try:
        os.mkdir(temporary)
        for name, data in files.items():
            write_new(temporary / name, data)
        write_new(temporary / MANIFEST, content)
        sync_directory(temporary)
        _swap(temporary, target)
    except SaveError:
        raise
    except OSError as cause:
        remove(temporary)
        raise save_error(target, cause) from cause
    except BaseException:
        remove(temporary)
        raise
    return manifest


def _check_replaceable(target: Path, names: set[str]) -> None:
    """Raise SaveError where replacing would destroy what no `write_files` has written."""
    try:
        found = set(os.listdir(target))
    except FileNotFoundError:
        return
    except OSError as cause:
        raise save_error(target, cause) from cause
    if found - names:
        try:
            names = {*read_manifest(target).members, MANIFEST}
        except CheckpointError as cause:  # damaged or absent; but a failing disk is another matter
            failure = cause.__cause__
            if isinstance(failure, OSError) and not isinstance(failure, FileNotFoundError):
                raise save_error(target, failure) from cause
    if found - names:
        raise SaveError(
            "path",
            expected="a new directory, an empty one, or one saved before",
            actual=f"{target} with {sorted(found - names)[0]!r} in it",
            hint="the whole directory would be replaced; choose another name.",
        )


def _previous(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def _swap(temporary: Path, target: Path) -> None:
    previous = _previous(target)
    if target.exists():
        remove(previous)
        os.rename(target, previous)
    try:
        os.rename(temporary, target)
        sync_directory(target.parent)
    except OSError as cause:
        with contextlib.suppress(OSError):
            if previous.exists():
                if target.exists():
                    os.rename(target, temporary)
                os.rename(previous, target)
        if target.exists() and not temporary.exists():
            hint = "the new directory is in place, but may not survive a power cut."
            raise save_error(target, cause, hint) from cause
        raise
    remove(previous)


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
        actual=f"{target}: {reason(cause or OSError())}",
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
            actual=f"{label}: {reason(cause)}",
        ) from cause
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        os.close(descriptor)
        raise error("member", expected="a file with one name", actual=f"hard link {label}")
    return read_descriptor(descriptor, error, "member", label, cap, size)


def _parse_manifest(raw: bytes, target: Path, error: type[BBWMError]) -> Manifest:
    def broken(why: object) -> BBWMError:
        return error("manifest", expected="an intact manifest.json", actual=f"{target}: {why}")

    data = unseal_json(raw, error=error, field="manifest")
    schema = data.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        newer = VersionError if issubclass(error, CheckpointError) else error
        raise newer(
            "schema",
            expected=f"{SCHEMA}, the one this version writes",
            actual=f"{schema!r} in {target}",
            hint="use the version of bb_wm that wrote it.",
        )
    try:
        members = {
            check_name(name): Member(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in data["members"].items()
        }
        meta = dict(data["meta"])
    except (TypeError, ValueError, KeyError, AttributeError) as cause:
        raise broken("malformed") from cause
    if data.keys() != {"schema", "members", "meta"}:
        raise broken("unknown fields")
    if len({name.lower() for name in members} | {MANIFEST}) != len(members) + 1:
        raise broken("names that differ only in case")
    if len(members) > MAX_MEMBERS or any(member.bytes < 0 for member in members.values()):
        raise broken("too many members, or a negative size")
    return Manifest(members, meta)
