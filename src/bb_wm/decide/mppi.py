"""Model predictive path integral control: the average of candidates, weighted by their worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.cem import blend, first_centre, gaussian_scores, weighted_fit, within
from bb_wm.decide.colour import coloured
from bb_wm.decide.planner import Planner, at_least
from bb_wm.decide.shooting import check_colour

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.plan import Plan, Pool
    from bb_wm.decide.problem import Problem
    from bb_wm.imagine.utility import Worth


@dataclass(frozen=True, slots=True, kw_only=True)
class MPPI(Planner):
    """Model predictive path integral (Williams et al. 2017).

    The centre moves to sum_c w_c a_c with w = softmax(U / (temperature * sd(U))): measured in
    standard deviations of U over the candidates, so that rescaling the reward changes nothing.
    With a hard limit only allowed candidates have weight; while there are none, w = softmax of
    minus the risk. The centre is then a candidate like the others and must prove itself.

    spread          standard deviation of the candidates, in half-widths of the bounds
    spread_decay    factor on it from round to round
    """

    candidates: int = 256
    rounds: int = 4
    temperature: float = 0.2
    spread: float = 0.5
    spread_decay: float = 0.7
    colour: float = 0.0

    def _check(self) -> None:
        Planner._check(self)
        for name in ("candidates", "rounds"):
            at_least(self, name, 1)
        check_colour(self, self.colour)
        within(self, "temperature", 1e-6, 1e6)
        within(self, "spread", 1e-6, 1e6)
        within(self, "spread_decay", 1e-3, 1.0)

    @property
    def search_shape(self) -> tuple[int, int]:
        return self.rounds, self.candidates

    def search(self, problem: Problem, noise: Tensor, previous: Plan | None) -> tuple[Pool, Tensor]:
        centre = first_centre(problem, previous)
        found: Pool | None = None
        for turn in range(self.rounds):
            width = self.spread * self.spread_decay**turn * problem.layout.scale
            normal = coloured(noise[:, turn], self.colour)
            scores = gaussian_scores(problem.layout, centre, width.expand_as(centre), normal)
            pool = problem.pool(torch.cat([centre[:, None], scores], dim=1))
            weights = path_weights(pool.worth, self.temperature)
            mean, _ = weighted_fit(problem, pool.scores, weights)
            some = pool.worth.usable.any(-1)[:, None, None]
            centre = torch.where(some, blend(problem.layout, mean, centre, 0.0), centre)
            found = pool.join(found).best(self.keep)
        assert found is not None
        return found.join(problem.pool(centre[:, None])).best(self.keep), centre


def path_weights(worth: Worth, temperature: float) -> Tensor:
    """Weights [B, C] that sum to 1 over what is allowed, else over what is usable, else 0."""
    any_allowed = worth.allowed.any(-1, keepdim=True)
    counted = torch.where(any_allowed, worth.allowed, worth.usable)
    value = torch.where(any_allowed, worth.utility, -worth.risk)
    value = torch.where(counted, value, torch.zeros_like(value))
    number = counted.sum(-1, keepdim=True).clamp_min(1)
    mean = value.sum(-1, keepdim=True) / number
    gap = torch.where(counted, value - mean, torch.zeros_like(value))
    spread = (gap.square().sum(-1, keepdim=True) / number).sqrt()
    scaled = torch.where(spread > 0, gap / (temperature * spread), torch.zeros_like(gap))
    weights = scaled.masked_fill(~counted, -torch.inf).softmax(-1)
    return torch.where(counted, weights, torch.zeros_like(weights))
