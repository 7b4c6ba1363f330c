"""Episodes on disk: what is acknowledged survives, what is damaged is counted and never used.

    PATH/store.json                       the specs, sealed
    PATH/chunks/000000000007.safetensors  several episodes each, in the order they came
    PATH/dropped/                         torn last chunks, set aside by a writer
    PATH/lock                             one writer at a time

An append writes one whole new file, fsyncs, renames it in place and fsyncs the directory before it
returns. Any safetensors reader can open a chunk. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bb_wm.data.chunk import ChunkHead, columns_of, decode_chunk, encode_chunk
from bb_wm.data.episodes import validate_episode
from bb_wm.data.layout import (
    CHUNKS,
    SPEC,
    TornError,
    check_same,
    chunk_name,
    chunk_numbers,
    frozen,
    groups,
    is_fresh,
    read_head,
    read_specs,
    write_specs,
)
from bb_wm.durable import (
    RunLock,
    clean_temporaries,
    make_directory,
    read_file,
    save_error,
    sync_directory,
    write_file,
)
from bb_wm.errors import DataError, InputTypeError, SaveError
from bb_wm.types import ActionSpec, Episode, ObsSpec


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What can be read, and what cannot.

    `quarantined` chunks are damaged or missing; `dropped` ones end too early and were the last, as
    a crash in the middle of an append that was never acknowledged may leave them.
    """

    episodes: int
    rows: int
    lost_episodes: int
    quarantined: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(slots=True)
class _Chunk:
    """A chunk in its place; on disk until asked for, or held where there is no disk."""

    head: ChunkHead
    held: tuple[Episode, ...] | None = None
    broken: str = ""


