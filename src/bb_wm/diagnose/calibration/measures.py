"""How good forecast probabilities are: calibration error and recall at a rate of false alarms."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bb_wm.errors import BatchError, ConfigError

Array = np.ndarray


def calibration_error(predicted: ArrayLike, happened: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error, 0 is perfect: sum_b (n_b / N) |mean predicted - mean happened|.

    The worse of two ways to cut `bins`: equal widths of probability, and equal numbers of rows
    (ties stay together). Both arguments [N]; NaN when N is 0.
    """
    p, y = _pair(predicted, happened)
    if bins < 1:
        raise ConfigError("bins", expected="at least 1", actual=bins)
    if not p.size:
        return float("nan")
    by_width = np.minimum((np.clip(p, 0, 1) * bins).astype(int), bins - 1)
    cuts = np.quantile(p, np.arange(1, bins) / bins)
    by_count = np.searchsorted(cuts, p, side="left")
    return max(_error(p, y, by_width, bins), _error(p, y, by_count, bins))


def recall_at(score: ArrayLike, happened: ArrayLike, *, false_alarms: float = 0.01) -> float:
    """The share of events found by the lowest threshold with at most that share of false alarms.

    An alarm is score > threshold; `false_alarms` is a share of the non-events. NaN without events
    or without non-events. 1 is best.
    """
    s, y = _pair(score, happened)
    if not 0 <= false_alarms < 1:
        raise ConfigError("false_alarms", expected="within [0, 1)", actual=false_alarms)
    event = y > 0
    quiet = np.sort(s[~event])[::-1]
    if not event.any() or not quiet.size:
        return float("nan")
    threshold = quiet[min(int(np.floor(false_alarms * quiet.size)), quiet.size - 1)]
    return float((s[event] > threshold).mean())


def _error(p: Array, y: Array, place: Array, bins: int) -> float:
    gap = np.bincount(place, p, bins) - np.bincount(place, y, bins)
    return float(np.abs(gap).sum() / p.size)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise BatchError(
            "predicted and happened",
            expected="two columns of one length",
            actual=[list(a.shape), list(b.shape)],
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BatchError("predicted and happened", expected="finite numbers", actual="some are not")
    return a, b
