"""What can be trained on by name: well-known worlds, worlds with known answers, any Gymnasium id.

`make_world(name)` gives a maker for `bb_wm.data.collect` and the World that says what its risk is
and which extra it needs. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bb_wm.errors import ConfigError, MissingExtraError
from bb_wm.worlds.risk import Failure, InfoCost, OverLimit

Risk = Callable[[Any, Any, Any, float, bool, Mapping[str, Any]], float]
Domain = Literal["robot", "control", "ui", "factory", "tools", "exact", "other"]
MODULE_OF = {"gymnasium": "gymnasium", "mujoco": "mujoco"}  # extra -> the module that shows it
NAMESPACE = "bb_wm"


@dataclass(frozen=True, slots=True)
class World:
    """One world: its name, Gymnasium id, the extra it needs and what its risk signal means."""

    name: str
    domain: Domain
    env_id: str
    needs: str
    risk: Risk
    risk_description: str
    note: str = ""

    @property
    def installed(self) -> bool:
        """Whether the packages of its extra can be imported here."""
        return not missing_module(self.needs)


@dataclass(frozen=True, slots=True)
class WorldMaker:
    """Makes one environment of a world; picklable, so a worker process can call it."""

    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **more: Any) -> Any:
        import gymnasium

        register_worlds()
        return gymnasium.make(self.env_id, disable_env_checker=True, **{**self.kwargs, **more})


_FALL = "1 in the row where it falls (the world terminates), else 0"
_POLE = "1 in the row where the pole falls or the cart leaves the track, else 0"
_NONE = 'info["cost"] where the world reports one, else 0'

WORLDS: tuple[World, ...] = (
    World(
        "Reacher-v5",
        "robot",
        "Reacher-v5",
        "mujoco",
        OverLimit((6, 7), 10.0),
        "joint speed above 10 rad/s, in units of that limit, summed over both joints",
    ),
    World("Hopper-v5", "robot", "Hopper-v5", "mujoco", Failure(), _FALL),
    World(
        "HalfCheetah-v5",
        "robot",
        "HalfCheetah-v5",
        "mujoco",
        OverLimit((8,), 3.0),
        "forward speed above 3 m/s, in units of that limit",
    ),
    World("InvertedPendulum-v5", "robot", "InvertedPendulum-v5", "mujoco", Failure(), _POLE),
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

    `name` is a name of `list_worlds()`, any registered Gymnasium id, or "module:Env-v0", whose
    module is imported for its registrations. Raises MissingExtraError with the install line, or
    ConfigError with the nearest names.
    """
    world = find_world(name)
    absent = missing_module(world.needs)
    if absent:
        raise MissingExtraError(
            f"world {world.name!r}",
            expected=f"the package {absent!r}",
            actual="not installed",
            hint=f'pip install "bb_wm[{world.needs}]"',
        )
    return WorldMaker(world.env_id, kwargs), world


def find_world(name: str) -> World:
    """The World of a name, without making anything; ConfigError with the nearest names."""
    if not isinstance(name, str) or not name.strip():
        raise ConfigError("world", expected="a name", actual=repr(name))
    for world in WORLDS:
        if name in (world.name, world.env_id):
            return world
    return _by_gymnasium_id(name)


def missing_module(extra: str) -> str:
    """The module that `extra` would bring and that is absent; "" when nothing is."""
    for module in dict.fromkeys(("gymnasium", MODULE_OF.get(extra, extra))):
        if module and importlib.util.find_spec(module) is None:
            return module
    return ""


def _by_gymnasium_id(name: str) -> World:
    if missing_module("gymnasium"):
        return World(name, "other", name, "gymnasium", InfoCost(), _NONE)
    import gymnasium

    register_worlds()
    module, _, plain = name.rpartition(":")
    if module:
        _import_registrations(name, module)
    spec = gymnasium.registry.get(plain)
    if spec is None:
        raise ConfigError(
            "world",
            expected="a world, a Gymnasium id or module:Env-v0",
            actual=repr(name),
            hint=_nearest(plain),
        )
    entry = str(spec.entry_point)
    needs = "mujoco" if "envs.mujoco" in entry else "gymnasium"
    note = "no physical risk is known for this world: pass risk=... to collect if it has one"
    return World(name, "other", name, needs, InfoCost(), _NONE, note)


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
            hint="install the package that registers this environment.",
        ) from error


def _nearest(name: str) -> str:
    import gymnasium

    known = [world.name for world in WORLDS] + list(gymnasium.registry)
    lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)
    if not close:
        return "`bb-wm worlds` lists the known ones."
    return "did you mean " + ", ".join(lower[entry] for entry in close) + "?"
