"""Held-out windows: which real rows a model sees, and which it must predict without seeing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bb_wm.types import Episode

SHORT_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How many rows are seen (`context`), how far is predicted (`horizons`), and why (`note`)."""

    context: int
    horizons: tuple[int, ...]
    note: str

    @property
    def reach(self) -> int:
        """K, the longest horizon."""
        return self.horizons[-1]


def plan_windows(
    lengths: Sequence[int], *, context: int = 10, horizons: Sequence[int] = (1, 5, 10, 15)
) -> WindowPlan:
    """The context and horizons that episodes of `lengths` rows can carry.

    Rule: the wanted context if the median episode has at least context + longest horizon + 1 rows,
    else 3 (or fewer if so wanted); then only horizons for which the median episode has
    context + horizon rows. Raises DataError when not even one step fits.
    """
    wanted = tuple(sorted({int(k) for k in horizons}))
    if context < 1:
        raise ConfigError("context", expected="at least 1 row", actual=context)
    if not wanted or wanted[0] < 1:
        raise ConfigError("horizons", expected="at least one horizon >= 1", actual=list(horizons))
    if not lengths:
        raise DataError("episodes", expected="at least one held-out episode", actual="none")
    median = int(np.median(lengths))
    notes = []
    seen = context
    if median < context + wanted[-1] + 1:
        seen = min(context, SHORT_CONTEXT)
    kept = tuple(k for k in wanted if seen + k <= median)
    if not kept:
        seen, kept = 1, (1,)
        if max(lengths) < 2:
            raise DataError(
                "episodes",
                expected="episodes of at least 2 rows",
                actual=f"the longest has {max(lengths)}",
                hint="record longer episodes, or give more of them.",
            )
    if seen != context:
        notes.append(f"context {seen} instead of {context}")
    if kept != wanted:
        dropped = ", ".join(str(k) for k in wanted if k not in kept)
        notes.append(f"horizon {dropped} left out")
    note = f"{'; '.join(notes)}: the median episode has {median} rows" if notes else ""
    return WindowPlan(seen, kept, note)


@dataclass(frozen=True, slots=True)
class Windows:
    """W windows of `context` + K rows (numpy), none across two episodes.

    `obs[key]` is [W, context + K, ...], the rest [W, context + K]. Where an episode ends before the
    window, `valid` is False, obs repeats the last row and the action is zero; context rows and the
    first row after them are always valid. `ended` says the world terminated inside the window.
    """

    obs: Mapping[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    safety: np.ndarray
    terminated: np.ndarray
    valid: np.ndarray
    context: int
    episode: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return int(self.reward.shape[0])

    @property
    def reach(self) -> int:
        """K, how many rows follow the context."""
        return int(self.reward.shape[1]) - self.context

    @property
    def ended(self) -> np.ndarray:
        return np.asarray((self.terminated & self.valid).any(axis=1))

    @property
    def future(self) -> np.ndarray:
        """The real actions that lead to the predicted rows, [W, K, A]."""
        return self.action[:, self.context - 1 : -1]

    @property
    def target_valid(self) -> np.ndarray:
        """Which predicted rows exist, [W, K]."""
        return self.valid[:, self.context :]

    def seen(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Context obs [W, C, ...], the actions between them [W, C - 1, A], rewards [W, C]."""
        c = self.context
        obs = {key: value[:, :c] for key, value in self.obs.items()}
        return obs, self.action[:, : c - 1], self.reward[:, :c]

    def take(self, index: slice | np.ndarray) -> Windows:
        """Some of the windows."""
        return Windows(
            obs={key: value[index] for key, value in self.obs.items()},
            action=self.action[index],
            reward=self.reward[index],
            safety=self.safety[index],
            terminated=self.terminated[index],
            valid=self.valid[index],
            context=self.context,
            episode=self.episode[index],
            start=self.start[index],
        )


def cut_windows(
    episodes: Sequence[Episode],
    *,
    context: int,
    reach: int,
    count: int | None,
    seed: int,
    full: bool = False,
) -> Windows:
    """`count` windows drawn without replacement, uniformly over all places where one can start.

    A window may start wherever `context` rows and at least one more follow (`full`: all `reach`).
    None takes every place. The same arguments give the same windows. Raises DataError if no episode
    is long enough.
    """
    need = context + (reach if full else 1)
    places = [
        (number, start)
        for number, episode in enumerate(episodes)
        for start in range(len(episode) - need + 1)
    ]
    if not places:
        raise DataError(
            "episodes",
            expected=f"an episode of at least {need} rows",
            actual=f"the longest has {max((len(e) for e in episodes), default=0)}",
            hint="use a shorter context, or longer episodes.",
        )
    if count is not None and count < len(places):
        chosen = np.random.default_rng(seed).choice(len(places), size=count, replace=False)
        places = [places[int(i)] for i in np.sort(chosen)]
    return _gather(episodes, places, context, context + reach)


def _gather(
    episodes: Sequence[Episode], places: list[tuple[int, int]], context: int, length: int
) -> Windows:
    keys = sorted(episodes[places[0][0]].obs)
    obs: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    action, reward, safety, terminated, valid = [], [], [], [], []
    for number, start in places:
        episode = episodes[number]
        rows = len(episode)
        index = np.minimum(np.arange(start, start + length), rows - 1)
        real = np.arange(start, start + length) < rows
        for key in keys:
            obs[key].append(np.asarray(episode.obs[key])[index])
        action.append(np.where(real[:, None], np.asarray(episode.action)[index], 0))
        reward.append(np.where(real, np.asarray(episode.reward)[index], 0))
        safety.append(np.where(real, np.asarray(episode.safety)[index], 0))
        terminated.append(real & (index == rows - 1) & bool(episode.terminated))
        valid.append(real)
    return Windows(
        obs={key: np.stack(value) for key, value in obs.items()},
        action=np.stack(action).astype(np.float32),
        reward=np.stack(reward).astype(np.float32),
        safety=np.stack(safety).astype(np.float32),
        terminated=np.stack(terminated),
        valid=np.stack(valid),
        context=context,
        episode=np.asarray([number for number, _ in places]),
        start=np.asarray([start for _, start in places]),
    )
