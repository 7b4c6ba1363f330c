"""A linear world with quadratic costs, whose best plan is known (Riccati)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bb_wm.types import ActionPart, ActionSpec, Latent

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearQuadratic:
    """x' = A x + B u + noise_sd n, reward -(x' Q x + u' R u) on arriving in x. float64.

    h = x, z = the u that led there. `safety_direction` c makes V_s(x) = max(c . x, 0).
    """

    dynamics: Array
    control: Array
    state_cost: Array
    action_cost: Array
    noise_sd: float = 0.0
    safety_direction: Array | None = None
    bound: float = float("inf")

    @property
    def noise_size(self) -> int:
        return self.dynamics.shape[0] if self.noise_sd else 0

    @property
    def action_size(self) -> int:
        return int(self.control.shape[1])

    @property
    def action_spec(self) -> ActionSpec:
        size, bound = self.action_size, self.bound
        return ActionSpec(
            (ActionPart("action", "box", size, (-bound,) * size, (bound,) * size),), "array"
        )

    def latent(self, state: Tensor) -> Latent:
        state = state.double()
        empty = state.new_zeros(*state.shape[:-1], 0)
        action = state.new_zeros(*state.shape[:-1], self.action_size)
        return Latent(state, action, empty[..., None], empty)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        a, b = torch.as_tensor(self.dynamics), torch.as_tensor(self.control)
        action = action.double()
        state = torch.einsum("ij,...j->...i", a, latent.h) + torch.einsum(
            "ij,...j->...i", b, action
        )
        if noise is not None:
            state = state + self.noise_sd * noise
        return Latent(state, action, latent.memory, latent.sight)

    def predict_reward(self, latent: Latent) -> Tensor:
        q, r = torch.as_tensor(self.state_cost), torch.as_tensor(self.action_cost)
        cost = torch.einsum("...i,ij,...j->...", latent.h, q, latent.h)
        return -cost - torch.einsum("...i,ij,...j->...", latent.z, r, latent.z)

    def predict_safety(self, latent: Latent) -> Tensor:
        if self.safety_direction is None:
            return torch.zeros_like(latent.h[..., 0])
        return (latent.h @ torch.as_tensor(self.safety_direction)).clamp_min(0)

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.ones_like(latent.h[..., 0])

    def best_plan(self, state: Array, horizon: int) -> tuple[Array, float]:
        """The optimal actions [H, A] without noise and bounds, and their return, by Riccati.

        With cost-to-go x' P_k x before step k (P_H = 0) and M = P_{k+1} + Q:
        u_k = -(R + B' M B)^-1 B' M A x_k,  P_k = A' M A - A' M B (R + B' M B)^-1 B' M A.
        """
        a, b = self.dynamics, self.control
        ahead, gains = np.zeros_like(self.state_cost), []
        for _ in range(horizon):
            m = ahead + self.state_cost
            gain = np.linalg.solve(self.action_cost + b.T @ m @ b, b.T @ m @ a)
            ahead = a.T @ m @ a - a.T @ m @ b @ gain
            gains.append(gain)
        actions, x = [], state
        for gain in reversed(gains):
            actions.append(-gain @ x)
            x = a @ x + b @ actions[-1]
        return np.stack(actions), -float(state @ ahead @ state)
