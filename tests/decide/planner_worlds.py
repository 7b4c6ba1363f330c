"""Small worlds for planner tests: one row's reward and risk are plain functions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bb_wm.types import ActionSpec, Latent


@dataclass
class FunctionWorld:
    """h' = h + 1 counts rows; reward(action, noise, row) and risk(action, noise, row) are given."""

    spec: ActionSpec
    reward: Callable[[Tensor, Tensor, Tensor], Tensor]
    risk: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    noise_size: int = 0
    continuation: float = 1.0

    @property
    def action_size(self) -> int:
        return self.spec.size

    @property
    def action_spec(self) -> ActionSpec:
        return self.spec

    def latent(self, *batch: int) -> Latent:
        h = torch.zeros(*batch, 1, dtype=torch.float64)
        z = torch.zeros(*batch, self.action_size + self.noise_size, dtype=torch.float64)
        return Latent(h, z, h[..., None, :0], h[..., :0])

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        if noise is None:
            noise = latent.h.new_zeros(*latent.batch_shape, self.noise_size)
        z = torch.cat([action, noise.to(action)], -1)
        return Latent(latent.h + 1, z, latent.memory, latent.sight)

    def _of(self, function: Callable[..., Tensor], latent: Latent) -> Tensor:
        size = self.action_size
        return function(latent.z[..., :size], latent.z[..., size:], latent.h[..., 0] - 1)

    def predict_reward(self, latent: Latent) -> Tensor:
        return self._of(self.reward, latent)

    def predict_safety(self, latent: Latent) -> Tensor:
        if self.risk is None:
            return torch.zeros_like(latent.h[..., 0])
        return self._of(self.risk, latent)

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.full_like(latent.h[..., 0], self.continuation)


class NetWorld:
    """A small random float32 network: matrix products, whose rounding depends on their shape."""

    noise_size = 3
    action_size = 5

    def __init__(self, spec: ActionSpec, seed: int = 0) -> None:
        self.action_spec = spec
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(24 + 5 + 3, 64, generator=generator) / 5
        self.second = torch.randn(64, 24, generator=generator) / 8
        self.heads = torch.randn(24, 2, generator=generator)

    def latents(self, count: int, seed: int = 1) -> Latent:
        h = torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))
        return Latent(h, h[..., :0], h[..., None, :0], h[..., :0])

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        if noise is None:
            noise = latent.h.new_zeros(*latent.batch_shape, 3)
        x = torch.cat([latent.h, action, noise.expand(*latent.batch_shape, 3)], -1)
        h = torch.tanh(torch.relu(x @ self.first) @ self.second)
        return Latent(h, latent.z, latent.memory, latent.sight)

    def predict_reward(self, latent: Latent) -> Tensor:
        return (latent.h @ self.heads)[..., 0]

    def predict_safety(self, latent: Latent) -> Tensor:
        return (latent.h @ self.heads)[..., 1].square()

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.sigmoid(latent.h[..., 0] + 2)
