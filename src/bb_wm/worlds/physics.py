"""The wrapper that makes physical limits a robot's risk: what the measures say, as info["cost"]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium

from bb_wm.errors import ConfigError, InputTypeError
from bb_wm.worlds.measures import (
    ContactForce,
    Fall,
    JointSpeed,
    Measure,
    Tilt,
    Zone,
    describe_measures,
    excess,
)

__all__ = [
    "ContactForce",
    "Fall",
    "JointSpeed",
    "Measure",
    "PhysicsRisk",
    "Tilt",
    "Zone",
    "describe_measures",
    "simulator",
]


class PhysicsRisk(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports what the measures say: info["cost"], their sum, and info["measured"] by name.

    `env` simulates with MuJoCo: Gymnasium's worlds, or dm_control's through shimmy. The cost of a
    row is of the state it shows; the first row of an episode (reset) reports none. Raises
    InputTypeError for an environment without such a simulator and ConfigError for a measure of a
    body or joint that the machine does not have.
    """

    def __init__(self, env: Any, measures: Sequence[Measure]) -> None:
        super().__init__(env)
        self.measures = tuple(measures)
        names = [measure.name for measure in self.measures]
        if not names or len(set(names)) != len(names):
            raise ConfigError("measures", expected="one or more, named apart", actual=names)
        self._copy: tuple[Any, Any] | None = None
        for measure in self.measures:
            try:
                measure.read(*self._solved())
            except KeyError as error:
                raise ConfigError(
                    f"measure {measure.name!r}",
                    expected="bodies and joints of this machine",
                    actual=str(error).strip("\"'"),
                ) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        model, data = self._solved()
        measured = {measure.name: measure.read(model, data) for measure in self.measures}
        cost = sum(excess(measured[m.name], m.limit, m.worse) for m in self.measures)
        return obs, reward, terminated, truncated, {**info, "cost": cost, "measured": measured}

    def _solved(self) -> tuple[Any, Any]:
        """The model and a copy of its data with positions and forces of this very state.

        What a step leaves behind is of half a step earlier, and solving again in place would
        change what comes next; hence the copy.
        """
        import mujoco

        model, data = simulator(self.env)
        if self._copy is None or self._copy[0] is not model:  # dm_control may build a new machine
            self._copy = (model, mujoco.MjData(model))
        mujoco.mj_copyData(self._copy[1], model, data)
        mujoco.mj_forward(*self._copy)
        return self._copy


def simulator(env: Any) -> tuple[Any, Any]:
    """mujoco.MjModel and MjData behind an environment. Raises InputTypeError where there is none"""
    inner = env.unwrapped
    physics = getattr(getattr(inner, "_env", None), "physics", None)  # dm_control behind shimmy
    if physics is not None:
        return physics.model.ptr, physics.data.ptr
    if hasattr(inner, "model") and hasattr(inner, "data"):
        return inner.model, inner.data
    raise InputTypeError(
        "env",
        expected="an environment that simulates with MuJoCo",
        actual=type(inner).__name__,
        hint="give such a world a risk of its own: risk=... of collect.",
    )
