"""One chunk: several episodes in one safetensors file that proves its own content; no torch.

Columns of all episodes are concatenated along time. The header is a function of the specs and of
the few facts in its metadata: a reader builds it again and compares bytes, so a header cannot lie
about shapes, places or sizes, and nothing is allocated on its word. `seal` covers the header,
`sha256` the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bb_wm.durable import load_json
from bb_wm.errors import DataError, SaveError
from bb_wm.types import ActionSpec, Episode, ObsSpec

FORMAT: Final = "bb_wm.episodes"
SCHEMA: Final = 1
MAX_HEADER: Final = 1 << 20
MAX_EPISODES: Final = 4096  # in one chunk; their lengths must fit in the header
MAX_EPISODE_ROWS: Final = 10_000_000
_KIND: Final = {"vector": ("F32", "<f4"), "image": ("U8", "|u1"), "discrete": ("I64", "<i8")}


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a chunk: its name, what a row of it looks like, and how it is written."""

    name: str
    shape: tuple[int, ...]
    code: str  # safetensors' name of the type
    dtype: str  # numpy's, little-endian

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def columns_of(obs_spec: ObsSpec, action_spec: ActionSpec, masked: bool) -> list[Column]:
    """The columns of every chunk, widest type first: each starts at a multiple of its item."""
    columns = [Column(f"obs:{e.key}", e.shape, *_KIND[e.kind]) for e in obs_spec.entries]
    columns += [
        Column("action", (action_spec.size,), "F32", "<f4"),
        Column("reward", (), "F32", "<f4"),
        Column("safety", (), "F32", "<f4"),
    ]
    if masked:
        columns.append(Column("action_mask", (action_spec.size,), "BOOL", "|b1"))
    return sorted(columns, key=lambda c: (-np.dtype(c.dtype).itemsize, c.name))


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """What a chunk says of itself. `ends` has one letter per episode: Terminated, trUncated,
    Abandoned; `masks` 1 where it has action masks."""

    number: int
    first: int
    lengths: tuple[int, ...]
    ends: str
    masks: str
    sha256: str

    @property
    def rows(self) -> int:
        return sum(self.lengths)

    @property
    def masked(self) -> bool:
        return "1" in self.masks

    def to_bytes(self, columns: Sequence[Column]) -> bytes:
        """The header as it stands in the file, its length before it."""
        blank = self._text(columns, "0" * 64)
        return self._text(columns, hashlib.sha256(blank).hexdigest())

    def _text(self, columns: Sequence[Column], seal: str) -> bytes:
        header: dict[str, Any] = {
            "__metadata__": {
                "format": FORMAT,
                "schema": str(SCHEMA),
                "number": str(self.number),
                "first": str(self.first),
                "lengths": " ".join(map(str, self.lengths)),
                "ends": self.ends,
                "masks": self.masks,
                "sha256": self.sha256,
                "seal": seal,
            }
        }
        place = 0
        for column in columns:
            size = column.row_bytes * self.rows
            header[column.name] = {
                "dtype": column.code,
                "shape": [self.rows, *column.shape],
                "data_offsets": [place, place + size],
            }
            place += size
        text = json.dumps(header, separators=(",", ":")).encode("ascii")
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER:
            raise SaveError("obs", expected=f"a header of {MAX_HEADER} bytes", actual=len(text))
        return len(text).to_bytes(8, "little") + text


def encode_chunk(
    number: int, first: int, episodes: Sequence[Episode], columns: Sequence[Column]
) -> tuple[ChunkHead, bytes]:
    """The file of already validated episodes."""
    pieces = [_stack(column, episodes) for column in columns]
    data = b"".join(piece.tobytes() for piece in pieces)
    head = ChunkHead(
        number,
        first,
        tuple(len(episode) for episode in episodes),
        "".join("T" if e.terminated else "U" if e.truncated else "A" for e in episodes),
        "".join("0" if e.action_mask is None else "1" for e in episodes),
        hashlib.sha256(data).hexdigest(),
    )
    return head, head.to_bytes(columns) + data


