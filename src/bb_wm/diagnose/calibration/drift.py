"""Drift: has the world, or the model's error in it, changed since the calibration?

A test martingale on conformal p-values (Vovk, Nouretdinov & Gammerman 2003). While the scores are
exchangeable the p-values are independent and uniform whatever the scores' law is, the wealth of a
bettor against them is a martingale that begins at 1, and by Ville's inequality it ever reaches
1 / alpha with a probability of at most alpha: looking at it all the time costs nothing.
"""

from __future__ import annotations

import math
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
        self._edges = np.asarray(edges, np.float64)
        self._start = np.asarray(counts, np.int64)
        sound = self._edges.ndim == 1 and self._start.shape == (len(self._edges) + 1,)
        sound = sound and bool(np.isfinite(self._edges).all() and (np.diff(self._edges) > 0).all())
        if not (sound and (self._start >= 0).all()):
            raise DataError("DriftMonitor", expected="rising edges, counts >= 0", actual="others")
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
        self._counts = self._start.copy()
        self._running = np.full(len(_POWERS), -np.inf)  # log wealth of bettors who have begun
        self._steps = 0
        self.alarmed = False
        self.p_value = math.nan

    def update(self, score: float) -> bool:
        """One more score; True when the alarm stands. NaN is the largest score there can be."""
        value = math.inf if math.isnan(score) else float(score)
        place = int(np.searchsorted(self._edges, value, side="left"))
        self._counts[place] += 1
        self._steps += 1
        above, ties = int(self._counts[place + 1 :].sum()), int(self._counts[place])
        self.p_value = (above + self._chance() * ties) / int(self._counts.sum())
        self._bet(max(self.p_value, 1e-12))
        self.alarmed = self.alarmed or self.log_wealth >= -math.log(self.alpha)
        return self.alarmed

    def _chance(self) -> float:
        """Uniform in (0, 1], a function of seed, epoch and step: a saved monitor goes on alike."""
        key = [self.seed, self._epoch, self._steps]
        return 1.0 - float(np.random.default_rng(key).random())

    def _bet(self, p: float) -> None:
        """Every step a share 1 / (t (t + 1)) of the wealth begins to bet, on all powers alike.

        A change is so found about as fast after a million quiet steps as after ten.
        """
        t = self._steps
        fresh = -math.log(t) - math.log(t + 1) - math.log(len(_POWERS))
        power = np.asarray(_POWERS)
        gain = np.log(power) + (power - 1.0) * math.log(p)
        self._running = np.logaddexp(self._running, fresh) + gain

    @property
    def log_wealth(self) -> float:
        """log of the bettor's wealth, 0 at the start; alarm at log(1 / alpha)."""
        waiting = -math.log(self._steps + 1)
        return float(np.logaddexp.reduce(np.append(self._running, waiting)))

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
            "edges": self._edges.tolist(),
            "start": self._start.tolist(),
            "counts": self._counts.tolist(),
            "steps": self._steps,
            "running": [x if math.isfinite(x) else None for x in self._running.tolist()],
            "alarmed": self.alarmed,
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping):
                raise TypeError("not a mapping")
            monitor = cls(data["edges"], data["start"], alpha=data["alpha"], seed=data["seed"])
            counts = np.asarray(data["counts"])
            running = [-math.inf if x is None else float(x) for x in data["running"]]
            whole = [data["epoch"], data["steps"], *data["start"], *data["counts"]]
            sound = counts.shape == monitor._start.shape and len(running) == len(_POWERS)
            sound = sound and all(type(n) is int and n >= 0 for n in whole)
            sound = sound and bool((counts >= monitor._start).all())
            sound = sound and int((counts - monitor._start).sum()) == data["steps"]
            if not (sound and type(data["alarmed"]) is bool and not any(map(math.isnan, running))):
                raise ValueError("its numbers contradict each other")
            monitor._epoch, monitor._steps = data["epoch"], data["steps"]
            monitor._counts, monitor._running = counts.astype(np.int64), np.asarray(running)
            monitor.alarmed = data["alarmed"]
            return monitor
        except (TypeError, ValueError, KeyError) as cause:
            raise CheckpointError(
                "DriftMonitor", expected="a monitor as it was written", actual=cause
            ) from None
