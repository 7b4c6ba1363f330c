"""Errors of single windows in one unit for all kinds of observation, and how they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.estimates import Estimate, ratio, units_of
from bb_wm.diagnose.open_loop import OpenLoopModel, imagine
from bb_wm.diagnose.scores import FLAT_VARIANCE

if TYPE_CHECKING:
    from bb_wm.diagnose.windows import Windows
    from bb_wm.types import Episode, ObsSpec


@dataclass(frozen=True, slots=True)
class Place:
    """Where something happened: episode (its number in the data) and row."""

    episode: int
    row: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Squared error of the mean of sampled rollouts, 1 being the best constant; tuples over k.

    `excess[k-1]` is that error over the smaller one of persistence and the best constant (> 1:
    imagining is worse than not imagining); `worst` the window whose error is largest at `worst_k`.
    """

    model: tuple[float, ...]
    persistence: tuple[float, ...]
    constant: tuple[float, ...]
    excess: tuple[Estimate, ...]
    worst: Place | None
    worst_k: int


class Yardstick:
    """The best constant per column of the observations and its error, over all rows of episodes.

    Columns: numbers of vectors (squared error over variance), discrete variables (share of misses
    over that of the commonest class), image keys (mean squared error over that of the mean image).
    What never changes is left out.
    """

    def __init__(self, spec: ObsSpec, episodes: Sequence[Episode]) -> None:
        self.spec = spec
        self.constant: dict[str, np.ndarray] = {}
        self._scale: dict[str, np.ndarray] = {}
        for entry in spec.entries:
            rows = np.concatenate([np.asarray(e.obs[entry.key]) for e in episodes])
            if entry.kind == "discrete":
                flat = rows.reshape(len(rows), -1).astype(np.int64)
                best = np.asarray([np.bincount(column).argmax() for column in flat.T])
                self.constant[entry.key] = best.reshape(rows.shape[1:])
                self._scale[entry.key] = (flat != best).mean(axis=0)
                continue
            centre = rows.mean(axis=0, dtype=np.float64)
            self.constant[entry.key] = centre
            if entry.kind == "image":
                spread = np.asarray([np.mean((rows.astype(np.float32) - centre) ** 2)])
            else:
                spread = rows.astype(np.float64).var(axis=0).reshape(-1)
                spread[spread <= FLAT_VARIANCE * np.maximum(centre.reshape(-1) ** 2, 1e-12)] = 0.0
            self._scale[entry.key] = spread

    def __call__(
        self, predicted: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Mean error over the columns, [W, K], of predictions [W, K, ...]; NaN with no column."""
        columns = []
        for entry in self.spec.entries:
            scale = self._scale[entry.key]
            seen = np.asarray(real[entry.key])
            said = np.asarray(predicted[entry.key]).reshape(seen.shape)
            lead = seen.shape[:2]
            if entry.kind == "discrete":
                error = (said != seen).reshape(*lead, -1).astype(np.float64)
            else:
                error = ((said.astype(np.float64) - seen) ** 2).reshape(*lead, -1)
                error = error.mean(axis=-1, keepdims=True) if entry.kind == "image" else error
            columns.append(error[..., scale > 0] / scale[scale > 0])
        whole = np.concatenate(columns, axis=-1)
        if whole.shape[-1] == 0:
            return np.full(whole.shape[:2], np.nan)
        return np.asarray(np.where(np.isnan(whole), np.inf, whole).mean(axis=-1))


def future_of(windows: Windows) -> dict[str, np.ndarray]:
    """The real rows after the context, per key [W, K, ...]."""
    return {key: value[:, windows.context :] for key, value in windows.obs.items()}


def measure_drift(
    model: OpenLoopModel, windows: Windows, yardstick: Yardstick, *, seed: int = 0
) -> Drift:
    """The error of imagination by horizon beside two predictors that imagine nothing."""
    real, c, valid = future_of(windows), windows.context, windows.target_valid
    sampled = imagine(model, windows, mode="sample", seed=seed).forecast.obs
    held = {key: np.broadcast_to(windows.obs[key][:, c - 1 : c], real[key].shape) for key in real}
    same = {key: np.broadcast_to(yardstick.constant[key], real[key].shape) for key in real}
    errors = [yardstick(said, real) for said in (sampled, held, same)]
    mine = errors[0]
    excess = []
    for k in range(windows.reach):
        there = valid[:, k]
        rivals = [error[there, k] for error in errors[1:]]
        rival = min(rivals, key=lambda error: float(error.sum()))
        unit = units_of(windows.episode[there], windows.start[there])
        excess.append(ratio(mine[there, k], rival, unit))
    worst_k = min(5, windows.reach)
    shown = np.where(valid[:, worst_k - 1], np.nan_to_num(mine[:, worst_k - 1], nan=-1.0), -1.0)
    at = int(shown.argmax())
    row = int(windows.start[at]) + c - 1 + worst_k
    return Drift(
        model=_means(errors[0], valid),
        persistence=_means(errors[1], valid),
        constant=_means(errors[2], valid),
        excess=tuple(excess),
        worst=Place(int(windows.episode[at]), row) if len(windows) else None,
        worst_k=worst_k,
    )


def _means(error: np.ndarray, valid: np.ndarray) -> tuple[float, ...]:
    return tuple(
        float(error[valid[:, k], k].mean()) if valid[:, k].any() else float("nan")
        for k in range(error.shape[1])
    )
