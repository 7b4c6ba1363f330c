"""Isotonic regression: a table that turns a score into what was seen to happen at that score.

The least-squares fit among all functions that never fall, by pooling adjacent violators (Ayer et
al. 1955). It keeps the order of the scores and only changes their scale. Numpy alone, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from bb_wm.errors import BatchError, CheckpointError, DataError, RangeError

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Isotonic:
    """A rising table: scores `knots` [K], strictly rising, and what happened there, `levels` [K].

    `levels` are >= 0 and never fall, in the units of `happened`: a probability for events (0 or
    1), an error for errors. `count` is how many rows it was fitted on; `flat` says that the scores
    carried no order at all, so that the table knows only the mean.
    """

    knots: Array
    levels: Array
    count: int

    def __post_init__(self) -> None:
        knots, levels = np.asarray(self.knots), np.asarray(self.levels)
        sound = knots.ndim == 1 and knots.shape == levels.shape and knots.size > 0
        sound = sound and bool(np.isfinite(knots).all() and np.isfinite(levels).all())
        sound = sound and bool((np.diff(knots) > 0).all() and (np.diff(levels) >= 0).all())
        if not (sound and levels[0] >= 0 and self.count >= 1):
            raise DataError(
                "Isotonic",
                expected="rising knots with levels >= 0 that never fall, as many of each",
                actual=f"{knots.shape} knots, {levels.shape} levels, count {self.count}",
            )
        object.__setattr__(self, "knots", knots.astype(np.float64))
        object.__setattr__(self, "levels", levels.astype(np.float64))

    @classmethod
    def fit(
        cls,
        predicted: ArrayLike,
        happened: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        minimum: int = 2,
    ) -> Self:
        """The table of scores `predicted` [N] and outcomes `happened` [N] >= 0.

        argmin_g sum_i w_i (g(predicted_i) - happened_i)^2 over all g that never fall; rows of one
        score are pooled first. `weights` [N] >= 0 count a row as that many. Raises DataError with
        fewer than `minimum` rows of weight above 0, BatchError for unequal shapes or numbers that
        are not finite, RangeError for negative outcomes or weights.
        """
        x, y = _column("predicted", predicted), _column("happened", happened)
        w = np.ones_like(x) if weights is None else _column("weights", weights)
        if not x.shape == y.shape == w.shape:
            shapes = [list(x.shape), list(y.shape), list(w.shape)]
            raise BatchError(
                "predicted, happened, weights", expected="columns of one length", actual=shapes
            )
        for name, column in (("happened", y), ("weights", w)):
            if column.size and column.min() < 0:
                raise RangeError(name, expected="numbers >= 0", actual=column.min())
        counted = w > 0
        x, y, w = x[counted], y[counted], w[counted]
        if x.size < max(minimum, 1):
            raise DataError(
                "predicted",
                expected=f"at least {max(minimum, 1)} rows to calibrate on",
                actual=x.size,
                hint="record more held-out episodes; a table of too few rows says nothing.",
            )
        return cls(*_thin(*_pool(x, y, w)), count=int(x.size))

    def __call__(self, predicted: ArrayLike) -> Array:
        """Calibrated values, shaped like `predicted`; linear between knots, level beyond them.

        NaN stays NaN, so that what reads it can refuse it.
        """
        given = np.asarray(predicted, np.float64)
        return np.asarray(np.interp(given, self.knots, self.levels))

    @property
    def flat(self) -> bool:
        """True when every score gets the same value: the scores did not order what happened."""
        return bool(self.levels[0] == self.levels[-1])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; floats come back the same to the last bit."""
        return {
            "knots": self.knots.tolist(),
            "levels": self.levels.tolist(),
            "count": self.count,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping) or set(data) != {"knots", "levels", "count"}:
                raise TypeError("the keys are not knots, levels, count")
            count = data["count"]
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError("count is not an int")
            knots, levels = (_numbers(data[name]) for name in ("knots", "levels"))
            return cls(knots, levels, count)
        except (TypeError, ValueError) as cause:
            raise CheckpointError(
                "Isotonic", expected="a table as it was written", actual=cause
            ) from None


def _column(name: str, values: ArrayLike) -> Array:
    column = np.asarray(values, np.float64)
    if column.ndim != 1:
        raise BatchError(name, expected="one column [N]", actual=list(column.shape))
    if not np.isfinite(column).all():
        broken = int((~np.isfinite(column)).sum())
        raise BatchError(name, expected="finite numbers", actual=f"{broken} that are not")
    return column


def _numbers(values: object) -> Array:
    if not isinstance(values, list) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in values
    ):
        raise TypeError("not a list of numbers")
    return np.asarray(values, np.float64)


def _pool(x: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """Distinct scores and their pooled levels."""
    knots, place = np.unique(x, return_inverse=True)
    mass = np.bincount(place, w)
    mean = np.bincount(place, w * y) / mass
    levels: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for level, share in zip(mean.tolist(), mass.tolist(), strict=True):
        size = 1
        while levels and levels[-1] >= level:
            before = masses.pop()
            level = (levels.pop() * before + level * share) / (before + share)
            share += before
            size += sizes.pop()
        levels.append(level)
        masses.append(share)
        sizes.append(size)
    pooled = np.repeat(np.asarray(levels), np.asarray(sizes))
    return knots, np.maximum.accumulate(np.maximum(pooled, 0.0))


def _thin(knots: Array, levels: Array) -> tuple[Array, Array]:
    """Only the two ends of every level: the rest lies on the line between them."""
    change = np.diff(levels) != 0
    kept = np.ones(len(knots), bool)
    kept[1:-1] = change[1:] | change[:-1]
    return knots[kept], levels[kept]
