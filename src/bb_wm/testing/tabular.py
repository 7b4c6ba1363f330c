"""A finite partially observed world with known tables, as tables and as a protocols.Observer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bb_wm.errors import ConfigError
from bb_wm.types import ActionPart, ActionSpec, Latent

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TabularPOMDP:
    """Doing a in s gives reward[a, s], leads to s' ~ transition[a, s] and shows o ~ observation.

    transition [A, S, S], observation [A, S', O], reward [A, S]; safety [S] is the risk V_s of
    being in a state (0 when None). It answers `bb_wm.decide.pomdp.Tables` for exact planning, and
    protocols.Observer for sampling: a latent holds one state, h = one-hot [S], and
    z = one-hot of the action that led there [A] and its reward [1]. Numbers are float64.
    """

    transition: Array
    observation: Array
    reward: Array
    safety: Array | None = None

    def __post_init__(self) -> None:
        actions, states = self.transition.shape[:2]
        for name, table, shape in (
            ("transition", self.transition, (actions, states, states)),
            ("observation", self.observation, (actions, states, self.observation.shape[-1])),
        ):
            if table.shape != shape or not np.allclose(table.sum(-1), 1) or (table < 0).any():
                raise ConfigError(
                    name, expected=f"{list(shape)} of rows that sum to 1", actual=table.shape
                )
        if self.reward.shape != (actions, states):
            raise ConfigError("reward", expected=[actions, states], actual=self.reward.shape)

    @property
    def action_size(self) -> int:
        return int(self.transition.shape[0])

    @property
    def action_spec(self) -> ActionSpec:
        return ActionSpec((ActionPart("action", "discrete", self.action_size),), "index")

    @property
    def noise_size(self) -> int:
        return 1

    @property
    def obs_noise_size(self) -> int:
        return 1

    def latent(self, state: Tensor) -> Latent:
        """The latent of known states [*batch] before any action."""
        count = self.transition.shape[1]
        h = torch.nn.functional.one_hot(state.long(), count).double()
        empty = h.new_zeros(*state.shape, 0)
        return Latent(h, h.new_zeros(*state.shape, self.action_size + 1), empty[..., None], empty)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        table = torch.as_tensor(self.transition)
        chance = torch.einsum("...a,...s,ast->...t", action.double(), latent.h, table)
        state = chance.argmax(-1) if noise is None else quantile(chance, noise[..., 0])
        arrived = torch.nn.functional.one_hot(state, chance.shape[-1]).double()
        reward = torch.einsum(
            "...a,...s,as->...", action.double(), latent.h, torch.as_tensor(self.reward)
        )
        z = torch.cat([action.double(), reward[..., None]], dim=-1)
        return Latent(arrived, z, latent.memory, latent.sight)

    def predict_reward(self, latent: Latent) -> Tensor:
        return latent.z[..., -1]

    def predict_safety(self, latent: Latent) -> Tensor:
        if self.safety is None:
            return torch.zeros_like(latent.h[..., 0])
        return latent.h @ torch.as_tensor(self.safety)

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.ones_like(latent.h[..., 0])

    def answer_chances(self, latent: Latent) -> Tensor:
        """p(o | s) [*batch, O]; even before any action, when nothing was shown."""
        table = torch.as_tensor(self.observation)
        action, state = latent.z[..., :-1], latent.h
        shown = torch.einsum("...a,...s,aso->...o", action, state, table)
        even = torch.full_like(shown, 1.0 / shown.shape[-1])
        return torch.where(action.sum(-1, keepdim=True) > 0, shown, even)

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        chance = self.answer_chances(latent)
        answer = chance.argmax(-1) if noise is None else quantile(chance, noise[..., 0])
        return {"obs": answer[..., None]}

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        """The latent itself: a state does not change by being seen; beliefs reweight."""
        return latent

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        logs = self.answer_chances(latent).log()
        return logs.gather(-1, obs["obs"].long())[..., 0]


def quantile(chance: Tensor, normal: Tensor) -> Tensor:
    """The class [*batch] that a standard normal draws from chances [*batch, C]."""
    uniform = torch.special.ndtr(normal.double())[..., None]
    below = (chance.cumsum(-1) <= uniform).sum(-1)
    return torch.minimum(below, chance.shape[-1] - 1 - (chance.flip(-1) > 0).int().argmax(-1))


def tiger(accuracy: float = 0.85) -> TabularPOMDP:
    """The Tiger problem (Kaelbling, Littman & Cassandra 1998): listen, open left, open right.

    States: tiger left, tiger right. Listening costs 1 and hears the right side with `accuracy`;
    the tiger costs 100, the other door gives 10, and opening starts anew.
    """
    stay, anew = np.eye(2), np.full((2, 2), 0.5)
    heard = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])
    reward = np.array([[-1.0, -1.0], [-100.0, 10.0], [10.0, -100.0]])
    return TabularPOMDP(np.stack([stay, anew, anew]), np.stack([heard, anew, anew]), reward)
