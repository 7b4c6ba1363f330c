"""From imagined V_s to the chance that something harmful happens within k rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.types import Trajectory


def hazard_within(trajectory: Trajectory, unit: float = 1.0) -> Tensor:
    """P(a hazard in one of rows 1 .. k) [*batch, K] of every single rollout, for k = 1 .. K.

    A row is harmful with probability p_j = min(V_s,j / unit, 1): V_s is the mean risk of a row and
    `unit` (> 0, units of V_s) the size of one hazard. The first harm is in row j with probability
    p_j min(reach_j, prod_{i<j} (1 - p_i)). The min is the chance of getting there unharmed where
    the end of the world is the hazard itself, or where nothing ends; in between it is an upper
    bound. Over sampled rollouts, take the mean. NaN stays NaN.
    """
    if not (math.isfinite(unit) and unit > 0):
        raise ConfigError("unit", expected="a finite number > 0", actual=unit)
    harm = (trajectory.safety / unit).clamp(0.0, 1.0)
    safe = torch.cumprod(1.0 - harm, dim=-1)
    unharmed = torch.cat([torch.ones_like(safe[..., :1]), safe[..., :-1]], dim=-1)
    return (harm * torch.minimum(trajectory.discount, unharmed)).cumsum(-1)


def risk_to_go(trajectory: Trajectory, *, peak: bool = False) -> Tensor:
    """V_s met in rows 1 .. k [*batch, K] of every single rollout: the sum, or the `peak` row.

    reach_j V_s,j as in `Utility.risks` with a risk discount of 1; units of V_s, larger is worse.
    """
    met = trajectory.safety * trajectory.discount
    return met.cummax(-1).values if peak else met.cumsum(-1)