def _stack(column: Column, episodes: Sequence[Episode]) -> np.ndarray:
    arrays = []
    for episode in episodes:
        if column.name.startswith("obs:"):
            arrays.append(episode.obs[column.name[4:]])
        elif column.name == "action_mask" and episode.action_mask is None:
            arrays.append(np.ones(episode.action.shape, bool))
        else:
            arrays.append(getattr(episode, column.name))
    return np.concatenate(arrays).astype(column.dtype, copy=False)


def decode_head(raw: bytes, obs_spec: ObsSpec, action_spec: ActionSpec) -> tuple[ChunkHead, int]:
    """The head of a file that starts with `raw`, and how long that file must be; or DataError."""
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > MAX_HEADER or len(raw) < 8 + length:
        raise DataError("chunk", expected="a whole header", actual=f"{len(raw)} bytes of it")
    body = load_json(raw[8 : 8 + length].rstrip(b" "), error=DataError, field="chunk")
    try:
        meta = body["__metadata__"]
        kind, schema = meta["format"], meta["schema"]
        if kind != FORMAT or schema != str(SCHEMA):
            raise DataError(
                "chunk", expected=f"{FORMAT} schema {SCHEMA}", actual=f"{kind} schema {schema}"
            )
        head = ChunkHead(
            int(meta["number"]),
            int(meta["first"]),
            tuple(int(text) for text in meta["lengths"].split(" ")),
            str(meta["ends"]),
            str(meta["masks"]),
            str(meta["sha256"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as cause:
        if isinstance(cause, DataError):
            raise
        raise DataError("chunk", expected="the facts of a chunk", actual="others") from cause
    believable = (
        len(head.lengths) == len(head.ends) == len(head.masks) <= MAX_EPISODES
        and all(2 <= length <= MAX_EPISODE_ROWS for length in head.lengths)
        and min(head.number, head.first) >= 0
    )
    columns = columns_of(obs_spec, action_spec, head.masked)
    if not believable or head.to_bytes(columns) != raw[: 8 + length]:
        raise DataError("chunk", expected="the header that was written", actual="another one")
    return head, 8 + length + head.rows * sum(column.row_bytes for column in columns)


def decode_chunk(
    raw: bytes, obs_spec: ObsSpec, action_spec: ActionSpec
) -> tuple[ChunkHead, list[Episode]]:
    """Head and episodes of a whole file, as read-only views; DataError unless every digest fits."""
    head, size = decode_head(raw, obs_spec, action_spec)
    if len(raw) != size:
        raise DataError("chunk", expected=f"{size} bytes", actual=f"{len(raw)} bytes")
    start = 8 + int.from_bytes(raw[:8], "little")
    if hashlib.sha256(memoryview(raw)[start:]).hexdigest() != head.sha256:
        raise DataError("chunk", expected="the SHA-256 of its header", actual="another one")
    arrays: dict[str, np.ndarray] = {}
    for column in columns_of(obs_spec, action_spec, head.masked):
        size = column.row_bytes * head.rows
        count = size // np.dtype(column.dtype).itemsize
        flat = np.frombuffer(raw, column.dtype, count, start)
        arrays[column.name] = flat.reshape(head.rows, *column.shape)
        start += size
    episodes, row = [], 0
    for length, end, mask in zip(head.lengths, head.ends, head.masks, strict=True):
        cut = slice(row, row + length)
        row += length
        episodes.append(
            Episode(
                obs={e.key: arrays[f"obs:{e.key}"][cut] for e in obs_spec.entries},
                action=arrays["action"][cut],
                reward=arrays["reward"][cut],
                safety=arrays["safety"][cut],
                terminated=end == "T",
                truncated=end == "U",
                action_mask=arrays["action_mask"][cut] if mask == "1" else None,
            )
        )
    return head, episodes
