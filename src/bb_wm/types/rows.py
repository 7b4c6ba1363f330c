"""Real rows: one episode (numpy, as stored) and a batch of sequences (tensors, as learnt from).

The row convention, the only one: at row t you see obs[t] and receive reward[t], safety[t] and
terminated[t]; then you do action[t], which leads to row t + 1. Where is_first[t], the past and its
action are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of T rows and T - 1 actions; the action of the last row is all zero: none done.

    `obs` maps each key of the ObsSpec to [T, ...]; `action` is flat (ActionSpec.flatten), [T, A];
    `reward` and `safety` (risk >= 0, larger is worse) are [T], both 0 at row 0; `terminated` says
    the world ended at the last row, `truncated` that only the recording did. Neither: abandoned
    (a crashed worker, an interrupted run). `action_mask` [T, A], True where available.
    """

    obs: Mapping[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    safety: np.ndarray
    terminated: bool
    truncated: bool
    action_mask: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.reward.shape[0])


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences of T rows. `valid` is False where a sequence is padding."""

    obs: Mapping[str, Tensor]
    action: Float[Tensor, "B T A"]
    reward: Float[Tensor, "B T"]
    safety: Float[Tensor, "B T"]
    terminated: Bool[Tensor, "B T"]
    is_first: Bool[Tensor, "B T"]
    valid: Bool[Tensor, "B T"]
    action_mask: Bool[Tensor, "B T A"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.reward.shape[0]), int(self.reward.shape[1])

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `change` applied to every tensor."""
        return Batch(
            obs={key: change(value) for key, value in self.obs.items()},
            action=change(self.action),
            reward=change(self.reward),
            safety=change(self.safety),
            terminated=change(self.terminated),
            is_first=change(self.is_first),
            valid=change(self.valid),
            action_mask=None if self.action_mask is None else change(self.action_mask),
        )
