"""What a model must beat: persistence (nothing changes) and a ridge-regularised linear ARX model.

One interface, `Predictor`: fit on training episodes, then predict k = 1..K rows from context rows
and the real future actions. Both see exactly the rows the model sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from bb_wm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bb_wm.types import Episode, ObsEntry, ObsSpec

MAX_FEATURES = 1024  # ridge regressors; beyond it lags are given up so that a fit stays in seconds
_STRENGTHS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted rows: `obs[key]` [W, K, ...] in data units (keys may be missing: not predicted) and
    `reward` [W, K]."""

    obs: Mapping[str, np.ndarray]
    reward: np.ndarray


class Predictor(Protocol):
    """Anything that predicts rows from context rows and future actions."""

    @property
    def name(self) -> str: ...

    def fit(self, episodes: Sequence[Episode]) -> Self:
        """Learn from training episodes."""
        ...

    def predict(
        self,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        future: np.ndarray,
    ) -> Forecast:
        """Rows k = 1..K from obs [W, C, ...], the C - 1 actions between them, their rewards [W, C]
        and future actions [W, K, A], the first of which is done at the last context row."""
        ...


class Persistence:
    """o_{t+k} = o_t and r_{t+k} = r_t. Needs no fitting."""

    name = "persistence"

    def fit(self, episodes: Sequence[Episode]) -> Self:
        return self

    def predict(
        self,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        future: np.ndarray,
    ) -> Forecast:
        steps = future.shape[1]
        held = {
            key: np.repeat(np.asarray(value)[:, -1:], steps, axis=1) for key, value in obs.items()
        }
        return Forecast(held, np.repeat(np.asarray(reward)[:, -1:], steps, axis=1))


