"""The worth of every candidate in every world, under the same luck for all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.ask import Candidates
from bb_wm.errors import ConfigError
from bb_wm.imagine.rollout import rollout

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.imagine.utility import Utility
    from bb_wm.protocols import Dynamics
    from bb_wm.types import Latent


@dataclass(frozen=True, slots=True, eq=False)
class Worth:
    """Return and V_s of candidates [N, C]; `reach` [N] is the chance the world goes on."""

    returns: Tensor
    risks: Tensor | None


def count_candidates(candidates: Candidates) -> int | None:
    """C, or None where only the worth function knows."""
    if isinstance(candidates, torch.Tensor):
        if candidates.dim() != 3 or 0 in candidates.shape:
            raise ConfigError(
                "candidates", expected="actions [C, H, A]", actual=list(candidates.shape)
            )
        return int(candidates.shape[0])
    if isinstance(candidates, Sequence):
        if not candidates or not all(callable(policy) for policy in candidates):
            raise ConfigError(
                "candidates", expected="one or more policies", actual=type(candidates).__name__
            )
        return len(candidates)
    if not callable(candidates):
        raise ConfigError(
            "candidates",
            expected="actions [C, H, A], policies, or a function U(latents)",
            actual=type(candidates).__name__,
        )
    return None


def horizon_of(candidates: Candidates, horizon: int | None) -> int:
    """K, the common deadline in rows; 0 for a worth function, which knows its own."""
    if isinstance(candidates, torch.Tensor):
        longest = int(candidates.shape[1])
        if horizon is not None and horizon > longest:
            raise ConfigError("horizon", expected=f"<= {longest} actions", actual=horizon)
        return longest if horizon is None else horizon
    if isinstance(candidates, Sequence):
        if horizon is None:
            raise ConfigError("horizon", expected="a number of rows for policies", actual=None)
        return horizon
    return 0


def worth_of(
    model: Dynamics,
    latent: Latent,
    candidates: Candidates,
    utility: Utility,
    horizon: int,
    noise: Tensor | None,
) -> Worth:
    """Worth [N, C] of candidates from latents [N] over `horizon` rows of noise [N, horizon, Z].

    Every candidate meets the same noise, so their difference carries only what they do.
    """
    if isinstance(candidates, torch.Tensor):
        actions = candidates[:, :horizon].to(latent.h)
        count, worlds = actions.shape[0], latent.batch_shape[0]
        wide = latent.expand(count)
        actions = actions.expand(worlds, *actions.shape)
        shared = None if noise is None else noise[:, None].expand(-1, count, -1, -1)
        trajectory = rollout(model, wide, actions, horizon, noise=shared)
        return Worth(utility.returns(trajectory), utility.risks(trajectory))
    if isinstance(candidates, Sequence):
        parts = [rollout(model, latent, policy, horizon, noise=noise) for policy in candidates]
        return Worth(
            torch.stack([utility.returns(part) for part in parts], -1),
            torch.stack([utility.risks(part) for part in parts], -1),
        )
    value = candidates(latent)
    if isinstance(value, tuple):
        return Worth(*value)
    return Worth(value, None)


def with_abstention(worth: Worth, value: float | None) -> Worth:
    """The same with a last candidate that does nothing: V_s = 0, utility `value`."""
    if value is None:
        return worth
    idle = torch.full_like(worth.returns[:, :1], value)
    risks = None if worth.risks is None else torch.cat([worth.risks, torch.zeros_like(idle)], 1)
    return Worth(torch.cat([worth.returns, idle], 1), risks)
