"""Random shooting: many random sequences, the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.colour import coloured
from bb_wm.decide.planner import Planner, at_least
from bb_wm.decide.problem import Layout, gumbel
from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.plan import Plan, Pool
    from bb_wm.decide.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomShooting(Planner):
    """Uniform candidates over the bounds and choices (normal where unbounded), the best is taken.

    `colour` > 0 makes neighbouring steps alike (see `colour.coloured`). `previous` is tried beside
    them, moved one step on.
    """

    candidates: int = 256
    colour: float = 0.0

    def _check(self) -> None:
        Planner._check(self)
        at_least(self, "candidates", 1)
        check_colour(self, self.colour)

    @property
    def search_shape(self) -> tuple[int, int]:
        return 1, self.candidates

    def search(self, problem: Problem, noise: Tensor, previous: Plan | None) -> tuple[Pool, Tensor]:
        scores = uniform_scores(problem.layout, coloured(noise[:, 0], self.colour))
        scores = scores.expand(problem.starts, *scores.shape[1:])
        if previous is not None:
            scores = torch.cat([scores, shifted(problem, previous, 1)], dim=1)
        pool = problem.pool(scores).best(self.keep)
        return pool, pool.scores[:, 0]


def uniform_scores(layout: Layout, normal: Tensor) -> Tensor:
    """Scores [..., A] uniform over the action space from normals [..., A]."""
    bounded = torch.isfinite(layout.low) & torch.isfinite(layout.high)
    low = torch.where(bounded, layout.low, torch.zeros_like(layout.low))
    width = torch.where(bounded, layout.high - layout.low, torch.zeros_like(layout.low))
    inside = low + width * torch.special.ndtr(normal)
    box = torch.where(bounded, inside, layout.middle + layout.scale * normal)
    return torch.where(layout.choice, gumbel(normal), box)


def shifted(problem: Problem, previous: Plan, count: int) -> Tensor:
    """The best scores of the last plan one step on, [B, count, H, A]; plain where it was invalid.

    The new last step is in the middle of the bounds, without preference among choices.
    """
    scores = previous.scores[:, :count].to(problem.layout.middle.dtype)
    plain = problem.layout.middle.expand_as(scores)
    moved = torch.cat([scores[:, :, 1:], plain[:, :, :1]], dim=2)
    good = previous.valid[:, None, None, None] & torch.isfinite(moved)
    return torch.where(good, moved, plain)


def check_colour(settings: object, colour: float) -> None:
    """Raise ConfigError unless the exponent of the noise is usable."""
    if not 0 <= colour <= 4:
        field = f"{type(settings).__name__}.colour"
        raise ConfigError(field, expected="an exponent within [0, 4]", actual=colour)
