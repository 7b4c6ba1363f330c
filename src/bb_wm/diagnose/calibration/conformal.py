"""A bound on V_s that holds for whole episodes: split conformal on each episode's worst excess.

Promise, for independent episodes of one law and with probability 1 - doubt over the calibration
episodes: P(an episode has any decision whose V_s comes out above its bound) <= alpha. It says
nothing of episodes of another law (see `DriftMonitor`), nor of plans chosen in another way than
those it was calibrated on: of many candidates the one with the least estimate is the one most
under-estimated, so claims are taken from the planner that will be deployed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from bb_wm.diagnose.calibration.binomial import check_share, conformal_rank, least_trials
from bb_wm.errors import BatchError, CheckpointError, ConfigError

Array = np.ndarray
EVERYTHING = "all"


@dataclass(frozen=True, slots=True, eq=False)
class Claims:
    """N decisions: what was estimated of each, and what came of it. Columns [N] of one length.

    estimate  V_s to go that was expected of the plan, units of V_s, larger is worse
    scale     how far off the estimate may be by its own account (> 0, units of V_s); the bound is
              estimate + margin x scale. All 1: every decision gets the same margin
    happened  V_s to go that was met, units of V_s; NaN counts as unbounded
    episode   which episode the decision belongs to (ints; only equality matters)
    """

    estimate: Array
    scale: Array
    happened: Array
    episode: Array

    def __post_init__(self) -> None:
        columns = {
            name: np.asarray(getattr(self, name), np.float64)
            for name in ("estimate", "scale", "happened")
        }
        columns["episode"] = np.asarray(self.episode)
        shapes = {column.shape for column in columns.values()}
        if len(shapes) != 1 or columns["estimate"].ndim != 1:
            actual = {name: list(column.shape) for name, column in columns.items()}
            raise BatchError("Claims", expected="columns of one length", actual=actual)
        if not np.issubdtype(columns["episode"].dtype, np.integer):
            raise BatchError("episode", expected="ints", actual=columns["episode"].dtype)
        if columns["scale"].size and not (columns["scale"] > 0).all():
            raise BatchError("scale", expected="numbers > 0", actual=columns["scale"].min())
        for name, column in columns.items():
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return int(self.estimate.shape[0])

    def worst_excess(self) -> tuple[Array, Array]:
        """(episodes [E], scores [E]): max over each episode of (happened - estimate) / scale.

        A NaN in it is +inf: what is not known is not bounded.
        """
        excess = (self.happened - self.estimate) / self.scale
        excess = np.where(np.isnan(excess), np.inf, excess)
        episodes, place = np.unique(self.episode, return_inverse=True)
        worst = np.full(len(episodes), -np.inf)
        np.maximum.at(worst, place, excess)
        return episodes, worst


@dataclass(frozen=True, slots=True)
class ConformalBound:
    """Margins per group, in units of a claim's scale; inf where there are too few episodes.

    `counts` is how many episodes each was fitted on. A group that was never seen has an infinite
    margin, never the pooled one (Mondrian).
    """

    alpha: float
    doubt: float
    margins: Mapping[str, float]
    counts: Mapping[str, int]

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        groups: Sequence[str] | None = None,
        *,
        alpha: float = 0.05,
        doubt: float = 0.05,
    ) -> Self:
        """From one score per episode [E] (`Claims.worst_excess`) and its group ("all").

        The margin is the k-th smallest score, `conformal_rank(E, alpha, doubt)`, at least 0: a
        doubtful estimate is never bounded lower than a sure one. NaN counts as +inf.
        """
        check_share("alpha", alpha)
        check_share("doubt", doubt)
        worst = np.asarray(scores, np.float64)
        if worst.ndim != 1:
            raise BatchError("scores", expected="one per episode, [E]", actual=list(worst.shape))
        labels = [EVERYTHING] * len(worst) if groups is None else list(groups)
        if len(labels) != len(worst) or not all(isinstance(name, str) for name in labels):
            raise BatchError(
                "groups", expected=f"{len(worst)} names, one per episode", actual=len(labels)
            )
        worst = np.where(np.isnan(worst), np.inf, worst)
        of_group = {
            name: np.sort(worst[[label == name for label in labels]]) for name in sorted({*labels})
        }
        margins, counts = {}, {}
        for name, ordered in of_group.items():
            rank = conformal_rank(len(ordered), alpha, doubt)
            counts[name] = len(ordered)
            margins[name] = math.inf if rank is None else max(0.0, float(ordered[rank - 1]))
        return cls(alpha, doubt, margins, counts)

    @property
    def needed(self) -> int:
        """How many episodes a group needs for a finite margin."""
        return least_trials(self.alpha, self.doubt)

    def margin(self, group: str = EVERYTHING) -> float:
        """Scales above the estimate; inf for a group without enough episodes, or unknown."""
        return float(self.margins.get(group, math.inf))

    def bound(self, estimate: ArrayLike, scale: ArrayLike = 1.0, group: str = EVERYTHING) -> Array:
        """max(estimate + margin x scale, 0), units of V_s; inf where a number is not usable."""
        middle, width = np.asarray(estimate, np.float64), np.asarray(scale, np.float64)
        with np.errstate(invalid="ignore"):
            raised = middle + self.margin(group) * width
            usable = np.isfinite(middle) & np.isfinite(width) & (width > 0)
        return np.asarray(np.where(usable, np.maximum(raised, 0.0), np.inf))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; an infinite margin is null."""
        return {
            "alpha": self.alpha,
            "doubt": self.doubt,
            "margins": {k: v if math.isfinite(v) else None for k, v in self.margins.items()},
            "counts": dict(self.counts),
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping):
                raise TypeError("not a mapping")
            margins, counts = dict(data["margins"]), dict(data["counts"])
            if set(margins) != set(counts):
                raise ValueError("margins and counts are of other groups")
            for value in margins.values():
                if value is not None and not (_is_number(value) and value >= 0):
                    raise ValueError(f"a margin is {value!r}")
            if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts.values()):
                raise ValueError("a count is not an int >= 0")
            alpha, doubt = check_share("alpha", data["alpha"]), check_share("doubt", data["doubt"])
            read = {k: math.inf if v is None else float(v) for k, v in margins.items()}
            for name, value in read.items():
                if math.isfinite(value) and conformal_rank(counts[name], alpha, doubt) is None:
                    raise ValueError(f"group {name!r} has too few episodes for a bound")
            return cls(alpha, doubt, read, counts)
        except (TypeError, ValueError, KeyError, ConfigError) as cause:
            raise CheckpointError(
                "ConformalBound", expected="bounds as they were written", actual=cause
            ) from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
