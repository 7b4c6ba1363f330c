"""One planning problem: what candidates are made of, which actions they mean, what they are worth.

Candidates are *scores* [B, C, H, A]: the number itself for a continuous action, and for a choice a
preference per class, of which the largest available one is done. So a mask, also one that depends
on an imagined latent, repairs a candidate instead of losing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.plan import Pool
from bb_wm.imagine.rollout import rollout

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.imagine.utility import Utility, Worth
    from bb_wm.protocols import Dynamics
    from bb_wm.types import ActionSpec, Latent


@dataclass(frozen=True, slots=True)
class Layout:
    """The flat action as tensors [A]: bounds, where choices are, and where a search begins."""

    spec: ActionSpec
    low: Tensor
    high: Tensor
    middle: Tensor
    scale: Tensor
    choice: Tensor

    @classmethod
    def of(cls, spec: ActionSpec, like: Tensor) -> Layout:
        low, high = (torch.as_tensor(bound).to(like) for bound in spec.bounds())
        bounded = torch.isfinite(low) & torch.isfinite(high)
        zero = torch.zeros_like(low)
        middle = torch.where(
            bounded, (low + high) / 2, torch.minimum(torch.maximum(zero, low), high)
        )
        scale = torch.where(bounded, (high - low) / 2, torch.ones_like(low))
        choice = torch.zeros_like(low, dtype=torch.bool)
        for part, place in spec.slices():
            if part.kind == "discrete":
                choice[place] = True
                middle[place] = -torch.log(torch.tensor(float(part.size)))
                scale[place] = 1.0
        return cls(spec, low, high, middle, scale, choice)

    def realise(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """The flat actions [..., A] meant by scores [..., A]; mask [..., A]: what is available.

        Where no class of a choice is available, the best one is taken as if all were; a start
        of that kind is refused before (`possible`).
        """
        pieces = []
        for part, place in self.spec.slices():
            piece = scores[..., place]
            if part.kind == "box":
                pieces.append(
                    torch.minimum(torch.maximum(piece, self.low[place]), self.high[place])
                )
                continue
            if mask is not None:
                open_ = mask[..., place]
                open_ = open_ | ~open_.any(-1, keepdim=True)
                piece = piece.masked_fill(~open_, -torch.inf)
            one_hot = torch.nn.functional.one_hot(piece.argmax(-1), part.size)
            pieces.append(one_hot.to(scores.dtype))
        return torch.cat(pieces, dim=-1)

    def possible(self, mask: Tensor) -> Tensor:
        """Whether mask [..., A] leaves at least one class of every choice; bool [...]."""
        answer = torch.ones(mask.shape[:-1], dtype=torch.bool, device=mask.device)
        for part, place in self.spec.slices():
            if part.kind == "discrete":
                answer = answer & mask[..., place].any(-1)
        return answer


def gumbel(normal: Tensor) -> Tensor:
    """Standard Gumbel draws from standard normal ones, by the quantiles."""
    uniform = torch.special.ndtr(normal).clamp(1e-6, 1 - 1e-6)
    double_log: Tensor = (-uniform.log()).log()
    return -double_log


@dataclass(frozen=True, slots=True)
class Problem:
    """B starts of S rollouts each. `mask` [B, H, A]; `noise` [B, S, H, N] or [1, S, H, N]."""

    model: Dynamics
    start: Latent
    log_weights: Tensor | None
    layout: Layout
    utility: Utility
    horizon: int
    mask: Tensor | None
    mask_of: Callable[[Latent], Tensor] | None
    noise: Tensor | None
    price: Callable[[Latent, Tensor], Tensor] | None = None

    @property
    def starts(self) -> int:
        return self.start.batch_shape[0]

    def pool(self, scores: Tensor) -> Pool:
        """The candidates with their worth."""
        return Pool(scores, self.worth(scores, self.noise))

    def actions(self, scores: Tensor) -> Tensor:
        """Flat actions [B, C, H, A] of scores, masked as far as a mask is known beforehand."""
        return self.layout.realise(scores, None if self.mask is None else self.mask[:, None])

    def worth(self, scores: Tensor, noise: Tensor | None) -> Worth:
        """Worth [B, C] of candidates, all under the same noise."""
        starts, count = scores.shape[:2]
        samples = self.start.batch_shape[1]
        shape = (starts, count, samples)
        start = self.start.map(lambda t: t[:, None].expand(*shape, *t.shape[2:]))
        shared = None
        if noise is not None:
            shared = noise[:, None].expand(*shape, *noise.shape[2:])
        if self.mask_of is None:
            actions = self.actions(scores)[:, :, None].expand(*shape, *scores.shape[2:])
            trajectory = rollout(self.model, start, actions, self.horizon, noise=shared)
        else:
            policy = _MaskedPolicy(self, scores)
            trajectory = rollout(self.model, start, policy, self.horizon, noise=shared)
        weights = None if self.log_weights is None else self.log_weights[:, None]
        worth = self.utility(trajectory, log_weights=weights)
        if self.price is None:
            return worth
        return worth.minus(self._priced(start, trajectory.action))

    def _priced(self, start: Latent, actions: Tensor) -> Tensor:
        """The price [B, C] of plans [B, C, S, H, A]; of a belief the mean over its particles."""
        assert self.price is not None
        if self.log_weights is None:  # S times the same start
            return self.price(start.map(lambda t: t[:, :, 0]), actions[:, :, 0])
        shares = self.log_weights.softmax(-1)[:, None]
        return (shares * self.price(start, actions)).sum(-1)


class _MaskedPolicy:
    """Candidates played step by step, each action repaired by the mask of its own latent."""

    def __init__(self, problem: Problem, scores: Tensor) -> None:
        self.problem, self.scores, self.row = problem, scores, 0

    def __call__(self, latent: Latent) -> Tensor:
        problem, row = self.problem, self.row
        assert problem.mask_of is not None
        mask = problem.mask_of(latent).bool()
        if problem.mask is not None:
            mask = mask & problem.mask[:, None, None, row]
        self.row += 1
        scores = self.scores[:, :, None, row].expand(*latent.batch_shape, -1)
        return problem.layout.realise(scores, mask)
