"""Episodes with known laws, and an exact model of one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bb_wm.types import ActionSpec, Batch, Episode, Latent, ObsSpec, Trajectory, stack_latents


def make_episode(
    obs: np.ndarray | dict[str, np.ndarray],
    action: np.ndarray | None = None,
    reward: np.ndarray | None = None,
    safety: np.ndarray | None = None,
    *,
    terminated: bool = False,
) -> Episode:
    """An episode with zeros for what is not given."""
    keyed = obs if isinstance(obs, dict) else {"obs": np.asarray(obs, np.float32)}
    rows = len(next(iter(keyed.values())))
    zeros = np.zeros(rows, np.float32)
    return Episode(
        obs=keyed,
        action=np.zeros((rows, 1), np.float32) if action is None else action.astype(np.float32),
        reward=zeros if reward is None else reward.astype(np.float32),
        safety=zeros if safety is None else safety.astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
    )


A = np.array([[0.9, 0.2], [-0.3, 0.8]])
B = np.array([[0.5, 0.0], [0.1, 1.0]])


def linear_episodes(
    count: int, rows: int, seed: int, *, noise: float = 0.0, delay: int = 0
) -> list[Episode]:
    """x_{t+1} = A x_t + B a_{t - delay} + noise, reward_t = x_t[0] - 2 x_t[1]."""
    generator = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        x = np.zeros((rows, 2))
        action = generator.uniform(-1, 1, (rows, 2))
        x[0] = generator.standard_normal(2)
        for t in range(rows - 1):
            pushed = action[t - delay] if t >= delay else np.zeros(2)
            x[t + 1] = A @ x[t] + B @ pushed + noise * generator.standard_normal(2)
        reward = x[:, 0] - 2 * x[:, 1]
        reward[0] = 0.0
        action[-1] = 0.0
        episodes.append(make_episode(x, action, reward))
    return episodes


class LinearModel:
    """The exact model of `linear_episodes`: its latent's h is the state itself.

    `risk` and `ending` give the risk and the chance of the end in a state; a sample adds `spread`
    times standard normal noise to every step.
    """

    def __init__(
        self,
        *,
        matrix: np.ndarray = A,
        spread: float = 0.0,
        risk: Callable[[torch.Tensor], torch.Tensor] | None = None,
        ending: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.obs_spec = ObsSpec.of(2)
        self.action_spec = ActionSpec.of(2)
        self.matrix = torch.tensor(matrix, dtype=torch.float32)
        self.push = torch.tensor(B, dtype=torch.float32)
        self.spread = spread
        self.risk = risk or (lambda x: torch.zeros(x.shape[:-1]))
        self.ending = ending or (lambda x: torch.zeros(x.shape[:-1]))
        self.asked: list[str] = []

    def _latent(self, x: torch.Tensor) -> Latent:
        empty = x.new_zeros(*x.shape[:-1], 0)
        return Latent(x, empty, x.new_zeros(*x.shape[:-1], 0, 0), empty)

    def filter(self, batch: Batch) -> Latent:
        return self._latent(batch.obs["obs"])

    def kl(self, batch: Batch) -> torch.Tensor:
        values = torch.full((*batch.shape, 2), 0.125)
        values[:, 0] = 100.0
        return values

    def imagine_obs(self, latent: Latent, noise: torch.Tensor | None = None) -> dict:
        return {"obs": latent.h}

    def imagined_obs(self, trajectory: Trajectory) -> dict:
        return {"obs": trajectory.latents.h}

    def rollout(self, latent, policy, horizon=None, *, mode="mode", generator=None) -> Trajectory:
        self.asked.append(mode)
        x, rows = latent.h, []
        for k in range(horizon):
            x = x @ self.matrix.T + policy[..., k, :] @ self.push.T
            if mode == "sample":
                x = x + self.spread * torch.randn(x.shape, generator=generator)
            rows.append(self._latent(x))
        latents = stack_latents(rows)
        h = latents.h
        going = 1.0 - self.ending(h)
        before = torch.cumprod(torch.cat([torch.ones_like(going[..., :1]), going], -1), -1)
        return Trajectory(
            start=latent,
            latents=latents,
            action=policy,
            reward=h[..., 0] - 2 * h[..., 1],
            safety=self.risk(h),
            continuation=going,
            discount=before[..., :-1],
        )
