"""Sequences of rows for learning: full of real rows, every row about as often as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bb_wm.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from bb_wm.data.store import EpisodeStore
    from bb_wm.types import Batch, Episode


class _Column:
    """Rows of one kind in one array that doubles when it is full."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.array = np.empty((0, *shape), dtype)

    def write(self, start: int, values: np.ndarray) -> None:
        end = start + len(values)
        if end > len(self.array):
            grown = np.empty(
                (max(end, 2 * len(self.array)), *self.array.shape[1:]), self.array.dtype
            )
            grown[:start] = self.array[:start]
            self.array = grown
        self.array[start:end] = values

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.array.take(index, axis=0)


class SequenceSampler:
    """Batches [B, T] from a store; grows with it, and continues bit for bit from a saved state.

    A window of T rows is laid at an even chance over all places where it covers at least one row of
    an episode, then pushed inside: of L + T - 1 places, every row is covered by at least T, and for
    L >= 2T by at most 2T - 1. Where the episode ends before the window, others follow from their
    row 0, drawn evenly, until it is full: learning from short episodes wastes no row. `is_first`
    marks every row 0; a window that begins in mid-episode begins with an empty belief too, without
    saying so.

    All rows are held in memory once more, packed. Raises DataError when the store has fewer than T
    rows, ConfigError for impossible settings.
    """

    def __init__(
        self, store: EpisodeStore, *, batch_size: int = 16, length: int = 64, seed: int = 0
    ) -> None:
        self.batch_size = _whole("batch_size", batch_size, 1, 1 << 20)
        self.length = _whole("length", length, 2, 1 << 20)
        self.store = store
        self._random = np.random.Generator(np.random.PCG64(_whole("seed", seed, 0, 2**64 - 1)))
        self._start_over()
        self._grow()
        self._check_enough()

    @property
    def episodes(self) -> int:
        """How many are sampled from."""
        return len(self._lengths)

    @property
    def rows(self) -> int:
        """How many rows they have."""
        return self._rows

    def sample(self) -> Batch:
        """The next batch, on the CPU; nobody else holds its memory."""
        self._grow()
        self._check_enough()
        return self._gather(*self._lay())

    def state_dict(self) -> dict[str, Any]:
        """What continuing needs, as plain JSON; `next_id` says how far the store was."""
        return {
            "batch_size": self.batch_size,
            "length": self.length,
            "next_id": self._next_id,
            "generator": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. CheckpointError for other settings or a store that has less.

        A store that has grown since would be sampled differently from here on: call
        `store.truncate(state["next_id"])` first where the past must repeat itself.
        """
        for name in ("batch_size", "length"):
            if state.get(name) != getattr(self, name):
                raise CheckpointError(
                    f"sampler.{name}", expected=getattr(self, name), actual=state.get(name)
                )
        next_id = state.get("next_id")
        if not isinstance(next_id, int) or next_id > self.store.next_id:
            raise CheckpointError(
                "sampler.next_id",
                expected=f"at most {self.store.next_id}, what the store has",
                actual=next_id,
                hint="episodes are missing since this state was saved.",
            )
        generator = np.random.PCG64()
        try:
            generator.state = state["generator"]
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise CheckpointError(
                "sampler.generator", expected="the state of a PCG64", actual="something else"
            ) from cause
        self._random = np.random.Generator(generator)

    # --- packing -----------------------------------------------------------------------------

    def _start_over(self) -> None:
        self._generation = self.store.generation
        self._next_id = self._rows = 0
        self._lengths: list[int] = []
        self._obs: dict[str, _Column] = {}
        self._plain: dict[str, _Column] = {}
        self._mask: _Column | None = None
        self._index()

    def _grow(self) -> None:
        if self._generation != self.store.generation:
            self._start_over()
        if self._next_id == self.store.next_id:
            return
        for _, episode in self.store.items(self._next_id):
            self._pack(episode)
        self._next_id = self.store.next_id
        self._index()

    def _pack(self, episode: Episode) -> None:
        start, rows = self._rows, len(episode)
        for key, value in episode.obs.items():
            column = self._obs.setdefault(key, _Column(value.shape[1:], value.dtype))
            column.write(start, value)
        ended = np.zeros(rows, bool)
        ended[-1] = episode.terminated
        plain = {
            "action": episode.action,
            "reward": episode.reward,
            "safety": episode.safety,
            "terminated": ended,
        }
        for name, value in plain.items():
            self._plain.setdefault(name, _Column(value.shape[1:], value.dtype)).write(start, value)
        if episode.action_mask is not None and self._mask is None:
            self._mask = _Column(episode.action.shape[1:], np.dtype(bool))
            self._mask.write(0, np.ones((start, *episode.action.shape[1:]), bool))
        if self._mask is not None:
            free = np.ones(episode.action.shape, bool)
            self._mask.write(start, free if episode.action_mask is None else episode.action_mask)
        self._rows += rows
        self._lengths.append(rows)

    def _index(self) -> None:
        self._length = np.asarray(self._lengths, np.int64)
        self._offset = np.cumsum(self._length) - self._length
        self._places = np.cumsum(self._length + self.length - 1)

    def _check_enough(self) -> None:
        if self._rows < self.length:
            raise DataError(
                "store",
                expected=f"at least {self.length} rows, one sequence",
                actual=f"{self._rows} rows in {self.episodes} episodes",
                hint="collect more, or ask for shorter sequences.",
            )

    # --- drawing -----------------------------------------------------------------------------

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Episode and first row of B windows."""
        place = self._random.integers(self._places[-1], size=self.batch_size)
        episode = np.searchsorted(self._places, place, side="right")
        length = self._length[episode]
        start = place - (self._places[episode] - length)  # -(T - 1) .. L - 1
        return episode, np.clip(start, 0, np.maximum(length - self.length, 0))

    def _lay(self) -> tuple[np.ndarray, np.ndarray]:
        """The packed row of every place [B, T], and which are an episode's row 0."""
        episode, start = self._draw()
        place = np.arange(self.length)
        row = np.zeros((self.batch_size, self.length), np.int64)
        is_first = np.zeros(row.shape, bool)
        filled = np.zeros(self.batch_size, np.int64)
        waiting = np.arange(self.batch_size)
        while True:
            since = place - filled[waiting, None]
            count = (self._length[episode] - start)[:, None]
            mine = (since >= 0) & (since < count)
            first = (self._offset[episode] + start)[:, None]
            row[waiting] = np.where(mine, first + since, row[waiting])
            is_first[waiting] |= (since == 0) & (start == 0)[:, None]
            filled[waiting] += count[:, 0]
            waiting = np.flatnonzero(filled < self.length)
            if not len(waiting):
                return row, is_first
            episode = self._random.integers(len(self._lengths), size=len(waiting))
            start = np.zeros(len(waiting), np.int64)

    def _gather(self, row: np.ndarray, is_first: np.ndarray) -> Batch:
        import torch

        from bb_wm.types import Batch

        plain = {name: torch.from_numpy(c.take(row)) for name, c in self._plain.items()}
        mask = None if self._mask is None else torch.from_numpy(self._mask.take(row))
        return Batch(
            obs={key: torch.from_numpy(column.take(row)) for key, column in self._obs.items()},
            action=plain["action"],
            reward=plain["reward"],
            safety=plain["safety"],
            terminated=plain["terminated"],
            is_first=torch.from_numpy(is_first),
            valid=torch.ones(row.shape, dtype=torch.bool),
            action_mask=mask,
        )


def _whole(field: str, value: Any, low: int, high: int) -> int:
    good = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        raise ConfigError(field, expected=f"a whole number in {low}..{high}", actual=repr(value))
    return int(value)
