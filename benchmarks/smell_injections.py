"""What is done to a training run so that it smells: to the model, to its rows, to what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bb_wm.config import Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode, Latent, Trajectory


@dataclass(frozen=True, slots=True)
class Muted(Gaussian):
    """A Gaussian whose z is always 0: ablated."""

    def sample(self, params: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.mode(params)

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(params[..., : self.width])


class LooksBack(WorldModel):
    """The same imagination by a core without a memory of its own: every step starts over."""

    def rollout(
        self, latent: Latent, policy: Any, horizon: int | None = None, **how: Any
    ) -> Trajectory:
        whole = WorldModel.rollout(self, latent, policy, horizon, **how)
        if not callable(policy):
            for k in range(1, whole.horizon):
                WorldModel.rollout(self, latent, policy[..., :k, :], k, **how)
        return whole


def copy_as(kind: type[WorldModel], model: WorldModel) -> WorldModel:
    made = kind(model.obs_spec, model.action_spec, model.config)
    made.load_state_tensors(model.state_tensors())
    return made


def pushed(model: WorldModel, size: float, seed: int) -> WorldModel:
    """The model whose k-th imagined row moves h by k * `size` in one random direction (per number;
    h itself is within 1). Closed loop it is as good as before, and one step ahead nearly so."""
    made = copy_as(WorldModel, model)
    rssm, step = made._rssm, made._rssm.step
    sign = torch.randint(0, 2, (rssm.core.size,), generator=torch.Generator().manual_seed(seed))
    direction = size * (2.0 * sign - 1.0)

    rows = 0

    def drifting(latent: Latent, action: Any, noise: Any = None) -> Latent:
        nonlocal rows
        rows = 1 if latent.sight.shape[-1] else rows + 1  # only a row that was seen has a sight
        after = step(latent, action, noise)
        return replace(after, h=after.h + rows * direction)

    rssm.step = drifting  # type: ignore[method-assign]
    return made


def without_risk(episodes: Sequence[Episode], least: int = 4) -> list[Episode]:
    """Every risky row taken out; what lies between them are episodes of their own."""
    kept = []
    for episode in episodes:
        risky = np.flatnonzero(np.asarray(episode.safety) > 0)
        edges = [-1, *risky.tolist(), len(episode)]
        for before, after in pairwise(edges):
            rows = slice(before + 1, after)
            if after - before - 1 < least:
                continue
            action, reward = episode.action[rows].copy(), episode.reward[rows].copy()
            action[-1], reward[0] = 0.0, 0.0
            obs = {key: value[rows] for key, value in episode.obs.items()}
            safe = np.zeros(len(reward), np.float32)
            kept.append(Episode(obs, action, reward, safe, False, True))
    return kept


def shifted(episodes: Sequence[Episode], late: bool) -> list[Episode]:
    """Every action stored in the row after (or before) the one it was done in."""
    moved = []
    for episode in episodes:
        action = np.roll(episode.action, 1 if late else -1, axis=0)
        action[0 if late else -2] = 0.0
        action[-1] = 0.0
        if late:  # its row 0 has no action before it: left out, so that no action is made up
            obs = {key: value[1:] for key, value in episode.obs.items()}
            reward, safety = episode.reward[1:].copy(), episode.safety[1:].copy()
            reward[0] = safety[0] = 0.0
            moved.append(replace(episode, obs=obs, action=action[1:], reward=reward, safety=safety))
            continue
        moved.append(replace(episode, action=action))
    return moved