@dataclass(frozen=True, slots=True)
class _Scale:
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> _Scale:
        std = rows.std(axis=0)
        return cls(rows.mean(axis=0), np.where(std > 1e-8, std, 1.0))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Centred ridge solution: y = (x - feature_mean) W + target_mean."""

    weight: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return np.asarray((features - self.feature_mean) @ self.weight + self.target_mean)


class RidgeARX:
    """Linear model with memory: x_{t+1} - x_t = sum_i A_i x_{t-i} + B_i a_{t-i} + c, i < `lags`.

    Vector keys are standardised, discrete keys enter as one-hots and are read back by argmax;
    image keys are neither used nor predicted. The reward is regressed on the same rows. The ridge
    strength is the one with the least error of iterated predictions (k <= 10) on a fifth of the
    training episodes left out; then everything is fitted. Changes are predicted, so an infinite
    strength is persistence with drift. Set `lags` to at most the context it will be given.
    """

    def __init__(self, spec: ObsSpec, lags: int = 10) -> None:
        if lags < 1:
            raise ConfigError("lags", expected="at least 1", actual=lags)
        self._entries = tuple(entry for entry in spec.entries if entry.kind != "image")
        self.lags = lags
        self.strength = 0.0
        self._fit: _Fit | None = None

    @property
    def name(self) -> str:
        return f"ridge ARX({self.lags})"

    def fit(self, episodes: Sequence[Episode]) -> Self:
        """Fit on training episodes; raises DataError when none has lags + 1 rows."""
        width = sum(_width(entry) for entry in self._entries)
        width += int(np.asarray(episodes[0].action).shape[1]) if episodes else 0
        self.lags = max(1, min(self.lags, MAX_FEATURES // max(width, 1)))
        usable = [episode for episode in episodes if len(episode) > self.lags]
        if not usable:
            raise DataError(
                "episodes",
                expected=f"a training episode of more than {self.lags} rows",
                actual=f"the longest has {max((len(e) for e in episodes), default=0)}",
                hint="use fewer lags.",
            )
        self._set_scales(usable)
        tables = [self._table(episode) for episode in usable]
        fit_on, held = _split(tables, self.lags)
        if held:
            self.strength = self._choose(_Normal.of(fit_on, self.lags), held)
        else:
            self.strength = 1e-4
        self._fit = _Normal.of(tables, self.lags).solve(self.strength)
        return self

    def predict(
        self,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        future: np.ndarray,
    ) -> Forecast:
        if self._fit is None:
            raise ConfigError("predictor", expected="to be fitted first", actual="not fitted")
        x = self._encode(obs)
        if x.shape[1] < self.lags:
            raise ConfigError(
                "context",
                expected=f"at least {self.lags} rows",
                actual=x.shape[1],
                hint="make the predictor with lags = context.",
            )
        past = self._scale_action(action)
        states, rewards = self._iterate(self._fit, x, past, self._scale_action(future))
        reward_hat = rewards * self._reward.std + self._reward.mean
        return Forecast(self._decode(states), reward_hat.astype(np.float32))

    def _iterate(
        self, fit: _Fit, x: np.ndarray, past: np.ndarray, future: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scaled states [W, K, D] and rewards [W, K], each step fed with its own predictions."""
        lags = self.lags
        xs = [x[:, -1 - i] for i in range(lags)]  # newest first
        actions = [past[:, -1 - i] for i in range(lags - 1)]
        states, rewards = [], []
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(future.shape[1]):
                actions = [future[:, k], *actions]
                target = fit(np.concatenate([*xs, *actions], axis=1))
                new = self._snap(xs[0] + target[:, :-1])
                states.append(new)
                rewards.append(target[:, -1])
                xs = [new, *xs[:-1]]
                actions = actions[: lags - 1]
        return np.stack(states, axis=1), np.stack(rewards, axis=1)

    def _choose(self, normal: _Normal, held: list[_Table]) -> float:
        """The ridge strength with the least mean squared error of iterated predictions."""
        blocks = _validation_blocks(held, self.lags)
        best, best_error = _STRENGTHS[-1], np.inf
        for strength in _STRENGTHS:
            fit = normal.solve(strength)
            total, count = 0.0, 0
            for x, action, steps in blocks:
                lags = self.lags
                states, _ = self._iterate(
                    fit, x[:, :lags], action[:, : lags - 1], action[:, lags - 1 : lags - 1 + steps]
                )
                with np.errstate(over="ignore", invalid="ignore"):
                    error = float(((states - x[:, lags : lags + steps]) ** 2).sum())
                total += error if np.isfinite(error) else np.inf
                count += states.size
            if total / count < best_error:
                best, best_error = strength, total / count
        return best

    def _set_scales(self, episodes: Sequence[Episode]) -> None:
        vectors = [entry for entry in self._entries if entry.kind == "vector"]
        self._vector = {
            entry.key: _Scale.of(
                np.concatenate([_rows(episode.obs[entry.key]) for episode in episodes])
            )
            for entry in vectors
        }
        self._action = _Scale.of(
            np.concatenate([np.asarray(e.action, np.float64)[:-1] for e in episodes])
        )
        reward = np.concatenate([np.asarray(e.reward, np.float64)[1:] for e in episodes])
        self._reward = _Scale.of(reward)

    def _table(self, episode: Episode) -> _Table:
        obs = {entry.key: np.asarray(episode.obs[entry.key])[None] for entry in self._entries}
        reward = (np.asarray(episode.reward, np.float64) - self._reward.mean) / self._reward.std
        return _Table(self._encode(obs)[0], self._scale_action(episode.action), reward)

    def _scale_action(self, action: np.ndarray) -> np.ndarray:
        return np.asarray((np.asarray(action, np.float64) - self._action.mean) / self._action.std)

    def _encode(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """obs [W, T, ...] -> scaled states [W, T, D]."""
        columns = []
        for entry in self._entries:
            value = np.asarray(obs[entry.key])
            if entry.kind == "vector":
                scale = self._vector[entry.key]
                flat = value.reshape(*value.shape[:2], -1).astype(np.float64)
                columns.append((flat - scale.mean) / scale.std)
            else:
                index = value.reshape(*value.shape[:2], -1).astype(np.int64)
                columns += [np.eye(n)[index[..., i]] for i, n in enumerate(entry.classes)]
        if not columns:
            lead = next(iter(obs.values())).shape[:2] if obs else (0, 0)
            return np.zeros((*lead, 0))
        return np.concatenate(columns, axis=-1)

    def _snap(self, state: np.ndarray) -> np.ndarray:
        """Discrete variables to their likeliest class, so that errors do not leak into the next."""
        start = 0
        pieces = []
        for entry in self._entries:
            if entry.kind == "vector":
                pieces.append(state[:, start : start + entry.size])
                start += entry.size
                continue
            for n in entry.classes:
                pieces.append(np.eye(n)[np.argmax(state[:, start : start + n], axis=1)])
                start += n
        return np.concatenate(pieces, axis=1) if pieces else state

    def _decode(self, states: np.ndarray) -> dict[str, np.ndarray]:
        obs: dict[str, np.ndarray] = {}
        start = 0
        lead = states.shape[:2]
        for entry in self._entries:
            width = _width(entry)
            piece = states[..., start : start + width]
            start += width
            if entry.kind == "vector":
                scale = self._vector[entry.key]
                value = (piece * scale.std + scale.mean).astype(np.float32)
                obs[entry.key] = value.reshape(*lead, *entry.shape)
                continue
            index, at = [], 0
            for n in entry.classes:
                index.append(np.argmax(piece[..., at : at + n], axis=-1))
                at += n
            obs[entry.key] = np.stack(index, axis=-1).reshape(*lead, *entry.shape)
        return obs


@dataclass(frozen=True, slots=True)
class _Table:
    """One episode, scaled: x [T, D], action [T, A], reward [T]."""

    x: np.ndarray
    action: np.ndarray
    reward: np.ndarray

    def part(self, rows: slice) -> _Table:
        return _Table(self.x[rows], self.action[rows], self.reward[rows])

    def design(self, lags: int) -> tuple[np.ndarray, np.ndarray]:
        """Regressors (newest lag first) and targets [change of x, reward] of every transition."""
        rows = len(self.x) - lags
        windows = [self.x[lags - 1 - i : lags - 1 - i + rows] for i in range(lags)]
        windows += [self.action[lags - 1 - i : lags - 1 - i + rows] for i in range(lags)]
        change = self.x[lags:] - self.x[lags - 1 : -1]
        return np.concatenate(windows, axis=1), np.column_stack([change, self.reward[lags:]])


class _Normal:
    """Normal equations, accumulated episode by episode and solved for any ridge strength."""

    def __init__(self, features: int, targets: int) -> None:
        self.rows = 0
        self._sum_x, self._sum_y = np.zeros(features), np.zeros(targets)
        self._xx, self._xy = np.zeros((features, features)), np.zeros((features, targets))
        self._eigen: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, tables: list[_Table], lags: int) -> _Normal:
        tables = [table for table in tables if len(table.x) > lags]
        x, y = tables[0].design(lags)
        normal = cls(x.shape[1], y.shape[1])
        for table in tables:
            normal._add(*table.design(lags))
        return normal

    def _add(self, x: np.ndarray, y: np.ndarray) -> None:
        self.rows += len(x)
        self._sum_x += x.sum(axis=0)
        self._sum_y += y.sum(axis=0)
        self._xx += x.T @ x
        self._xy += x.T @ y

    def solve(self, strength: float) -> _Fit:
        """W = (X'X / n + strength I)^-1 X'Y / n on centred columns; the intercept is not shrunk."""
        mean_x, mean_y = self._sum_x / self.rows, self._sum_y / self.rows
        if self._eigen is None:
            covariance = self._xx / self.rows - np.outer(mean_x, mean_x)
            values, vectors = np.linalg.eigh(covariance)
            cross = self._xy / self.rows - np.outer(mean_x, mean_y)
            self._eigen = np.maximum(values, 0.0), vectors, vectors.T @ cross
        values, vectors, cross = self._eigen
        return _Fit(vectors @ (cross / (values + strength)[:, None]), mean_x, mean_y)


