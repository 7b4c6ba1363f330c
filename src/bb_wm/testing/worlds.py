"""Worlds whose answers are known on paper, as Gymnasium environments.

`EchoWorld` cannot be fitted by misaligned code, `LineWorld` has exact rollouts, `KalmanWorld` an
exact predictor (bb_wm.testing.kalman), `HazardChain` exact probabilities of a rare event
(bb_wm.testing.hazard). None ends by itself: `length` rows, then truncated.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

from bb_wm.testing.hazard import HazardChain
from bb_wm.testing.kalman import KalmanParameters, KalmanPredictor, KalmanWorld

__all__ = [
    "EchoWorld",
    "HazardChain",
    "KalmanParameters",
    "KalmanPredictor",
    "KalmanWorld",
    "LineWorld",
]

Vector = np.ndarray


class EchoWorld(gymnasium.Env[Vector, Vector]):
    """obs[t+1] = action[t], obs[0] = 0; reward[t+1] = sum of action[t], risk max(action[t][0], 0).

    Nothing else is true of this world: a model, sampler or log that is off by one row cannot learn
    it, since the actions are independent of everything before them.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, size: int = 2, length: int = 50, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.length = length
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (size,), np.float32)
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        self._row += 1
        obs = np.array(action, np.float32)
        info = {"cost": float(max(obs[0], 0.0))}
        return obs, float(obs.sum()), False, self._row + 1 >= self.length, info


class LineWorld(gymnasium.Env[Vector, Vector]):
    """A cart on a line, all of it seen and without noise: obs = (x, v).

    x' = x + 0.2 v,  v' = 0.9 v + 0.2 a,  reward' = -x',  risk' = max(|x'| - 1, 0)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)
    A: ClassVar[Vector] = np.array([[1.0, 0.2], [0.0, 0.9]])
    B: ClassVar[Vector] = np.array([0.0, 0.2])

    def __init__(self, length: int = 50, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.length = length
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self._state = np.zeros(2)
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        self._state = self.np_random.uniform(-1, 1, 2)
        return self._state.astype(np.float32), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        self._row += 1
        self._state = self.A @ self._state + self.B * float(np.asarray(action).reshape(()))
        x = float(self._state[0])
        info = {"cost": max(abs(x) - 1.0, 0.0)}
        obs = self._state.astype(np.float32)
        return obs, -x, False, self._row + 1 >= self.length, info

    @classmethod
    def exact_rollout(cls, start: Vector, actions: Vector) -> tuple[Vector, Vector, Vector]:
        """obs [*batch, K, 2], reward and risk [*batch, K] after actions [*batch, K, 1].

        `start` [*batch, 2] is the observation of the row in which the first action is done.
        """
        state = np.asarray(start, np.float64)
        rows = []
        for k in range(actions.shape[-2]):
            state = state @ cls.A.T + actions[..., k, :].astype(np.float64) * cls.B
            rows.append(state)
        obs = np.stack(rows, axis=-2)
        return obs, -obs[..., 0], np.maximum(np.abs(obs[..., 0]) - 1.0, 0.0)
