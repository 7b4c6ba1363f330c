"""Physical limits of robots, read from MuJoCo itself: contact force, joint speed, falls, zones.

Each measure reads one quantity of the simulator in SI units at the end of a control step and says
how far it is beyond its limit, in units of that limit: 0 inside, 0.5 half as much again, larger is
worse. `PhysicsRisk` (bb_wm.worlds.physics) adds them up as info["cost"]. They are documented
choices, not laws: give your machine's own limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np

from bb_wm.errors import ConfigError

_HINGE: Final = 3  # mujoco.mjtJoint.mjJNT_HINGE


@runtime_checkable
class Measure(Protocol):
    """A quantity of the simulated machine and its limit.

    `worse` says which side of `limit` is the bad one.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def limit(self) -> float: ...

    @property
    def worse(self) -> Literal["above", "below"]: ...

    def read(self, model: Any, data: Any) -> float:
        """The quantity, in `unit`, from mujoco.MjModel and MjData (forces solved); reads only."""
        ...


@dataclass(frozen=True, slots=True)
class ContactForce:
    """The largest normal force of any contact, in newtons; above `limit` is worse.

    With `bodies`, only contacts that touch one of them count. The force is that of the row's own
    state; a peak between two control steps is not seen.
    """

    limit: float
    bodies: tuple[str, ...] = ()
    name: str = "contact force"
    unit: str = "N"
    worse: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        _check_limit(self)

    def read(self, model: Any, data: Any) -> float:
        import mujoco

        wanted = {model.body(body).id for body in self.bodies}
        force, largest = np.zeros(6), 0.0
        for index in range(data.ncon):
            touching = {int(model.geom_bodyid[g]) for g in data.contact[index].geom if g >= 0}
            if wanted and not (wanted & touching):
                continue
            mujoco.mj_contactForce(model, data, index, force)
            largest = max(largest, float(force[0]))
        return largest


@dataclass(frozen=True, slots=True)
class JointSpeed:
    """The largest speed of any hinge, in rad/s; above `limit` is worse.

    `joints` names the ones that count; all hinges when empty. Sliding joints have other units and
    do not count.
    """

    limit: float
    joints: tuple[str, ...] = ()
    name: str = "joint speed"
    unit: str = "rad/s"
    worse: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        _check_limit(self)

    def read(self, model: Any, data: Any) -> float:
        chosen = [model.joint(joint).id for joint in self.joints] or range(model.njnt)
        places = [int(model.jnt_dofadr[j]) for j in chosen if int(model.jnt_type[j]) == _HINGE]
        return _largest(np.abs(np.asarray(data.qvel)[places]))


@dataclass(frozen=True, slots=True)
class Fall:
    """The height of a body's origin above the world's floor, in metres; below `limit` is worse."""

    limit: float
    body: str = "torso"
    name: str = "height"
    unit: str = "m"
    worse: Literal["above", "below"] = "below"

    def __post_init__(self) -> None:
        _check_limit(self)

    def read(self, model: Any, data: Any) -> float:
        return float(data.xpos[model.body(self.body).id][2])


@dataclass(frozen=True, slots=True)
class Tilt:
    """The angle between a body's own z axis and the world's, in rad; above `limit` is worse."""

    limit: float
    body: str = "torso"
    name: str = "tilt"
    unit: str = "rad"
    worse: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        _check_limit(self)

    def read(self, model: Any, data: Any) -> float:
        return math.acos(float(np.clip(data.xmat[model.body(self.body).id][8], -1.0, 1.0)))


@dataclass(frozen=True, slots=True)
class Zone:
    """How far a body is from the zone's centre, along the ground, in metres; above is worse.

    `limit` is the zone's radius; with `axis` ("x" or "y") only that axis counts.
    """

    limit: float
    body: str = "torso"
    centre: tuple[float, float] = (0.0, 0.0)
    axis: Literal["", "x", "y"] = ""
    name: str = "distance from centre"
    unit: str = "m"
    worse: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        _check_limit(self)

    def read(self, model: Any, data: Any) -> float:
        away = np.asarray(data.xpos[model.body(self.body).id][:2], np.float64) - self.centre
        if self.axis:
            return abs(float(away["xy".index(self.axis)]))
        return float(np.hypot(away[0], away[1]))


def excess(value: float, limit: float, worse: Literal["above", "below"]) -> float:
    """How far `value` is beyond `limit`, in units of the limit; 0 inside, inf where it is NaN."""
    beyond = value / limit - 1.0 if worse == "above" else 1.0 - value / limit
    return math.inf if math.isnan(beyond) else max(beyond, 0.0)


def describe_measures(measures: Sequence[Measure]) -> str:
    """In words: "contact force above 200 N, in units of that limit"."""
    parts = [f"{m.name} {m.worse} {m.limit:g} {m.unit}" for m in measures]
    return "; ".join(parts) + ", in units of that limit" + (", summed" if len(parts) > 1 else "")


def _largest(values: np.ndarray) -> float:
    return float(values.max()) if values.size else 0.0


def _check_limit(measure: Measure) -> None:
    limit = measure.limit
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < math.inf:
        raise ConfigError(
            f"{type(measure).__name__}.limit",
            expected=f"a finite number of {measure.unit} > 0",
            actual=repr(limit),
        )
