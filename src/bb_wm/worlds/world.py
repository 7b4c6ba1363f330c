"""What a world is: its name, how one is made, what its risk means, and what it needs installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bb_wm.errors import MissingExtraError
from bb_wm.worlds.measures import Measure

Risk = Callable[[Any, Any, Any, float, bool, Mapping[str, Any]], float]
Domain = Literal["robot", "control", "ui", "factory", "tools", "exact", "other"]

# what a world may need -> the modules that show it is there; all of them are looked for
MODULES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "gymnasium": (),
    "mujoco": ("mujoco",),
    "robot": ("mujoco", "dm_control", "shimmy"),
    "motor": ("gym_electric_motor",),
    "factory": ("gym_electric_motor", "pcgym"),
    "browser": ("miniwob", "selenium"),
    "pixels": ("pygame",),
}
SAFETY: Final = "safety-gymnasium"  # lives in a Python of its own
SAFETY_PYTHON: Final = "BB_WM_SAFETY_PYTHON"
BROWSER: Final = "browser"  # needs two programs beside its packages
_EXTRA_OF: Final = {"motor": "factory"}


@dataclass(frozen=True, slots=True)
class World:
    """One world: its name, Gymnasium id, the extra it needs and what its risk signal means.

    `risk` is what `collect` is told; `measures` are physical limits (bb_wm.worlds.measures) that
    the made environment watches and reports as info["cost"]. `kwargs` go to the environment.
    With a `side` it is seen as that many pixels a side (bb_wm.worlds.pixels).
    """

    name: str
    domain: Domain
    env_id: str
    needs: str
    risk: Risk
    risk_description: str
    note: str = ""
    measures: tuple[Measure, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    side: int = 0

    @property
    def installed(self) -> bool:
        """Whether everything it needs can be found here; nothing is imported to find out."""
        return not missing_module(self.needs)

    @property
    def install(self) -> str:
        """The exact line that brings what it needs."""
        return install_line(self.needs)


@dataclass(frozen=True, slots=True)
class WorldMaker:
    """Makes one environment of a world; picklable, so a worker process can call it."""

    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[Measure, ...] = ()
    registers: str = ""
    side: int = 0
    risk: Risk | None = None  # what is read off the numbers behind the pixels

    def __call__(self, **more: Any) -> Any:
        """A fresh environment; `more` goes to it too."""
        import gymnasium

        from bb_wm.worlds.catalogue import register_worlds
        from bb_wm.worlds.physics import PhysicsRisk
        from bb_wm.worlds.pixels import Pixels, quiet_pygame

        register_worlds()
        if self.registers:
            importlib.import_module(self.registers)
        kwargs = {**self.kwargs, **more}
        if self.side:
            quiet_pygame()
            kwargs = {**kwargs, "render_mode": "rgb_array"}
        env: Any = gymnasium.make(self.env_id, disable_env_checker=True, **kwargs)
        env = PhysicsRisk(env, self.measures) if self.measures else env
        return Pixels(env, self.side, self.risk) if self.side and self.risk else env


def missing_module(needs: str) -> str:
    """The first module that `needs` would bring and that is absent; "" when nothing is."""
    if needs == SAFETY:
        return "" if safety_python() is not None else "safety_gymnasium"
    for module in ("gymnasium", *MODULES_OF.get(needs, (needs,))):
        if importlib.util.find_spec(module) is None:
            return module
    if needs == BROWSER and browser_programs() is None:
        return "chromium-driver"
    return ""


def install_line(needs: str) -> str:
    """What to type to have it."""
    if needs == SAFETY:
        return (
            "python3.10 -m venv ~/sg && ~/sg/bin/pip install safety-gymnasium==1.0.0 "
            f"&& export {SAFETY_PYTHON}=~/sg/bin/python"
        )
    if needs == "gymnasium":
        return "pip install bb_wm"
    if needs == BROWSER:
        return 'pip install "bb_wm[browser]" && apt-get install chromium chromium-driver'
    return f'pip install "bb_wm[{_EXTRA_OF.get(needs, needs)}]"'


def safety_python() -> Path | None:
    """The Python 3.8 to 3.10 that safety-gymnasium was installed into; None where none is named."""
    named = os.environ.get(SAFETY_PYTHON, "")
    path = Path(named).expanduser() if named else None
    return path if path is not None and path.is_file() else None


def browser_programs() -> tuple[Path, Path] | None:
    """Chromium and its driver: those that MiniWoB++'s own two variables name, or on the PATH."""
    named = os.environ.get("MINIWOB_CHROME_BINARY"), os.environ.get("MINIWOB_CHROMEDRIVER")
    chromium = named[0] or shutil.which("chromium") or shutil.which("google-chrome")
    driver = named[1] or shutil.which("chromedriver")
    if chromium is None or driver is None:
        return None
    found = Path(chromium), Path(driver)
    return found if all(path.is_file() for path in found) else None


def check_installed(world: World) -> None:
    """Raise MissingExtraError with the install line where something it needs is absent."""
    absent = missing_module(world.needs)
    if absent:
        raise MissingExtraError(
            f"world {world.name!r}",
            expected=f"the package {absent!r}",
            actual="not installed",
            hint=world.install,
        )
