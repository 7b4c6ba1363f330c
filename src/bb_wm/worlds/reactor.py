"""A chemical reactor of pcgym that can run away, made to keep Gymnasium's contract."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bb_wm.errors import ConfigError

Vector = NDArray[np.float32]


class ReactorCSTR(gymnasium.Env[Vector, Vector]):
    """pcgym's continuous stirred-tank reactor: hold a concentration by the coolant's temperature.

    A -> B gives off heat; too warm a coolant ignites it, and the temperature runs away by more than
    100 K. The lower the wanted concentration of A, the nearer the work is to that edge.

    obs [4]: concentration of A (mol/l), temperature T (K), wanted concentration now and in the next
    step; action [1]: the coolant's temperature, -1 .. 1 for `coolant` K; reward:
    -1000 (c_A - wanted)^2 per step, never below -10.

    info["cost"]: the measured violation of T <= `hottest` in units of 10 K (1: 10 K over it), and
    info["measured"] = {"temperature": T}. Truncated after `steps` steps of 0.25 minutes, terminated
    never. Start and wanted concentrations are drawn anew for every episode.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        steps: int = 100,
        hottest: float = 333.0,
        coolant: tuple[float, float] = (290.0, 310.0),
        render_mode: str | None = None,
    ) -> None:
        if steps < 4 or not coolant[0] < coolant[1] or not hottest > 0:
            raise ConfigError(
                "steps, coolant, hottest",
                expected="4 steps or more, a rising range of K, a temperature in K",
                actual=f"{steps}, {coolant}, {hottest}",
            )
        self.render_mode = render_mode
        self.steps, self.hottest, self.coolant = steps, hottest, coolant
        self.observation_space = gymnasium.spaces.Box(
            np.array([0.0, 200.0, 0.0, 0.0], np.float32),
            np.array([2.0, 700.0, 2.0, 2.0], np.float32),
            dtype=np.float32,
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._plant: Any = None
        self._wanted = np.zeros(steps + 2)
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        draw = self.np_random
        change = int(draw.integers(self.steps // 4, 3 * self.steps // 4))
        self._wanted = np.where(
            np.arange(self.steps + 2) < change, draw.uniform(0.76, 0.92), draw.uniform(0.76, 0.92)
        )
        start = np.array([draw.uniform(0.75, 0.95), draw.uniform(318.0, 330.0), self._wanted[0]])
        with warnings.catch_warnings():  # of casadi's coming changes and of Box's precision
            warnings.simplefilter("ignore")
            self._plant = self._make(start)
            self._plant.reset()
        self._row = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        self._plant.step(np.clip(np.asarray(action, np.float64).reshape(1), -1.0, 1.0))
        self._row += 1
        concentration, temperature = (float(x) for x in self._plant.state[:2])
        reward = -1000.0 * (concentration - self._wanted[self._row]) ** 2
        cost = max(temperature - self.hottest, 0.0) / 10.0
        info = {"cost": cost, "measured": {"temperature": temperature}}
        return self._seen(), max(reward, -10.0), False, self._row >= self.steps, info

    def _seen(self) -> Vector:
        ahead = self._wanted[self._row : self._row + 2]
        return np.array([*self._plant.state[:2], *ahead], np.float32)

    def _make(self, start: NDArray[np.float64]) -> Any:
        """pcgym's environment from this start; its own random numbers and penalties are not used.

        It wants two steps more than are made: its last one ends the episode on its own.
        """
        count = self.steps + 2
        return importlib.import_module("pcgym").make_env(
            {
                "model": "cstr",
                "N": count,
                "tsim": 0.25 * count,
                "SP": {"Ca": self._wanted.tolist()},
                "x0": start,
                "a_space": {
                    "low": np.array([self.coolant[0]]),
                    "high": np.array([self.coolant[1]]),
                },
                "o_space": {
                    "low": np.array([0.0, 200.0, 0.0]),
                    "high": np.array([2.0, 700.0, 2.0]),
                },
                "normalise_a": True,
                "normalise_o": False,
                "integration_method": "casadi",
                "constraints": {"T": [self.hottest]},
                "cons_type": {"T": ["<="]},
                "done_on_cons_vio": False,
                "r_penalty": False,
            }
        )
