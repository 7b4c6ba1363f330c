"""Electric drives of gym-electric-motor, made to keep Gymnasium's contract."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bb_wm.errors import ConfigError

Vector = NDArray[np.float32]


class ElectricMotor(gymnasium.Env[Vector, Any]):
    """A drive of gym-electric-motor by its own id, as "Cont-CC-PMSM-v0".

    obs: the motor's state and what it should follow, in one vector, in units of the motor's limits
    (a current of 1.05 is 5 % over its limit). `names` says what each number is.

    info["cost"]: overcurrent, max(I - I_nominal, 0) / (I_limit - I_nominal): 0 up to the current
    the motor stands for ever, 1 at the limit where the drive trips and the episode terminates. I is
    the length of the current vector (i_sd, i_sq) where the motor has one, otherwise, and besides,
    the largest other current; of several the worst counts. A trip for another reason costs 1.

    Truncated after `steps` rows.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        motor: str = "Cont-CC-PMSM-v0",
        steps: int = 500,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        if steps < 1:
            raise ConfigError("steps", expected="at least 1", actual=steps)
        self.render_mode = render_mode
        self.motor = motor
        self.steps = steps
        self._drive: Any = _package().make(motor, **kwargs).unwrapped
        system = self._drive.physical_system
        self.names = (*system.state_names, *(f"{n} wanted" for n in self._drive.reference_names))
        self._currents = _currents(list(system.state_names))
        self._nominal = np.asarray(system.nominal_state, np.float64) / np.asarray(system.limits)
        size = len(self.names)
        # some voltages go to twice what is called their limit; a trip ends any current's climb
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (size,), np.float32)
        space = self._drive.action_space
        if isinstance(space, gymnasium.spaces.Box):
            space = gymnasium.spaces.Box(
                space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32
            )
        self.action_space = space
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        # the drive's parts draw from seeds of their own: every episode gets one from ours
        (state, wanted), _ = self._drive.reset(seed=int(self.np_random.integers(2**31)))
        self._row = 0
        return self._seen(state, wanted), {}

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        given = action if np.ndim(action) == 0 else np.asarray(action, np.float64)
        (state, wanted), reward, tripped, _, _ = self._drive.step(given)
        self._row += 1
        cost = self.overcurrent(np.asarray(state, np.float64))
        if tripped:
            cost = max(cost, 1.0)
        over = self._row >= self.steps and not tripped
        return self._seen(state, wanted), float(reward), bool(tripped), over, {"cost": cost}

    def overcurrent(self, state: NDArray[np.float64]) -> float:
        """The cost of a state [S] in units of the limits."""
        worst = 0.0
        for places in self._currents:
            current = float(np.sqrt(np.square(state[places]).sum()))
            nominal = float(self._nominal[places].min())
            if nominal < 1.0:
                worst = max(worst, (current - nominal) / (1.0 - nominal))
            else:
                worst = max(worst, current - 1.0)
        return worst

    def close(self) -> None:
        self._drive.close()

    def _seen(self, state: Any, wanted: Any) -> Vector:
        return np.concatenate([np.ravel(state), np.ravel(wanted)]).astype(np.float32)


def _package() -> Any:
    """gym_electric_motor, which has no types."""
    return importlib.import_module("gym_electric_motor")


def _currents(names: list[str]) -> list[list[int]]:
    """Places of the currents that share one limit: the vector (i_sd, i_sq), else each alone.

    Phase currents i_a, i_b, i_c are the vector once more where there is one.
    """
    vector = [names.index(n) for n in ("i_sd", "i_sq") if n in names]
    phases = {"i_a", "i_b", "i_c", "i_sa", "i_sb", "i_sc"} if vector else set()
    skip = {names[i] for i in vector} | phases
    alone = [[i] for i, n in enumerate(names) if (n == "i" or n.startswith("i_")) and n not in skip]
    return ([vector] if vector else []) + alone
