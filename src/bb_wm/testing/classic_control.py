"""The known equations of CartPole-v1 and Pendulum-v1 as dynamics: the oracle arm of planning.

They are Gymnasium's equations (Barto, Sutton & Anderson 1983 for the cart), written for batches of
tensors, so that a planner can be judged apart from the model it plans through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bb_wm.types import ActionPart, ActionSpec, Latent


@dataclass(frozen=True, slots=True)
class CartPoleOracle:
    """CartPole-v1: h = (x, x', angle, angle'), z empty; reward 1, over outside the bounds."""

    force: float = 10.0
    step_time: float = 0.02
    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    position_limit: float = 2.4
    angle_limit: float = 12 * 2 * math.pi / 360

    noise_size = 0
    action_size = 2
    action_spec = ActionSpec((ActionPart("action", "discrete", 2),), "index")

    def encode(
        self, obs: Any, previous: Latent | None = None, action: Tensor | None = None
    ) -> Latent:
        """The latent of an observation [*batch, 4]; it is the whole state."""
        state = torch.as_tensor(obs)
        empty = state.new_zeros(*state.shape[:-1], 0)
        return Latent(state, empty, empty[..., None], empty)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        x, speed, angle, turn = latent.h.unbind(-1)
        force = self.force * (action[..., 1] - action[..., 0])
        cos, sin = angle.cos(), angle.sin()
        total = self.cart_mass + self.pole_mass
        moment = self.pole_mass * self.half_length
        push = (force + moment * turn.square() * sin) / total
        turn_rate = (self.gravity * sin - cos * push) / (
            self.half_length * (4.0 / 3.0 - self.pole_mass * cos.square() / total)
        )
        rate = push - moment * turn_rate * cos / total
        tau = self.step_time
        state = (x + tau * speed, speed + tau * rate, angle + tau * turn, turn + tau * turn_rate)
        return Latent(torch.stack(state, -1), latent.z, latent.memory, latent.sight)

    def predict_reward(self, latent: Latent) -> Tensor:
        return torch.ones_like(latent.h[..., 0])

    def predict_safety(self, latent: Latent) -> Tensor:
        return 1 - self.predict_continue(latent)

    def predict_continue(self, latent: Latent) -> Tensor:
        inside = (latent.h[..., 0].abs() <= self.position_limit) & (
            latent.h[..., 2].abs() <= self.angle_limit
        )
        return inside.to(latent.h.dtype)


@dataclass(frozen=True, slots=True)
class PendulumOracle:
    """Pendulum-v1: h = (angle, turn), z = reward of the row; the angle is 0 upright."""

    step_time: float = 0.05
    gravity: float = 10.0
    mass: float = 1.0
    length: float = 1.0
    most_torque: float = 2.0
    most_turn: float = 8.0

    noise_size = 0
    action_size = 1
    action_spec = ActionSpec((ActionPart("action", "box", 1, (-2.0,), (2.0,)),), "array")

    def encode(
        self, obs: Any, previous: Latent | None = None, action: Tensor | None = None
    ) -> Latent:
        """The latent of an observation [*batch, 3] = (cos, sin, turn)."""
        seen = torch.as_tensor(obs)
        state = torch.stack([torch.atan2(seen[..., 1], seen[..., 0]), seen[..., 2]], -1)
        empty = state.new_zeros(*state.shape[:-1], 0)
        return Latent(state, torch.zeros_like(state[..., :1]), empty[..., None], empty)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        angle, turn = latent.h.unbind(-1)
        torque = action[..., 0].clamp(-self.most_torque, self.most_torque)
        upright = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = upright.square() + 0.1 * turn.square() + 0.001 * torque.square()
        pull = 3 * self.gravity / (2 * self.length) * angle.sin()
        turn = turn + (pull + 3.0 / (self.mass * self.length**2) * torque) * self.step_time
        turn = turn.clamp(-self.most_turn, self.most_turn)
        state = torch.stack([angle + turn * self.step_time, turn], -1)
        return Latent(state, -cost[..., None], latent.memory, latent.sight)

    def predict_reward(self, latent: Latent) -> Tensor:
        return latent.z[..., 0]

    def predict_safety(self, latent: Latent) -> Tensor:
        return torch.zeros_like(latent.h[..., 0])

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.ones_like(latent.h[..., 0])
