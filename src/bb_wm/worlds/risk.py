"""Physical risks of well-known worlds, read from what is seen: per-step, >= 0, larger is worse.

Each is (obs, action, next_obs, reward, terminated, info) -> float, the signature `collect` wants.
They are documented choices, not laws: write your own where your machine has other limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class NoRisk:
    """Always 0."""

    def __call__(
        self, obs: Any, action: Any, next_obs: Any, reward: float, terminated: bool, info: Any
    ) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class InfoCost:
    """info["cost"], as Safety-Gymnasium reports it; 0 where there is none."""

    key: str = "cost"

    def __call__(
        self,
        obs: Any,
        action: Any,
        next_obs: Any,
        reward: float,
        terminated: bool,
        info: Mapping[str, Any],
    ) -> float:
        return float(info.get(self.key, 0.0))


@dataclass(frozen=True, slots=True)
class Failure:
    """1 in the row where the world ends (a fall, a dropped pole), else 0.

    Right only where termination means failure, not success.
    """

    def __call__(
        self, obs: Any, action: Any, next_obs: Any, reward: float, terminated: bool, info: Any
    ) -> float:
        return float(terminated)


@dataclass(frozen=True, slots=True)
class OverLimit:
    """How far |next_obs[i]| is over `limit`, in units of the limit, summed over `indices`.

    sum_i max(|x_i| / limit - 1, 0): 0 inside, 1 at twice the limit.
    """

    indices: tuple[int, ...]
    limit: float

    def __call__(
        self, obs: Any, action: Any, next_obs: Any, reward: float, terminated: bool, info: Any
    ) -> float:
        size = np.abs(np.asarray(next_obs, np.float64)[list(self.indices)])
        return float(np.maximum(size / self.limit - 1.0, 0.0).sum())
