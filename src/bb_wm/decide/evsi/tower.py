"""The tower check: is what q says after an answer, on average, what was the case?

A world's worth U and the worth U' of a latent drawn from q after its answer are two draws of the
same law when q is honest, so swapping them must change nothing. Three ways to see that it does:

    level   E[U' - U] = 0                            q is right on average
    slope   E[(U' - U) (c(o) - E c)] = 0             ... and in what it makes of the answer
    spread  P(|U - c(o)| > |U' - c(o)|) = 1/2        ... and as sure as it may be

c(o) is what both together say after the answer, by a regression that does not know which is which.
Sources: the law of total expectation; Talts et al. 2018 (simulation-based calibration).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.regression import Basis

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.evsi.samples import JointSamples

LEVEL = 3.0  # standard errors
_CHANCE = 2 * NormalDist().cdf(-LEVEL)  # of an alarm by slope or spread where q is honest
_WAVES = 16
_RIDGE = 0.05


@dataclass(frozen=True, slots=True)
class Tower:
    """The level's gap and its standard error for the candidate where it is clearest, and what
    else is wrong with q, in words; empty when nothing is. NaN where it was not checked."""

    gap: float
    standard_error: float
    faults: tuple[str, ...] = ()

    @property
    def alarm(self) -> bool:
        return bool(self.faults)


def check_tower(samples: JointSamples) -> Tower:
    """The tower check of samples whose worths were imagined again after reading."""
    if samples.reread is None:
        return Tower(math.nan, math.nan)
    weights, faults = samples.probability(), []
    gap = samples.reread - samples.utility
    scale = samples.utility.abs().amax().clamp_min(1e-300)
    gap = torch.where(gap.abs() > 1e-9 * scale, gap, 0.0)
    mean, error = (weights[:, None] * gap).sum(0), _error(gap, weights)
    size = mean.abs() / error.clamp_min(1e-300)
    worst = int(size.argmax())
    if float(size[worst]) > LEVEL:
        faults.append(f"{float(mean[worst]):+.3g} off on average")
    changed = torch.nonzero((gap != 0).any(0)).flatten()
    if samples.reread_features is not None and changed.numel():
        truth, again = samples.utility[:, changed], samples.reread[:, changed]
        faults += _given_answers(truth, again, samples.reread_features, weights)
    return Tower(float(mean[worst]), float(error[worst]), tuple(faults))


def _given_answers(truth: Tensor, again: Tensor, known: Tensor, weights: Tensor) -> list[str]:
    """Faults of slope and spread: worths [N, C] and what was known after the answer [N, F]."""
    middle = _centre((truth + again) / 2, known, weights)
    lean = middle - weights @ middle
    slope = _sizes((again - truth) * lean, weights)
    farther = ((truth - middle).abs() - (again - middle).abs()).sign()
    spread = _sizes(farther, weights)
    bar = NormalDist().inv_cdf(1 - _CHANCE / (4 * truth.shape[1]))
    faults = []
    if float(slope.abs().max()) > bar:
        faults.append(
            "makes too much of answers"
            if slope[slope.abs().argmax()] > 0
            else "makes too little of answers"
        )
    if float(spread.abs().max()) > bar:
        proud = float(spread[spread.abs().argmax()]) > 0
        faults.append("too sure of itself" if proud else "not as sure as it might be")
    return faults


def _centre(worth: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Ridge regression of worths [N, C] on what was known [N, F]."""
    waves = min(_WAVES, worth.shape[0] // 8)
    design = Basis.of(known[:, None], weights, waves, 0).design[:, 0]
    heavy = design * weights[:, None]
    penalty = torch.full((design.shape[1],), _RIDGE, dtype=design.dtype)
    penalty[0] = 0.0
    gram = heavy.T @ design + torch.diag(penalty + 1e-10)
    fitted: Tensor = design @ torch.linalg.solve(gram, heavy.T @ worth)
    return fitted


def _sizes(statistic: Tensor, weights: Tensor) -> Tensor:
    """How many standard errors the mean of what is symmetric about 0 lies from it, [C]."""
    total = (weights[:, None] * statistic).sum(0)
    error = (weights[:, None].square() * statistic.square()).sum(0).sqrt()
    return torch.where(error > 0, total / error.clamp_min(1e-300), 0.0)


def _error(values: Tensor, weights: Tensor) -> Tensor:
    squares = weights.square()
    bessel = 1.0 / max(1e-12, 1.0 - float(squares.sum()))
    mean = (weights[:, None] * values).sum(0)
    found: Tensor = ((squares[:, None] * (values - mean).square()).sum(0) * bessel).sqrt()
    return found
