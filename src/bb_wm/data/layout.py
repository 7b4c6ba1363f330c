"""Where a store's files are, what its spec file says, and how appends are cut into chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bb_wm.data.chunk import MAX_EPISODES, MAX_HEADER, ChunkHead, decode_head
from bb_wm.durable import read_file, seal_json, unseal_json, write_file
from bb_wm.errors import DataError
from bb_wm.types import ActionSpec, Episode, ObsSpec

FORMAT: Final = "bb_wm.store"
SCHEMA: Final = 1
SPEC: Final = "store.json"
CHUNKS: Final = "chunks"
CHUNK_BYTES: Final = 32 << 20  # an append is split above this
_SUFFIX: Final = ".safetensors"


class TornError(DataError):
    """A chunk file that ends too early."""


def chunk_name(number: int) -> str:
    """The file name of chunk `number`; names sort as numbers do."""
    return f"{number:012d}{_SUFFIX}"


def chunk_numbers(path: Path) -> list[int]:
    """The numbers of the chunk files that are there, in order."""
    try:
        names = os.listdir(path / CHUNKS)
    except OSError as cause:
        raise DataError("path", expected="a store with chunks", actual=cause) from cause
    return sorted(int(n[:12]) for n in names if n[12:] == _SUFFIX and n[:12].isdecimal())


def read_head(path: Path, number: int, obs_spec: ObsSpec, action_spec: ActionSpec) -> ChunkHead:
    """The verified head of a chunk, without its data. TornError when the file ends too early."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path / CHUNKS / chunk_name(number), flags)
    except OSError as cause:
        raise DataError("chunk", expected="a readable file, no link", actual=cause) from cause
    try:
        size = os.fstat(descriptor).st_size
        start = os.pread(descriptor, 8, 0)
        length = int.from_bytes(start, "little")
        if size < 8 or (length <= MAX_HEADER and size < 8 + length):
            raise TornError("chunk", expected="a whole header", actual=f"{size} bytes")
        raw = start + os.pread(descriptor, min(length, MAX_HEADER), 8)
    except OSError as cause:
        if isinstance(cause, DataError):
            raise
        raise DataError("chunk", expected="a readable file", actual=cause) from cause
    finally:
        os.close(descriptor)
    head, whole = decode_head(raw, obs_spec, action_spec)
    if size != whole:
        error = TornError if size < whole else DataError
        raise error("chunk", expected=f"{whole} bytes", actual=f"{size} bytes")
    return head


def write_specs(path: Path, obs_spec: ObsSpec, action_spec: ActionSpec) -> None:
    """Write the sealed store.json, which makes a directory a store."""
    body = {
        "format": FORMAT,
        "schema": SCHEMA,
        "obs": obs_spec.to_json(),
        "action": action_spec.to_json(),
    }
    write_file(path / SPEC, seal_json(body, SPEC))


def read_specs(path: Path) -> tuple[ObsSpec, ActionSpec]:
    """What `write_specs` wrote; DataError when it was changed or is of another version."""
    raw = read_file(path / SPEC, error=DataError, max_bytes=MAX_HEADER)
    body = unseal_json(raw, error=DataError, field=SPEC)
    if body.get("format") != FORMAT or body.get("schema") != SCHEMA:
        raise DataError(
            SPEC,
            expected=f"{FORMAT} schema {SCHEMA}",
            actual=f"{body.get('format')} schema {body.get('schema')}",
            hint="use the version of bb_wm that wrote it.",
        )
    try:
        return ObsSpec.from_json(body["obs"]), ActionSpec.from_json(body["action"])
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise DataError(SPEC, expected="the two specs", actual="something else") from cause


def is_fresh(path: Path) -> bool:
    """Whether nobody's data is there: empty, or a store whose making was interrupted."""
    if not path.is_dir():
        return False
    names = {name for name in os.listdir(path) if not name.startswith(".tmp-")}
    return names <= {"lock", "chunks"} and not (
        "chunks" in names and any(os.scandir(path / "chunks"))
    )


def check_same(field: str, stored: Any, given: Any) -> None:
    """Raise DataError naming the first place where two specs differ."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping) and stored.keys() == given.keys():
        for key in stored:
            check_same(f"{field}.{key}", stored[key], given[key])
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        for index, (kept, new) in enumerate(zip(stored, given, strict=True)):
            check_same(f"{field}[{index}]", kept, new)
    elif stored != given:
        raise DataError(
            field,
            expected=f"{stored!r}, as in the store",
            actual=f"{given!r}",
            hint="use another path, or the specs this store was made with.",
        )


def groups(episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
    """Episodes in the groups that become one chunk each, in order."""
    group: list[Episode] = []
    size = 0
    for episode in episodes:
        weight = episode.action.nbytes + sum(array.nbytes for array in episode.obs.values())
        if group and (size + weight > CHUNK_BYTES or len(group) >= MAX_EPISODES):
            yield group
            group, size = [], 0
        group.append(episode)
        size += weight
    if group:
        yield group


def frozen(episode: Episode) -> Episode:
    """A copy that nobody can change."""

    def own(array: np.ndarray) -> np.ndarray:
        mine = array.copy()
        mine.flags.writeable = False
        return mine

    return Episode(
        obs={key: own(array) for key, array in episode.obs.items()},
        action=own(episode.action),
        reward=own(episode.reward),
        safety=own(episode.safety),
        terminated=episode.terminated,
        truncated=episode.truncated,
        action_mask=None if episode.action_mask is None else own(episode.action_mask),
    )
