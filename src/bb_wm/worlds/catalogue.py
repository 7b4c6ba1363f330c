"""What can be trained on by name: well-known worlds, worlds with known answers, any Gymnasium id.

`make_world(name)` gives a maker for `bb_wm.data.collect` and the World that says what its risk is
and which extra it needs. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from dataclasses import replace
from typing import Any

from bb_wm.errors import ConfigError, MissingExtraError
from bb_wm.worlds.browser.tasks import BROWSER
from bb_wm.worlds.factory import FACTORY, motor_world
from bb_wm.worlds.pixels import pixel_name
from bb_wm.worlds.risk import Failure, InfoCost, OverLimit
from bb_wm.worlds.robot import DM_CONTROL, ROBOTS, SAFE, safety_world
from bb_wm.worlds.world import (
    World,
    WorldMaker,
    check_installed,
    missing_module,
)

__all__ = ["World", "WorldMaker", "find_world", "list_worlds", "make_world", "register_worlds"]

NAMESPACE = "bb_wm"
_POLE = "1 in the row where the pole falls or the cart leaves the track, else 0"
_NONE = 'info["cost"] where the world reports one, else 0'

WORLDS: tuple[World, ...] = (
    *ROBOTS,
    World(
        "Pendulum-v1",
        "control",
        "Pendulum-v1",
        "gymnasium",
        OverLimit((2,), 6.0),
        "angular speed above 6 rad/s (it is clipped at 8), in units of that limit",
    ),
    World("CartPole-v1", "control", "CartPole-v1", "gymnasium", Failure(), _POLE),
    World(
        "Acrobot-v1",
        "control",
        "Acrobot-v1",
        "gymnasium",
        OverLimit((4, 5), 6.0),
        "joint speed above 6 rad/s, in units of that limit, summed over both joints",
        "termination is success here, so it is no risk",
    ),
    World(
        "MountainCarContinuous-v0",
        "control",
        "MountainCarContinuous-v0",
        "gymnasium",
        OverLimit((1,), 0.05),
        "speed above 0.05 (it is clipped at 0.07), in units of that limit",
    ),
    *FACTORY,
    *BROWSER,
    World(
        "ToolDesk",
        "tools",
        "bb_wm/ToolDesk-v0",
        "gymnasium",
        InfoCost("safety"),
        "1 in the row where a wrong intent was committed to, else 0",
        "asking costs; the worth of every question is known exactly",
    ),
    World(
        "EchoWorld",
        "exact",
        "bb_wm/EchoWorld-v0",
        "gymnasium",
        InfoCost(),
        "the positive part of the first action",
        "obs[t+1] = action[t]; misaligned rows cannot be learnt",
    ),
    World(
        "LineWorld",
        "exact",
        "bb_wm/LineWorld-v0",
        "gymnasium",
        InfoCost(),
        "distance beyond |x| = 1",
        "linear and without noise; rollouts are known exactly",
    ),
    World(
        "KalmanWorld",
        "exact",
        "bb_wm/KalmanWorld-v0",
        "gymnasium",
        InfoCost(),
        "1 where |y_0| is beyond two standard deviations",
        "linear-Gaussian, 4 hidden and 2 seen dimensions; the best possible predictor is known",
    ),
    World(
        "HazardChain",
        "exact",
        "bb_wm/HazardChain-v0",
        "gymnasium",
        InfoCost(),
        "1 in the event, 0.5 % of all rows under random actions",
        "a rare event that builds up over six stages; its probabilities are known",
    ),
)
_ENTRY_POINTS = {
    "CSTR-v0": "bb_wm.worlds.reactor:ReactorCSTR",
    "MiniWoB-v0": "bb_wm.worlds.browser.page:BrowserPage",
    "ElectricMotor-v0": "bb_wm.worlds.motor:ElectricMotor",
    "SafetyGymnasium-v0": "bb_wm.worlds.safety:SafetyGymnasium",
    "ToolDesk-v0": "bb_wm.worlds.tooldesk:ToolDesk",
    "EchoWorld-v0": "bb_wm.testing.worlds:EchoWorld",
    "LineWorld-v0": "bb_wm.testing.worlds:LineWorld",
    "KalmanWorld-v0": "bb_wm.testing.kalman:KalmanWorld",
    "HazardChain-v0": "bb_wm.testing.hazard:HazardChain",
}


def register_worlds() -> None:
    """Make gymnasium.make know `bb_wm/KalmanWorld-v0` and the like; once is enough."""
    import gymnasium

    for name, entry_point in _ENTRY_POINTS.items():
        env_id = f"{NAMESPACE}/{name}"
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point)


def list_worlds() -> list[World]:
    """Every named world, installed or not."""
    return list(WORLDS)


def make_world(name: str, **kwargs: Any) -> tuple[WorldMaker, World]:
    """A maker of the environment, and its World; `kwargs` go to the environment.

    `name` is a name of `list_worlds()`, any registered Gymnasium id, "dm_control/TASK-v0",
    "safety/TASK", an id of gym-electric-motor, or "module:Env-v0", whose module is imported for its
    registrations; "NAME@64px" is the same world seen as 64 x 64 pixels. Raises MissingExtraError
    with the install line, or ConfigError with the nearest names.
    """
    world = find_world(name)
    check_installed(world)
    registers = "shimmy" if world.env_id.startswith(DM_CONTROL) else ""
    maker = WorldMaker(world.env_id, {**world.kwargs, **kwargs}, world.measures, registers)
    if not world.side:
        return maker, world
    seen = replace(maker, side=world.side, risk=world.risk)
    return seen, replace(world, risk=InfoCost())


def find_world(name: str) -> World:
    """The World of a name, without making anything; ConfigError with the nearest names."""
    if not isinstance(name, str) or not name.strip():
        raise ConfigError("world", expected="a name", actual=repr(name))
    plain, side = pixel_name(name)
    if side:
        world = find_world(plain)
        needs = "pixels" if world.needs == "gymnasium" else world.needs
        return replace(world, name=name, needs=needs, side=side)
    for world in WORLDS:
        if name == world.name or (name == world.env_id and not world.kwargs):
            return world
    if name.startswith(SAFE):
        return safety_world(name.removeprefix(SAFE))
    if re.fullmatch(r"(Cont|Finite)-(CC|TC|SC)-\w+-v0", name):
        return motor_world(name)
    return _by_gymnasium_id(name)


def _by_gymnasium_id(name: str) -> World:
    if missing_module("gymnasium"):
        return World(name, "other", name, "gymnasium", InfoCost(), _NONE)
    import gymnasium

    register_worlds()
    module, _, plain = name.rpartition(":")
    if module:
        _import_registrations(name, module)
    elif name.startswith(DM_CONTROL):
        if missing_module("robot"):
            return World(name, "robot", name, "robot", InfoCost(), _NONE)
        importlib.import_module("shimmy")
    spec = gymnasium.registry.get(plain)
    if spec is None:
        raise ConfigError(
            "world",
            expected="a world, a Gymnasium id, module:Env-v0, or a file or folder of recordings",
            actual=repr(name),
            hint=_nearest(plain),
        )
    note = "no physical risk is known for this world: pass risk=... to collect if it has one"
    return World(name, "other", name, _needs(spec), InfoCost(), _NONE, note)


def _needs(spec: Any) -> str:
    entry = str(spec.entry_point)
    if "shimmy" in entry or str(spec.id).startswith(DM_CONTROL):
        return "robot"
    return "mujoco" if "envs.mujoco" in entry else "gymnasium"


def _import_registrations(name: str, module: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
        raise ConfigError("world", expected="module:Env-v0", actual=repr(name))
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"world {name!r}",
            expected=f"the module {module!r}",
            actual=f"{type(error).__name__}: {error}",
            hint="install what registers it, or run where Python finds it (PYTHONPATH).",
        ) from error


def _nearest(name: str) -> str:
    import gymnasium

    no_file = "there is no file or folder of that name here."
    if name.lower().endswith((".csv", ".parquet", ".npz", ".hdf5")):
        return no_file
    known = [world.name for world in WORLDS] + list(gymnasium.registry)
    lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)
    if not close:
        return no_file if "/" in name else "`bb-wm worlds` lists the known ones."
    return "did you mean " + ", ".join(lower[entry] for entry in close) + "?"
