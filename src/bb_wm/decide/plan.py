"""What planning gives (Plan), the chance it consumes (PlanNoise), and how candidates are ranked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.imagine.utility import Worth

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen action sequence per start, [*batch], with what it is worth.

    actions          [*batch, H, A] flat actions; NaN where `valid` is False: there is no action
    worth            [*batch] of the chosen sequence, estimated under noise it was not chosen on
    valid            [*batch] False where no candidate had finite numbers, or none was available
    abstain          [*batch] True where doing nothing is the better or the only allowed choice
                     (only with Utility.abstain)
    candidates       [*batch, M, H, A] the best candidates, ranked: allowed ones by utility, then
                     the others by least risk, unusable ones last
    candidate_worth  [*batch, M] under the noise of the search
    scores, centre   [*batch, M, H, A] and [*batch, H, A], from which a later plan starts warm
    """

    actions: Tensor
    worth: Worth
    valid: Tensor
    abstain: Tensor
    candidates: Tensor
    candidate_worth: Worth
    scores: Tensor
    centre: Tensor

    @property
    def action(self) -> Tensor:
        """The first action [*batch, A]; NaN where the plan is not valid."""
        return self.actions[..., 0, :]

    @property
    def allowed(self) -> Tensor:
        """[*batch] valid and within the hard limit; what is not may not be executed."""
        return self.valid & self.worth.allowed

    def map(self, change: Callable[[Tensor], Tensor]) -> Plan:
        """The same plan with `change` applied to every tensor."""
        return Plan(
            actions=change(self.actions),
            worth=self.worth.map(change),
            valid=change(self.valid),
            abstain=change(self.abstain),
            candidates=change(self.candidates),
            candidate_worth=self.candidate_worth.map(change),
            scores=change(self.scores),
            centre=change(self.centre),
        )

    def __getitem__(self, index: object) -> Plan:
        return self.map(lambda t: t[index])  # type: ignore[index]

    @staticmethod
    def concatenate(plans: list[Plan]) -> Plan:
        """Plans of different starts put together along the first axis."""

        def worth(parts: list[Worth]) -> Worth:
            names = Worth.__dataclass_fields__
            return Worth(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})

        def join(name: str) -> Tensor:
            return torch.cat([getattr(plan, name) for plan in plans])

        names = ("actions", "valid", "abstain", "candidates", "scores", "centre")
        return Plan(
            worth=worth([plan.worth for plan in plans]),
            candidate_worth=worth([plan.candidate_worth for plan in plans]),
            **{name: join(name) for name in names},
        )


@dataclass(frozen=True, slots=True)
class PlanNoise:
    """All chance of one plan, as standard normals, with leading axes [B] per start or none: shared.

    search    [(B,) R, C, H, A]  what C candidates of R rounds are made of
    rollouts  [(B,) S, H, N]     common to all candidates, so that they meet the same luck
    report    [(B,) S, H, N]     kept back to judge the chosen plan; None for mode rollouts
    """

    search: Tensor
    rollouts: Tensor | None
    report: Tensor | None

    def rows(self, places: slice) -> PlanNoise:
        """The noise of some starts, each tensor with a leading axis of starts (1 when shared)."""

        def cut(noise: Tensor, per_start: int) -> Tensor:
            return noise[places] if noise.dim() == per_start + 1 else noise[None]

        return PlanNoise(
            search=cut(self.search, 4),
            rollouts=None if self.rollouts is None else cut(self.rollouts, 3),
            report=None if self.report is None else cut(self.report, 3),
        )


def rank(worth: Worth) -> Tensor:
    """The order [*batch, C], best first: allowed by utility, then usable by least risk, then rest.

    It is the constrained selection of safe cross-entropy methods (Wen & Topcu 2018): while nothing
    is allowed, the search moves to lower risk. Equal candidates keep their order.
    """
    tier, value = standing(worth)
    by_value = value.argsort(dim=-1, descending=True, stable=True)
    by_tier = tier.gather(-1, by_value).argsort(dim=-1, descending=True, stable=True)
    return by_value.gather(-1, by_tier)


def standing(worth: Worth) -> tuple[Tensor, Tensor]:
    """What ranks candidates [*batch, C]: tier (2 allowed, 1 usable, 0 neither), value within it."""
    value = torch.where(worth.allowed, worth.utility, -worth.risk)
    value = torch.where(worth.usable, value, torch.zeros_like(value))
    return worth.usable.to(torch.int8) + worth.allowed.to(torch.int8), value


def elite_weights(worth: Worth, count: int) -> Tensor:
    """Equal weights [*batch, C] on the `count` best of ranked candidates, and on their equals.

    Where more candidates are equally good than there are elites, leaving some out by their place
    in the row would be arbitrary. What is not usable has weight 0, all of it where nothing is.
    """
    tier, value = standing(worth)
    last = min(count, int(value.shape[-1])) - 1
    equal = (tier == tier[..., last : last + 1]) & (value == value[..., last : last + 1])
    place = torch.arange(value.shape[-1], device=value.device)
    counted = (((place <= last) | equal) & worth.usable).to(value.dtype)
    return counted / counted.sum(-1, keepdim=True).clamp_min(1)


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates as scores [B, C, H, A] with their worth [B, C]."""

    scores: Tensor
    worth: Worth

    def best(self, count: int | None = None) -> Pool:
        """The `count` best, ranked; all of them when None or when there are fewer."""
        order = rank(self.worth)[:, :count]
        index = order[:, :, None, None].expand(-1, -1, *self.scores.shape[2:])
        return Pool(self.scores.gather(1, index), self.worth.gather(order))

    def join(self, other: Pool | None) -> Pool:
        """Both pools, `other` first, so that of equals the earlier found stays."""
        if other is None:
            return self
        return Pool(
            torch.cat([other.scores, self.scores], dim=1),
            Worth.concatenate([other.worth, self.worth]),
        )

    def first(self, count: int) -> Pool:
        return Pool(self.scores[:, :count], self.worth[:, :count])
