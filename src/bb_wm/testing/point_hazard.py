"""A point mass that earns by reaching goals and pays for crossing hazards whose costs are known.

`PointHazardEnv` is the world (Gymnasium, risk in info["cost"]), `PointHazardOracle` its equations
as exact dynamics with the same noise. The shortest ways between the goals lead through hazards,
so a planner without a limit on risk crosses them, and one with a limit can go around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bb_wm.types import ActionPart, ActionSpec, Latent

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PointHazardLayout:
    """Where things are, in a square of half-width 1, and how the point moves.

    v' = drag v + thrust u + noise_sd n, p' = p + v', both clipped; u in [-1, 1]^2. A row gives
    reward 10 x (approach to the goal), and 1 on reaching it (distance < goal_radius), when the
    next of `goals` in turn becomes the goal. A row inside a hazard costs 1.
    """

    hazards: tuple[tuple[float, float, float], ...] = (
        (0.0, 0.0, 0.3),
        (0.0, 0.72, 0.15),
        (0.72, 0.0, 0.15),
        (0.0, -0.72, 0.15),
        (-0.72, 0.0, 0.15),
    )
    goals: tuple[tuple[float, float], ...] = ((0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7), (0.7, -0.7))
    drag: float = 0.8
    thrust: float = 0.02
    noise_sd: float = 0.003
    goal_radius: float = 0.12


class PointHazardEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Observation [6]: position, velocity, the goal's place; action [2]: thrust.

    Ends never, truncated after `steps` rows. The start is drawn around the goal before the first.
    """

    def __init__(self, layout: PointHazardLayout | None = None, steps: int = 120) -> None:
        self.layout = PointHazardLayout() if layout is None else layout
        self.steps = steps
        self.observation_space = gymnasium.spaces.Box(-3.0, 3.0, (6,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.position = self.velocity = np.zeros(2)
        self.goal = self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        goals = self.layout.goals
        self.goal = int(self.np_random.integers(len(goals)))
        around = np.asarray(goals[self.goal - 1])
        self.position = around + self.np_random.uniform(-0.1, 0.1, 2)
        self.velocity, self.time = np.zeros(2), 0
        return self._observation(), {"cost": self._cost()}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        layout, target = self.layout, np.asarray(self.layout.goals[self.goal])
        push = np.clip(np.asarray(action, np.float64), -1, 1)
        noise = layout.noise_sd * self.np_random.standard_normal(2)
        before = float(np.linalg.norm(target - self.position))
        self.velocity = layout.drag * self.velocity + layout.thrust * push + noise
        self.position = np.clip(self.position + self.velocity, -1, 1)
        after = float(np.linalg.norm(target - self.position))
        reward = 10 * (before - after)
        if after < layout.goal_radius:
            reward += 1.0
            self.goal = (self.goal + 1) % len(layout.goals)
        self.time += 1
        return self._observation(), reward, False, self.time >= self.steps, {"cost": self._cost()}

    def _cost(self) -> float:
        for x, y, radius in self.layout.hazards:
            if np.hypot(self.position[0] - x, self.position[1] - y) < radius:
                return 1.0
        return 0.0

    def _observation(self) -> NDArray[np.float32]:
        goal = np.asarray(self.layout.goals[self.goal])
        return np.concatenate([self.position, self.velocity, goal]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PointHazardOracle:
    """The same equations as dynamics: h = the observation [6], z = (reward, cost) of the row."""

    layout: PointHazardLayout = PointHazardLayout()

    noise_size = 2
    action_size = 2
    action_spec = ActionSpec((ActionPart("action", "box", 2, (-1.0, -1.0), (1.0, 1.0)),), "array")

    def encode(
        self, obs: Any, previous: Latent | None = None, action: Tensor | None = None
    ) -> Latent:
        """The latent of an observation [*batch, 6]; it is the whole state."""
        state = torch.as_tensor(obs)
        empty = state.new_zeros(*state.shape[:-1], 0)
        z = torch.stack([torch.zeros_like(state[..., 0]), self._cost(state[..., :2])], -1)
        return Latent(state, z, empty[..., None], empty)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        layout = self.layout
        position, velocity, goal = latent.h[..., :2], latent.h[..., 2:4], latent.h[..., 4:]
        before = (goal - position).norm(dim=-1)
        velocity = layout.drag * velocity + layout.thrust * action.clamp(-1, 1)
        if noise is not None:
            velocity = velocity + layout.noise_sd * noise
        position = (position + velocity).clamp(-1, 1)
        after = (goal - position).norm(dim=-1)
        reached = after < layout.goal_radius
        reward = 10 * (before - after) + reached.to(after.dtype)
        goal = torch.where(reached[..., None], self._next_goal(goal), goal)
        z = torch.stack([reward, self._cost(position)], -1)
        return Latent(torch.cat([position, velocity, goal], -1), z, latent.memory, latent.sight)

    def predict_reward(self, latent: Latent) -> Tensor:
        return latent.z[..., 0]

    def predict_safety(self, latent: Latent) -> Tensor:
        return latent.z[..., 1]

    def predict_continue(self, latent: Latent) -> Tensor:
        return torch.ones_like(latent.z[..., 0])

    def _next_goal(self, goal: Tensor) -> Tensor:
        places = torch.tensor(self.layout.goals, dtype=goal.dtype, device=goal.device)
        nearest = (goal[..., None, :] - places).square().sum(-1).argmin(-1)
        return places[(nearest + 1) % len(places)]

    def _cost(self, position: Tensor) -> Tensor:
        inside = torch.zeros_like(position[..., 0], dtype=torch.bool)
        for x, y, radius in self.layout.hazards:
            inside = inside | (torch.hypot(position[..., 0] - x, position[..., 1] - y) < radius)
        return inside.to(position.dtype)
