"""Factories: electric drives (gym-electric-motor) and a chemical reactor (pcgym), by name.

Both are wrapped to keep Gymnasium's contract (`gymnasium.utils.env_checker`): seeds that decide
everything, float32 in declared spaces, a time limit that truncates, a cost per step. The risk is
what is measured on the plant, in units of its limits.
"""

from __future__ import annotations

from typing import Final

from bb_wm.worlds.risk import InfoCost
from bb_wm.worlds.world import World

_OVERCURRENT: Final = (
    "current above nominal, 1 at the limit where the drive trips (and the episode terminates)"
)


def motor_world(motor: str) -> World:
    """A drive of gym-electric-motor by its own id."""
    return World(
        motor,
        "factory",
        "bb_wm/ElectricMotor-v0",
        "motor",
        InfoCost(),
        _OVERCURRENT,
        "any other id of gym-electric-motor works too",
        kwargs={"motor": motor},
    )


FACTORY: Final[tuple[World, ...]] = (
    motor_world("Cont-CC-PMSM-v0"),
    motor_world("Finite-CC-PermExDc-v0"),
    World(
        "CSTR",
        "factory",
        "bb_wm/CSTR-v0",
        "factory",
        InfoCost(),
        "reactor temperature above 333 K, in units of 10 K",
        "too warm a coolant ignites it: a thermal runaway of more than 100 K",
    ),
)