class EpisodeStore:
    """Episodes by number, growing at the end. Numbers never change; a damaged chunk leaves a gap.

    `path=None` keeps everything in memory. Mode "a" makes or extends a store and holds its lock,
    "r" reads the store as it was at opening (`refresh` looks again). `strict` raises DataError for
    any damage instead of counting it. The specs may be left out for a store that exists; if given
    they must be the stored ones.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        obs_spec: ObsSpec | None = None,
        action_spec: ActionSpec | None = None,
        mode: Literal["r", "a"] = "a",
        *,
        strict: bool = False,
    ) -> None:
        if mode not in ("r", "a"):
            raise DataError("mode", expected="'r' or 'a'", actual=repr(mode))
        if not isinstance(path, str | os.PathLike | None):
            raise InputTypeError("path", expected="a path or None", actual=type(path).__name__)
        self.path = None if path is None else Path(os.path.realpath(path))
        self.mode = mode
        self.strict = strict
        self._chunks: list[_Chunk] = []
        self._lost: dict[str, int] = {}  # quarantined: what and why -> episodes lost with it
        self._dropped: list[str] = []
        self._cached: tuple[int, list[Episode]] = (-1, [])
        self._next_number = self._next_id = 0
        self.generation = 0  # grows when episodes are forgotten, so that readers start over
        self._lock: RunLock | None = None
        if self.path is None:
            if obs_spec is None or action_spec is None or mode == "r":
                raise DataError("obs_spec", expected="both specs and mode 'a'", actual="less")
            self.obs_spec, self.action_spec = ObsSpec.of(obs_spec), ActionSpec.of(action_spec)
            return
        try:
            self.obs_spec, self.action_spec = self._open(self.path, obs_spec, action_spec)
            self.refresh()
        except BaseException:
            self.close()
            raise

    # --- opening -----------------------------------------------------------------------------

    def _open(
        self, path: Path, obs_spec: ObsSpec | None, action_spec: ActionSpec | None
    ) -> tuple[ObsSpec, ActionSpec]:
        exists = (path / SPEC).exists()
        if self.mode == "a" and not exists:
            if path.exists() and not is_fresh(path):
                raise DataError("path", expected="a store or an empty directory", actual=path)
            if obs_spec is None or action_spec is None:
                raise DataError("obs_spec", expected="both specs for a new store", actual="less")
            obs_spec, action_spec = ObsSpec.of(obs_spec), ActionSpec.of(action_spec)
            self._lock = RunLock(path)
            make_directory(path / CHUNKS)
            if not (path / SPEC).exists():
                write_specs(path, obs_spec, action_spec)
        elif not exists:
            raise DataError("path", expected="a store with store.json", actual=path)
        elif self.mode == "a":
            self._lock = RunLock(path)
        stored = read_specs(path)
        for field, given, kept in (
            ("obs", obs_spec, stored[0]),
            ("action", action_spec, stored[1]),
        ):
            if given is not None:
                made = type(kept).of(given)
                check_same(f"{field}_spec", kept.to_json(), made.to_json())
        if self.mode == "a":
            clean_temporaries(path)
            clean_temporaries(path / CHUNKS)
        return stored

    def refresh(self) -> int:
        """Take in chunks that another process has added; how many episodes are new."""
        if self.path is None:
            return 0
        before = self._next_id
        numbers = [n for n in chunk_numbers(self.path) if n >= self._next_number]
        for number in numbers:
            self._take_in(number, last=number == numbers[-1])
        return self._next_id - before

    def _take_in(self, number: int, *, last: bool) -> None:
        assert self.path is not None
        name = chunk_name(number)
        if number != self._next_number:
            gap = f"{chunk_name(self._next_number)}: missing"
            self._quarantine(gap, 0)
            self._next_number = number
        try:
            head = read_head(self.path, number, self.obs_spec, self.action_spec)
            if head.number != number or head.first < self._next_id:
                raise DataError(
                    "chunk",
                    expected=f"number {number}, first episode >= {self._next_id}",
                    actual=f"number {head.number}, first episode {head.first}",
                )
        except TornError as cause:
            if last:
                self._drop(name, str(cause.actual))
            else:
                self._quarantine(f"{name}: {cause.actual}", 0)
                self._next_number = number + 1
            return
        except DataError as cause:
            self._quarantine(f"{name}: {cause.expected} was expected; got {cause.actual}", 0)
            self._next_number = number + 1
            return
        if head.first > self._next_id:  # what stood between was in the chunks before this one
            if not self._lost:
                self._quarantine(f"episodes {self._next_id}..{head.first - 1}: missing", 0)
            self._lost[next(reversed(self._lost))] += head.first - self._next_id
        self._chunks.append(_Chunk(head))
        self._next_number = number + 1
        self._next_id = head.first + len(head.lengths)

    def _quarantine(self, what: str, episodes: int) -> None:
        if self.strict:
            raise DataError(
                "store",
                expected="every chunk intact",
                actual=what,
                hint="open with strict=False to go on without it.",
            )
        self._lost[what] = self._lost.get(what, 0) + episodes

    def _drop(self, name: str, why: str) -> None:
        assert self.path is not None
        if self.strict:
            raise DataError("store", expected="a whole last chunk", actual=f"{name}: {why}")
        if (line := f"{name}: {why}") not in self._dropped:
            self._dropped.append(line)
        if self.mode == "a":  # its number is used again
            try:
                place = make_directory(self.path / "dropped")
                os.replace(self.path / CHUNKS / name, place / f"{len(os.listdir(place))}-{name}")
                sync_directory(self.path / CHUNKS)
            except OSError as cause:
                raise save_error(self.path, cause) from cause

    # --- writing -----------------------------------------------------------------------------

    def append(self, episodes: Sequence[Episode]) -> list[int]:
        """The episodes' numbers, once they are durable.

        All are validated before the first is written; after a SaveError none of them is kept.
        """
        self._check_writer()
        if isinstance(episodes, Episode) or not isinstance(episodes, Sequence):
            raise InputTypeError(
                "episodes", expected="a list of Episode", actual=type(episodes).__name__
            )
        good = [validate_episode(e, self.obs_spec, self.action_spec) for e in episodes]
        before = len(self._chunks), self._next_number, self._next_id
        try:
            for group in groups(good):
                self._append_chunk(group)
        except BaseException:
            with contextlib.suppress(SaveError):
                self._forget(*before)
            raise
        return list(range(before[2], self._next_id))

    def _append_chunk(self, group: Sequence[Episode]) -> None:
        masked = any(e.action_mask is not None for e in group)
        columns = columns_of(self.obs_spec, self.action_spec, masked)
        number = self._next_number
        if self.path is None:
            head = ChunkHead(number, self._next_id, tuple(len(e) for e in group), "", "", "")
            chunk = _Chunk(head, tuple(frozen(e) for e in group))
        else:
            head, data = encode_chunk(number, self._next_id, group, columns)
            write_file(self.path / CHUNKS / chunk_name(number), data)
            chunk = _Chunk(head)
        self._chunks.append(chunk)
        self._next_number += 1
        self._next_id += len(group)

    def _forget(self, chunks: int, number: int, next_id: int) -> None:
        """Go back to the first `chunks` chunks; files go last first: a crash leaves a prefix."""
        if self.path is not None:
            try:
                for later in reversed([n for n in chunk_numbers(self.path) if n >= number]):
                    os.unlink(self.path / CHUNKS / chunk_name(later))
                    sync_directory(self.path / CHUNKS)
            except OSError as cause:
                raise save_error(self.path, cause) from cause
        del self._chunks[chunks:]
        self._next_number, self._next_id = number, next_id
        self._cached = (-1, [])
        self.generation += 1

    def truncate(self, next_id: int) -> None:
        """Forget all episodes from number `next_id` on, as resuming at an older moment needs."""
        self._check_writer()
        if not 0 <= next_id <= self._next_id:
            raise DataError("next_id", expected=f"0..{self._next_id}", actual=next_id)
        keep = bisect_left(self._chunks, next_id, key=lambda chunk: chunk.head.first)
        head = self._chunks[keep - 1].head if keep else None
        rest: list[Episode] = []
        if head is not None and head.first + len(head.lengths) > next_id:
            rest = list(self._episodes_of(keep - 1) or [])[: next_id - head.first]
            if not rest:
                raise DataError("next_id", expected="a place in an intact chunk", actual=next_id)
        if keep < len(self._chunks):
            after = self._chunks[keep].head
            self._forget(keep, after.number, after.first)
        if rest:
            self._shorten_last(rest)

    def _shorten_last(self, episodes: list[Episode]) -> None:
        """Put fewer episodes in the last chunk's place, in one step."""
        old, state = self._chunks.pop(), (self._next_number, self._next_id)
        self._next_number, self._next_id = old.head.number, old.head.first
        self._cached = (-1, [])
        self.generation += 1
        try:
            self._append_chunk(episodes)
        except BaseException:
            self._chunks.append(old)
            self._next_number, self._next_id = state
            raise

    def _check_writer(self) -> None:
        if self.mode != "a" or (self.path is not None and self._lock is None):
            raise DataError("mode", expected="'a', and not closed", actual=repr(self.mode))

    def close(self) -> None:
        """Give the lock back; reading goes on."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading -----------------------------------------------------------------------------

    def _episodes_of(self, position: int) -> Sequence[Episode] | None:
        """The verified episodes of a chunk; None when it is damaged, which is then counted."""
        chunk = self._chunks[position]
        if chunk.held is not None:
            return chunk.held
        if chunk.broken:
            return None
        if self._cached[0] == position:
            return self._cached[1]
        assert self.path is not None
        name = chunk_name(chunk.head.number)
        try:
            path = self.path / CHUNKS / name
            raw = read_file(path, error=DataError, field="chunk")
            head, episodes = decode_chunk(raw, self.obs_spec, self.action_spec)
            if head != chunk.head:
                raise DataError("chunk", expected="the same file as before", actual="another")
        except DataError as cause:
            chunk.broken = str(cause)
            self._quarantine(
                f"{name}: {cause.expected} was expected; got {cause.actual}",
                len(chunk.head.lengths),
            )
            return None
        self._cached = (position, episodes)
        return episodes

    def __len__(self) -> int:
        """Episodes that can be read, as far as is known; `check` reads all to know."""
        return sum(len(c.head.lengths) for c in self._chunks if not c.broken)

    @property
    def rows(self) -> int:
        """Rows that can be read, as far as is known."""
        return sum(c.head.rows for c in self._chunks if not c.broken)

    @property
    def next_id(self) -> int:
        """The number the next episode will get; grows with every append."""
        return self._next_id

    def items(self, start: int = 0) -> Iterator[tuple[int, Episode]]:
        """(number, episode) from number `start` on, verified; damaged chunks are passed over."""
        for position in range(len(self._chunks)):
            first = self._chunks[position].head.first
            if first + len(self._chunks[position].head.lengths) <= start:
                continue
            for index, episode in enumerate(self._episodes_of(position) or ()):
                if first + index >= start:
                    yield first + index, episode

    def __iter__(self) -> Iterator[Episode]:
        return (episode for _, episode in self.items())

    def __getitem__(self, number: int) -> Episode:
        position = bisect_right(self._chunks, number, key=lambda chunk: chunk.head.first) - 1
        episodes = self._episodes_of(position) if position >= 0 else None
        index = number - self._chunks[position].head.first
        if episodes is None or index >= len(episodes):
            raise DataError(
                "episode",
                expected=f"the number of a readable one below {self._next_id}",
                actual=number,
            )
        return episodes[index]

    def check(self) -> StoreReport:
        """Read and verify everything, then report."""
        for position in range(len(self._chunks)):
            self._episodes_of(position)
        return self.report

    @property
    def report(self) -> StoreReport:
        """What is known so far."""
        return StoreReport(
            len(self), self.rows, sum(self._lost.values()), tuple(self._lost), tuple(self._dropped)
        )
