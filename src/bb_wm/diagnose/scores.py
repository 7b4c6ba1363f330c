"""Scores of predicted rows against real ones. Pure numpy, sums in float64, NaN where undefined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bb_wm.diagnose.baselines import Forecast
    from bb_wm.diagnose.windows import Windows
    from bb_wm.types import Episode, ObsSpec

FLAT_VARIANCE = 1e-8  # of the squared size; a dimension that varies less is constant up to rounding


@dataclass(frozen=True, slots=True)
class Variances:
    """Variance of every vector dimension over held-out rows, and which dimensions vary at all."""

    labels: tuple[str, ...]
    variance: np.ndarray
    used: np.ndarray

    @property
    def left_out(self) -> int:
        return int((~self.used).sum())

    @property
    def used_labels(self) -> tuple[str, ...]:
        return tuple(label for label, used in zip(self.labels, self.used, strict=True) if used)


def measure_variances(spec: ObsSpec, episodes: Sequence[Episode]) -> Variances:
    """Var_d over all rows of `episodes`; dimensions with almost none are marked as not used."""
    labels: list[str] = []
    columns: list[np.ndarray] = []
    for entry in spec.entries:
        if entry.kind != "vector":
            continue
        rows = [np.asarray(e.obs[entry.key], np.float64).reshape(len(e), -1) for e in episodes]
        columns.append(np.concatenate(rows))
        labels += [f"{entry.key}[{i}]" for i in range(entry.size)]
    if not columns:
        return Variances((), np.zeros(0), np.zeros(0, bool))
    table = np.concatenate(columns, axis=1)
    variance = table.var(axis=0)
    used = variance > FLAT_VARIANCE * np.maximum(np.mean(table**2, axis=0), 1e-12)
    return Variances(tuple(labels), variance, used)


def join_vectors(spec: ObsSpec, obs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """All vector keys side by side, [W, K, D]; None if one of them is missing or there is none."""
    keys = [entry.key for entry in spec.entries if entry.kind == "vector"]
    if not keys or any(key not in obs for key in keys):
        return None
    pieces = [np.asarray(obs[key], np.float64) for key in keys]
    return np.concatenate([p.reshape(*p.shape[:2], -1) for p in pieces], axis=-1)


def masked_mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean over windows where valid: [W, K, ...] -> [K, ...]; NaN where no window has row k."""
    mask = valid.reshape(*valid.shape, *([1] * (values.ndim - 2)))
    count = valid.sum(axis=0).astype(np.float64).reshape(-1, *([1] * (values.ndim - 2)))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        total = np.where(mask, values, 0.0).sum(axis=0)
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def nrmse_by_dimension(
    predicted: np.ndarray, real: np.ndarray, valid: np.ndarray, variances: Variances
) -> np.ndarray:
    """MSE_{k,d} / Var_d of the used dimensions, [K, D]; infinite where a prediction is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = (predicted - real)[..., variances.used] ** 2
    error = np.where(np.isnan(error), np.inf, error)
    return np.asarray(masked_mean(error, valid) / variances.variance[variances.used])


def nrmse(
    predicted: np.ndarray, real: np.ndarray, valid: np.ndarray, variances: Variances
) -> np.ndarray:
    """NRMSE_k = sqrt(mean_d MSE_{k,d} / Var_d), [K]. 0 is perfect, 1 is predicting the mean."""
    ratio = nrmse_by_dimension(predicted, real, valid, variances)
    if ratio.shape[1] == 0:
        return np.full(ratio.shape[0], np.nan)
    return np.asarray(np.sqrt(ratio.mean(axis=1)))


def rmse(predicted: np.ndarray, real: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Root mean squared error per k of scalars [W, K]."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = (np.asarray(predicted, np.float64) - np.asarray(real, np.float64)) ** 2
    error = np.where(np.isnan(error), np.inf, error)
    return np.asarray(np.sqrt(masked_mean(error, valid)))


def exact_match(spec: ObsSpec, forecast: Forecast, windows: Windows) -> dict[str, np.ndarray]:
    """Per discrete key: the share of rows in which every variable is predicted right, [K]."""
    result = {}
    for entry in spec.entries:
        if entry.kind != "discrete" or entry.key not in forecast.obs:
            continue
        real = np.asarray(windows.obs[entry.key])[:, windows.context :]
        same = np.asarray(forecast.obs[entry.key]).reshape(real.shape) == real
        whole = same.reshape(*same.shape[:2], -1).all(axis=-1).astype(np.float64)
        result[entry.key] = masked_mean(whole, windows.target_valid)
    return result


def image_mse(spec: ObsSpec, forecast: Forecast, windows: Windows) -> dict[str, np.ndarray]:
    """Per image key: mean squared error of pixels scaled to [0, 1], [K]."""
    result = {}
    for entry in spec.entries:
        if entry.kind != "image" or entry.key not in forecast.obs:
            continue
        real = np.asarray(windows.obs[entry.key], np.float32)[:, windows.context :]
        error = ((np.asarray(forecast.obs[entry.key], np.float32) - real) / 255.0) ** 2
        per_row = error.reshape(*error.shape[:2], -1).mean(axis=-1)
        result[entry.key] = masked_mean(per_row.astype(np.float64), windows.target_valid)
    return result


def auroc(score: np.ndarray, event: np.ndarray) -> float:
    """P(score of an event > score of a non-event), ties counted half (Mann-Whitney).

    NaN unless there is at least one of each.
    """
    score, event = np.asarray(score, np.float64), np.asarray(event, bool)
    positives, negatives = int(event.sum()), int((~event).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2.0)[inverse]  # mean rank of ties, from 1
    return float((rank[event].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def events_within(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Whether any predicted row up to k carries risk > 0, [W, K], and where that is known.

    It is known where the rows up to k exist, where the event has come already, and after the world
    ended; unknown where only the recording stopped.
    """
    risky = (windows.safety[:, windows.context :] > 0) & windows.target_valid
    event = np.logical_or.accumulate(risky, axis=1)
    known = windows.target_valid | event | windows.ended[:, None]
    return event, known


def brier(probability: np.ndarray, happened: np.ndarray, valid: np.ndarray) -> float:
    """Mean of (p - y)^2 over valid rows."""
    error = (np.asarray(probability, np.float64) - happened.astype(np.float64)) ** 2
    return float(error[valid].mean()) if valid.any() else float("nan")
