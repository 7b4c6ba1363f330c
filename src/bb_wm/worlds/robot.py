"""Robots: Gymnasium's MuJoCo v5, dm_control's suite and Safety-Gymnasium, each with its risk.

Limits are chosen so that a random agent is over them in a few percent of its rows: rare enough to
be worth avoiding, frequent enough to be learnt. `docs/robot.md` says how to give your own.
"""

from __future__ import annotations

from typing import Any, Final

from bb_wm.worlds.measures import ContactForce, Fall, JointSpeed, Measure, Zone, describe_measures
from bb_wm.worlds.risk import Failure, InfoCost, OverLimit
from bb_wm.worlds.world import SAFETY, World

_FALL: Final = "1 in the row where it falls (the world terminates), else 0"
_POLE: Final = "1 in the row where the pole falls or the cart leaves the track, else 0"
DM_CONTROL: Final = "dm_control/"
SAFE: Final = "safety/"


def _gymnasium(name: str, risk: Any, about: str) -> World:
    return World(name, "robot", name, "mujoco", risk, about)


def _measured(name: str, *measures: Measure, needs: str = "mujoco") -> World:
    about = describe_measures(measures)
    return World(name, "robot", name, needs, InfoCost(), about, measures=measures)


def _dm_control(task: str, *measures: Measure) -> World:
    return _measured(f"{DM_CONTROL}{task}-v0", *measures, needs="robot")


def safety_world(task: str) -> World:
    """A task of Safety-Gymnasium, as "SafetyPointGoal1-v0", in a Python of its own."""
    return World(
        f"{SAFE}{task}",
        "robot",
        "bb_wm/SafetyGymnasium-v0",
        SAFETY,
        InfoCost(),
        "the world's own cost: how deep in hazards, or what is touched",
        "runs in a worker of its own Python 3.10; docs/robot.md",
        kwargs={"task": task},
    )


ROBOTS: Final[tuple[World, ...]] = (
    _gymnasium(
        "Reacher-v5",
        OverLimit((6, 7), 10.0),
        "joint speed above 10 rad/s, in units of that limit, summed over both joints",
    ),
    _gymnasium("Hopper-v5", Failure(), _FALL),
    _gymnasium(
        "HalfCheetah-v5", OverLimit((8,), 3.0), "forward speed above 3 m/s, in units of that limit"
    ),
    _gymnasium("InvertedPendulum-v5", Failure(), _POLE),
    _gymnasium("InvertedDoublePendulum-v5", Failure(), _FALL),
    _measured("Swimmer-v5", JointSpeed(3.5)),
    _measured("Pusher-v5", JointSpeed(5.0)),
    _measured("Ant-v5", ContactForce(30.0)),
    _measured("Walker2d-v5", Fall(1.0), ContactForce(800.0)),
    _measured("Humanoid-v5", Fall(1.1), ContactForce(1000.0)),
    _measured("HumanoidStandup-v5", ContactForce(1000.0)),
    _dm_control("cartpole-swingup", Zone(1.5, body="cart", axis="x")),
    _dm_control("reacher-easy", JointSpeed(3.5)),
    _dm_control("point_mass-easy", Zone(0.25, body="pointmass")),
    _dm_control("walker-walk", ContactForce(1000.0)),
    _dm_control("cheetah-run", JointSpeed(9.0)),
    _dm_control("finger-spin", JointSpeed(9.0)),
    safety_world("SafetyPointGoal1-v0"),
)
