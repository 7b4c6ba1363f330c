"""The cross-entropy method: candidates drawn around what the last round's best had in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.colour import coloured
from bb_wm.decide.plan import elite_weights
from bb_wm.decide.planner import Planner, at_least
from bb_wm.decide.problem import Layout, gumbel
from bb_wm.decide.shooting import check_colour, shifted
from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.plan import Plan, Pool
    from bb_wm.decide.problem import Problem

RESET = 0.5  # share of "no preference" mixed into a warm choice, as the spread of numbers is reset
LEAST_PROBABILITY = 1e-3  # of a class, so that none is ever given up


@dataclass(frozen=True, slots=True, kw_only=True)
class CEM(Planner):
    """Cross-entropy method with the improvements of iCEM (Pinneri et al. 2020).

    candidates      per round; divided by `decay` each round, never under 2 x elites
    elites          E, the best ones that shape the next round
    rounds          how often
    initial_spread  first standard deviation, in half-widths of the bounds (units where unbounded)
    least_spread    below which it does not fall, in the same measure
    momentum        share of the old centre and spread kept
    colour          exponent of the noise along the steps; 0 white, 2 a random walk
    carry           share of the elites that compete in the next round and, one step on, in the
                    next plan (`previous`); the search then starts around the last centre

    With a hard limit, elites are allowed candidates first, then those of least risk.
    """

    candidates: int = 256
    elites: int = 32
    rounds: int = 4
    initial_spread: float = 0.5
    least_spread: float = 0.01
    momentum: float = 0.1
    colour: float = 0.0
    carry: float = 0.3
    decay: float = 1.0

    def _check(self) -> None:
        Planner._check(self)
        for name in ("candidates", "elites", "rounds"):
            at_least(self, name, 1)
        check_colour(self, self.colour)
        if self.elites > self.candidates:
            raise ConfigError("CEM.elites", expected="at most candidates", actual=self.elites)
        for name, low, high in (("momentum", 0.0, 0.999), ("carry", 0.0, 1.0)):
            within(self, name, low, high)
        within(self, "decay", 1.0, 100.0)
        within(self, "initial_spread", 1e-6, 1e6)
        within(self, "least_spread", 0.0, 1e6)

    @property
    def search_shape(self) -> tuple[int, int]:
        return self.rounds, self.candidates

    def search(self, problem: Problem, noise: Tensor, previous: Plan | None) -> tuple[Pool, Tensor]:
        layout, carried = problem.layout, math.ceil(self.carry * self.elites)
        centre = first_centre(problem, previous)
        spread = (self.initial_spread * layout.scale).expand_as(centre)
        found: Pool | None = None
        for turn in range(self.rounds):
            normal = coloured(noise[:, turn, : self._count(turn)], self.colour)
            scores = gaussian_scores(layout, centre, spread, normal)
            if turn == 0 and previous is not None and carried:
                scores = torch.cat([shifted(problem, previous, carried), scores], dim=1)
            if turn == self.rounds - 1:
                scores = torch.cat([centre[:, None], scores], dim=1)
            pool = problem.pool(scores)
            kept = found.first(carried) if found is not None and carried else None
            centre, spread = self._refit(problem, pool.join(kept).best(), centre, spread)
            found = pool.join(found).best(max(self.elites, self.keep))
        assert found is not None
        # The refitted centre is a candidate too, and the first among equals: it is what the best
        # have in common, so it stands in the middle of them.
        return found.join(problem.pool(centre[:, None])).best(self.keep), centre

    def _count(self, turn: int) -> int:
        fewer = int(self.candidates * self.decay**-turn)
        return min(self.candidates, max(fewer, 2 * self.elites))

    def _refit(
        self, problem: Problem, ranked: Pool, centre: Tensor, spread: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and spread [B, H, A] of the elites; the old ones where no elite is usable."""
        weights = elite_weights(ranked.worth, self.elites)
        some = ranked.worth.usable.any(-1)[:, None, None]
        mean, variance = weighted_fit(problem, ranked.scores, weights)
        least = self.least_spread * problem.layout.scale
        new_spread = torch.maximum(variance.sqrt(), least)
        keep, choice = self.momentum, problem.layout.choice
        new_centre = blend(problem.layout, mean, centre, keep)
        new_spread = torch.where(choice, spread, keep * spread + (1 - keep) * new_spread)
        return torch.where(some, new_centre, centre), torch.where(some, new_spread, spread)


def first_centre(problem: Problem, previous: Plan | None) -> Tensor:
    """Where a search starts [B, H, A]: the middle, or the last plan's centre one step on."""
    layout = problem.layout
    plain = layout.middle.expand(problem.starts, problem.horizon, -1)
    if previous is None:
        return plain
    moved = torch.cat([previous.centre[:, 1:].to(plain.dtype), plain[:, :1]], dim=1)
    moved = torch.where(previous.valid[:, None, None] & torch.isfinite(moved), moved, plain)
    even = torch.log(RESET * plain.exp() + (1 - RESET) * normalised(layout, moved).exp())
    return torch.where(layout.choice, even, moved)


def gaussian_scores(layout: Layout, centre: Tensor, spread: Tensor, normal: Tensor) -> Tensor:
    """Scores [B, C, H, A] drawn around centre [B, H, A]; choices by their log probabilities."""
    box = centre[:, None] + spread[:, None] * normal
    box = torch.minimum(torch.maximum(box, layout.low), layout.high)
    return torch.where(layout.choice, centre[:, None] + gumbel(normal), box)


def weighted_fit(problem: Problem, scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, H, A] of what the scores [B, E, H, A] do, under weights [B, E].

    Of a number: of the number. Of a choice: the mean is the share of the weight on each class.
    """
    done = problem.actions(scores)
    # Weight 0 must erase a broken candidate, and 0 * NaN is NaN.
    done = torch.where(weights[:, :, None, None] > 0, done, torch.zeros_like(done))
    share = weights[:, :, None, None]
    mean = (share * done).sum(1)
    return mean, (share * (done - mean[:, None]).square()).sum(1)


def blend(layout: Layout, mean: Tensor, centre: Tensor, keep: float) -> Tensor:
    """The new centre: (1 - keep) of what was fitted, `keep` of the old one."""
    shares = keep * normalised(layout, centre).exp() + (1 - keep) * mean
    logs = shares.clamp_min(LEAST_PROBABILITY).log()
    return torch.where(layout.choice, logs, keep * centre + (1 - keep) * mean)


def normalised(layout: Layout, scores: Tensor) -> Tensor:
    """The same scores [..., A] with every choice's as log probabilities, numbers as 0."""
    pieces = []
    for part, place in layout.spec.slices():
        piece = scores[..., place]
        choice = part.kind == "discrete"
        pieces.append(piece.log_softmax(-1) if choice else torch.zeros_like(piece))
    return torch.cat(pieces, dim=-1)


def within(settings: object, name: str, low: float, high: float) -> None:
    """Raise ConfigError unless the setting is a number within [low, high]."""
    value = getattr(settings, name)
    if not low <= value <= high:
        field = f"{type(settings).__name__}.{name}"
        raise ConfigError(field, expected=f"within [{low:g}, {high:g}]", actual=value)
