"""Drift: has the world, or the model's error in it, changed since the calibration?

A test martingale on conformal p-values (Vovk, Nouretdinov & Gammerman 2003). While the scores are
exchangeable the p-values are independent and uniform whatever the scores' law is, the wealth of a
bettor against them is a martingale that begins at 1, and by Ville's inequality it ever reaches
1 / alpha with a probability of at most alpha: looking at it all the time costs nothing.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from bb_wm.diagnose.calibration.binomial import check_share
from bb_wm.errors import BatchError, CheckpointError, ConfigError, DataError

Array = np.ndarray
_POWERS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)  # bets of f(p) = power p^(power - 1)
_LEAST = 8  # reference scores: half of them cut the bins, the other half fills them


class DriftMonitor:
    """Watches one score per step, larger is worse; `alarmed` stays True until `reset`.

    The scores must be exchangeable while nothing changed: one per episode (`Claims.worst_excess`),
    or decisions so far apart that they do not depend on each other. Against rows of one episode
    the promise does not hold. Only a change to larger scores is bet on. Memory is constant: scores
    are counted in bins, which loses a little power and no validity.
    """

    def __init__(self, edges: ArrayLike, counts: ArrayLike, *, alpha: float, seed: int) -> None:
        self.alpha = check_share("alpha", alpha)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise ConfigError("seed", expected="an int >= 0", actual=repr(seed))
        self.seed = seed
        cuts, start = np.asarray(edges, np.float64), np.asarray(counts, np.int64)
        sound = cuts.ndim == 1 and start.shape == (len(cuts) + 1,) and bool((start >= 0).all())
        if not (sound and np.isfinite(cuts).all() and (np.diff(cuts) > 0).all()):
            raise DataError("DriftMonitor", expected="rising edges, counts >= 0", actual="others")
        self._edges: list[float] = cuts.tolist()
        self._start: list[int] = start.tolist()
        self._epoch = 0
        self._begin()

    @classmethod
    def fit(cls, scores: ArrayLike, *, alpha: float = 1e-4, seed: int = 0, bins: int = 256) -> Self:
        """From scores [N] of calibration episodes; NaN counts as the largest possible.

        Every other score cuts the bins, the rest fills them: bins cut by the scores that are also
        counted would not be exchangeable with the scores to come.
        """
        given = np.asarray(scores, np.float64)
        if given.ndim != 1:
            raise BatchError("scores", expected="one column [N]", actual=list(given.shape))
        if len(given) < _LEAST:
            raise DataError(
                "scores",
                expected=f"at least {_LEAST} to compare with",
                actual=len(given),
                hint="calibrate on more episodes.",
            )
        if bins < 2:
            raise ConfigError("bins", expected="at least 2", actual=bins)
        given = np.where(np.isnan(given), np.inf, given)
        cutting, counted = given[0::2], given[1::2]
        finite = np.unique(cutting[np.isfinite(cutting)])
        ranks = np.unique(np.linspace(0, len(finite) - 1, min(bins - 1, len(finite))).astype(int))
        edges = finite[ranks] if len(finite) else np.zeros(1)
        places = np.searchsorted(edges, counted, side="left")
        return cls(edges, np.bincount(places, minlength=len(edges) + 1), alpha=alpha, seed=seed)

    def _begin(self) -> None:
        self._counts = list(self._start)
        self._running = [-math.inf] * len(_POWERS)  # log wealth of the bettors who have begun
        self._steps = 0
        self.alarmed = False
        self.p_value = math.nan

    def update(self, score: float) -> bool:
        """One more score; True when the alarm stands. NaN is the largest score there can be."""
        value = math.inf if math.isnan(score) else float(score)
        place = bisect_left(self._edges, value)
        self._counts[place] += 1
        self._steps += 1
        above, ties = sum(self._counts[place + 1 :]), self._counts[place]
        self.p_value = (above + self._chance() * ties) / (above + sum(self._counts[: place + 1]))
        self._bet(self.p_value)
        self.alarmed = self.alarmed or self.log_wealth >= -math.log(self.alpha)
        return self.alarmed

    def _chance(self) -> float:
        """Uniform in (0, 1], a function of seed, epoch and step: a saved monitor goes on alike."""
        key = f"{self.seed}/{self._epoch}/{self._steps}".encode()
        drawn = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big") >> 3
        return (drawn + 1) / (1 << 53)

    def _bet(self, p: float) -> None:
        """Every step a share 1 / (t (t + 1)) of the wealth begins to bet, on all powers alike.

        A change is so found about as fast after a million quiet steps as after ten.
        """
        t = self._steps
        fresh = -math.log(t) - math.log(t + 1) - math.log(len(_POWERS))
        chance = math.log(p)
        self._running = [
            _log_sum(running, fresh) + math.log(power) + (power - 1.0) * chance
            for power, running in zip(_POWERS, self._running, strict=True)
        ]

    @property
    def log_wealth(self) -> float:
        """log of the bettor's wealth, 0 at the start; alarm at log(1 / alpha)."""
        total = -math.log(self._steps + 1)  # of those who have not begun
        for running in self._running:
            total = _log_sum(total, running)
        return total

    @property
    def steps(self) -> int:
        """How many scores were seen since the start or the last reset."""
        return self._steps

    def reset(self) -> None:
        """Forget the alarm and the scores since the calibration; bet anew.

        Every reset is a new test with an alpha of its own. After a change of the world calibrate
        again instead: the old scores are no reference any more.
        """
        self._epoch += 1
        self._begin()

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain JSON; what `from_json` makes goes on with the same numbers."""
        return {
            "alpha": self.alpha,
            "seed": self.seed,
            "epoch": self._epoch,
            "edges": self._edges,
            "start": self._start,
            "counts": self._counts,
            "steps": self._steps,
            "running": [x if math.isfinite(x) else None for x in self._running],
            "alarmed": self.alarmed,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping):
                raise TypeError("not a mapping")
            monitor = cls(data["edges"], data["start"], alpha=data["alpha"], seed=data["seed"])
            counts = list(data["counts"])
            running = [-math.inf if x is None else float(x) for x in data["running"]]
            whole = [data["epoch"], data["steps"], *data["start"], *data["counts"]]
            sound = len(counts) == len(monitor._start) and len(running) == len(_POWERS)
            sound = sound and all(type(n) is int and n >= 0 for n in whole)
            sound = sound and all(n >= m for n, m in zip(counts, monitor._start, strict=True))
            sound = sound and sum(counts) - sum(monitor._start) == data["steps"]
            if not (sound and type(data["alarmed"]) is bool and not any(map(math.isnan, running))):
                raise ValueError("its numbers contradict each other")
            monitor._epoch, monitor._steps = data["epoch"], data["steps"]
            monitor._counts, monitor._running = counts, running
            monitor.alarmed = data["alarmed"]
            return monitor
        except (TypeError, ValueError, KeyError) as cause:
            raise CheckpointError(
                "DriftMonitor", expected="a monitor as it was written", actual=cause
            ) from None


def _log_sum(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
