"""Is what the heads say true on average? Reward, risk and Delta V_s against real rows, in bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bb_wm.diagnose.estimates import UNKNOWN, Estimate, mean, ratio, units_of
from bb_wm.diagnose.horizon import Place
from bb_wm.diagnose.open_loop import OpenLoopModel, _numpy, imagine

if TYPE_CHECKING:
    from bb_wm.diagnose.windows import Windows
    from bb_wm.types import Batch, Episode

BINS = 10
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows with about the same prediction: its mean, the mean of what was real, how many."""

    predicted: float
    real: float
    count: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Predictions against reality: real = intercept + slope * predicted (slope 1 is right).

    `bias` is mean(predicted - real); `rmse` their distance, `spread` the standard deviation of
    what was real, which always predicting the mean would have as its rmse.
    """

    count: int
    bins: tuple[Bin, ...]
    slope: float
    bias: Estimate
    rmse: float
    spread: float


@dataclass(frozen=True, slots=True)
class RiskCheck:
    """V_s of the belief in each held-out row against the risk that was received there.

    hidden  share of all risk that sits, beyond what was predicted there, in rows that the model
            calls safer than the average row. A calibrated head hides nothing however coarse it is
    events  rows with risk > 0, `event_units` the episodes (or blocks of rows) they are in
    missed  the row where most was hidden, None where none was
    """

    curve: Curve
    hidden: Estimate
    events: int
    event_units: int
    missed: Place | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Filtered rows that received something (numpy, [n]): predictions, truth, where."""

    reward: np.ndarray
    real_reward: np.ndarray
    risk: np.ndarray
    real_risk: np.ndarray
    episode: np.ndarray
    row: np.ndarray

    @property
    def unit(self) -> np.ndarray:
        return units_of(self.episode, self.row)


