"""How unusual a number is among held-out ones: a conformal p-value from a small table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from bb_wm.errors import BatchError, CheckpointError, DataError

Array = np.ndarray
_EXACT = 64  # the largest scores are all kept; below them, ranks in steps of about 3 %


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The `ranks[i]`-th largest of `count` held-out scores is `scores[i]`; larger is stranger."""

    ranks: Array
    scores: Array
    count: int

    @classmethod
    def fit(cls, scores: ArrayLike) -> Self:
        """From held-out scores [N], N >= 1, all finite."""
        given = np.asarray(scores, np.float64)
        if given.ndim != 1 or not np.isfinite(given).all():
            raise BatchError("scores", expected="one finite column [N]", actual=list(given.shape))
        if not given.size:
            raise DataError("scores", expected="at least one", actual=0)
        ordered, count = np.sort(given)[::-1], given.size
        steps = np.geomspace(1, count, 1 + int(np.ceil(np.log(count) / np.log(1.03))))
        ranks = np.unique(np.concatenate([np.arange(1, min(_EXACT, count) + 1), steps.astype(int)]))
        return cls(ranks, ordered[ranks - 1], count)

    def p_value(self, score: ArrayLike) -> Array:
        """(1 + how many held-out scores are at least as large) / (count + 1), shaped like `score`.

        Rounded up to the next rank in the table, so never too small; NaN stays NaN.
        """
        given = np.asarray(score, np.float64)
        below = np.searchsorted(-self.scores, -given, side="right")  # the first score below it
        rank = np.append(self.ranks, self.count + 1)[below]
        return np.where(np.isnan(given), np.nan, rank / (self.count + 1))

    def strangeness(self, score: ArrayLike) -> Array:
        """-log10 of the p-value: 0 usual; 2: one held-out row in 100 was as strange. NaN stays."""
        return np.asarray(-np.log10(self.p_value(score)))

    def grade(self, score: ArrayLike) -> Array:
        """Strangeness that goes on growing beyond the largest held-out score, for comparing.

        A p-value cannot tell a little more than ever seen from a thousand times more: beyond the
        largest score, log(1 + excess) is added, in units of largest - median. NaN stays NaN.
        """
        top = float(self.scores[0])
        half = int(np.searchsorted(self.ranks, (self.count + 1) // 2, side="right")) - 1
        width = max(top - float(self.scores[max(half, 0)]), 1e-9)
        beyond = np.maximum(np.asarray(score, np.float64) - top, 0.0) / width
        return np.asarray(self.strangeness(score) + np.log1p(beyond))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "ranks": self.ranks.tolist(),
            "scores": self.scores.tolist(),
            "count": self.count,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping):
                raise TypeError("not a mapping")
            count, ranks = data["count"], data["ranks"]
            scores = np.asarray(data["scores"], np.float64)
            sound = all(type(n) is int for n in (count, *ranks)) and scores.shape == (len(ranks),)
            sound = sound and len(ranks) > 0 and ranks[0] == 1 and ranks[-1] <= count
            sound = sound and bool((np.diff(ranks) > 0).all() and (np.diff(scores) <= 0).all())
            if not (sound and np.isfinite(scores).all()):
                raise ValueError("its numbers contradict each other")
            return cls(np.asarray(ranks), scores, count)
        except (TypeError, ValueError, KeyError) as cause:
            raise CheckpointError(
                "Tail", expected="a table as it was written", actual=cause
            ) from None