def _split(tables: list[_Table], lags: int) -> tuple[list[_Table], list[_Table]]:
    """Every fifth episode held out; the last fifth of the rows when there are fewer than five."""
    if len(tables) >= 5:
        held = tables[4::5]
        fit_on = [table for i, table in enumerate(tables) if i % 5 != 4]
        return fit_on, held
    fit_on, held = [], []
    for table in tables:
        cut = int(len(table.x) * 0.8)
        if cut > lags and len(table.x) - cut > lags:
            fit_on.append(table.part(slice(0, cut)))
            held.append(table.part(slice(cut, None)))
    return (fit_on, held) if held else (tables, [])


def _validation_blocks(
    held: list[_Table], lags: int, count: int = 256
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Windows of one length from held-out episodes: x [W, lags + K, D], action, K <= 10."""
    lengths = np.asarray([len(table.x) for table in held])
    steps = int(np.clip(np.median(lengths) - lags, 1, 10))
    size = lags + steps
    places = [(i, t) for i, table in enumerate(held) for t in range(len(table.x) - size + 1)]
    if len(places) > count:
        chosen = np.random.default_rng(0).choice(len(places), size=count, replace=False)
        places = [places[int(j)] for j in np.sort(chosen)]
    x = np.stack([held[i].x[t : t + size] for i, t in places])
    action = np.stack([held[i].action[t : t + size] for i, t in places])
    return [(x, action, steps)]


def _rows(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64)
    return array.reshape(array.shape[0], -1)


def _width(entry: ObsEntry) -> int:
    return entry.size if entry.kind == "vector" else sum(entry.classes)