def curve_of(predicted: np.ndarray, real: np.ndarray, unit: np.ndarray, bins: int = BINS) -> Curve:
    """The calibration curve of n rows; bins hold equally many, equal predictions stay together."""
    said, was = np.asarray(predicted, np.float64), np.asarray(real, np.float64)
    if said.size == 0:
        return Curve(0, (), math.nan, UNKNOWN, math.nan, math.nan)
    levels, place = np.unique(said, return_inverse=True)
    rank = np.cumsum(np.bincount(place))[place] - 1  # the last place among equals
    number = np.minimum(rank * bins // said.size, bins - 1)
    table = tuple(
        Bin(float(said[number == b].mean()), float(was[number == b].mean()), int(inside))
        for b, inside in enumerate(np.bincount(number, minlength=bins))
        if inside
    )
    slope = math.nan
    if len(levels) > 1 and said.var() > 1e-12 * max(1.0, float(np.mean(said**2))):
        slope = float(np.cov(said, was, bias=True)[0, 1] / said.var())
    error = said - was
    rmse = float(np.sqrt(np.mean(error**2)))
    return Curve(said.size, table, slope, mean(error, unit), rmse, float(was.std()))


def filter_rows(model: OpenLoopModel, episodes: Sequence[Episode], rows: int = 20_000) -> Rows:
    """Belief and heads at every row but the first of the first episodes, `rows` rows in all."""
    chosen: list[int] = []
    total = 0
    for number, episode in enumerate(episodes):
        if total >= rows:
            break
        chosen.append(number)
        total += len(episode)
    chosen.sort(key=lambda number: len(episodes[number]))
    parts: list[list[np.ndarray]] = []
    group: list[int] = []
    for number in chosen:
        if group and (len(group) + 1) * len(episodes[number]) > _ROWS_AT_ONCE:
            parts.append(_filter(model, episodes, group))
            group = []
        group.append(number)
    parts.append(_filter(model, episodes, group))
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _filter(
    model: OpenLoopModel, episodes: Sequence[Episode], group: list[int]
) -> list[np.ndarray]:
    batch, valid = _padded(model, [episodes[number] for number in group])
    with torch.no_grad():
        latent = model.filter(batch)
        reward = _numpy(model.predict_reward(latent)).astype(np.float64)  # type: ignore[attr-defined]
        risk = _numpy(model.predict_safety(latent)).astype(np.float64)  # type: ignore[attr-defined]
    valid[:, 0] = False  # nothing is received in an episode's first row
    row = np.broadcast_to(np.arange(valid.shape[1]), valid.shape)
    episode = np.broadcast_to(np.asarray(group)[:, None], valid.shape)
    columns = (reward, _numpy(batch.reward), risk, _numpy(batch.safety), episode, row)
    return [np.asarray(column[valid]) for column in columns]


def _padded(model: OpenLoopModel, group: list[Episode]) -> tuple[Batch, np.ndarray]:
    from bb_wm.data import as_batch

    length = max(len(episode) for episode in group)
    index = [np.minimum(np.arange(length), len(episode) - 1) for episode in group]
    valid = np.stack([np.arange(length) < len(episode) for episode in group])

    def column(name: str) -> np.ndarray:
        values = [getattr(e, name)[i] for e, i in zip(group, index, strict=True)]
        return np.stack(values).astype(np.float32)

    first = np.zeros(valid.shape, bool)
    first[:, 0] = True
    ends = np.asarray([episode.terminated for episode in group])[:, None]
    last = np.asarray([len(episode) - 1 for episode in group])[:, None]
    raw = {
        "obs": {
            key: np.stack([np.asarray(e.obs[key])[i] for e, i in zip(group, index, strict=True)])
            for key in group[0].obs
        },
        "action": np.where(valid[..., None], column("action"), 0).astype(np.float32),
        "reward": np.where(valid, column("reward"), 0).astype(np.float32),
        "safety": np.where(valid, column("safety"), 0).astype(np.float32),
        "terminated": ends & (np.arange(length) == last),
        "is_first": first,
        "valid": valid,
    }
    return as_batch(raw, model.obs_spec, model.action_spec, learn=False), valid


def check_reward(rows: Rows) -> Curve:
    """The reward head on beliefs that have read their row."""
    return curve_of(rows.reward, rows.real_reward, rows.unit)


def check_risk(rows: Rows) -> RiskCheck:
    """The risk head on beliefs that have read their row, and what it hides."""
    said, was, unit = rows.risk, rows.real_risk, rows.unit
    said = np.where(np.isfinite(said), said, 0.0)  # a NaN warns of nothing
    called_safe = said < was.mean() if was.size else np.zeros(0, bool)
    beyond = np.where(called_safe, was - said, 0.0)
    event = was > 0
    at = int(np.argmax(beyond)) if beyond.size else 0
    missed = beyond.size > 0 and beyond[at] > 0
    return RiskCheck(
        curve=curve_of(said, was, unit),
        hidden=ratio(beyond, was, unit),
        events=int(event.sum()),
        event_units=len(np.unique(unit[event])),
        missed=Place(int(rows.episode[at]), int(rows.row[at])) if missed else None,
    )


def check_imagined(
    model: OpenLoopModel, windows: Windows, k: int, *, seed: int = 0
) -> tuple[Curve, Curve]:
    """The reward imagined k rows ahead, and Delta V_s over k rows, predicted against true.

    Delta V_s = V_s(row t + k) - V_s(row t), > 0 where danger grows; predicted by the mean of
    sampled rollouts less the belief's own V_s, true by the risk received in both rows.
    """
    c, there = windows.context, windows.target_valid[:, k - 1]
    imagined = imagine(model, windows, mode="sample", seed=seed)
    unit = units_of(windows.episode, windows.start)[there]
    reward = curve_of(
        imagined.forecast.reward[there, k - 1], windows.reward[there, c - 1 + k], unit
    )
    now = _now(model, windows)
    said = (imagined.safety[:, k - 1] - now)[there]
    was = (windows.safety[:, c - 1 + k] - windows.safety[:, c - 1])[there]
    return reward, curve_of(said, was, unit)


def _now(model: OpenLoopModel, windows: Windows) -> np.ndarray:
    """V_s of the belief after each context, [W]."""
    from bb_wm.diagnose.open_loop import context_batch

    with torch.no_grad():
        latent = model.filter(context_batch(model, windows))[:, -1]
        return _numpy(model.predict_safety(latent))  # type: ignore[attr-defined]
