"""Worlds seen through a camera: what an environment draws of itself, made small."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from bb_wm.worlds.world import Risk

SIDES = (16, 256)


class Pixels(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observations are `side` x `side` RGB pixels (uint8) of the rendered environment.

    Every pixel is the mean of the part of the picture it stands for. Risk that is read off numbers
    is read before they are hidden, and reported as info["cost"] (larger is worse). The environment
    must have been made with render_mode="rgb_array".
    """

    def __init__(self, env: Any, side: int, risk: Risk) -> None:
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ConfigError("render_mode", expected='"rgb_array"', actual=repr(env.render_mode))
        self.side, self._risk = check_side(side), risk
        self.observation_space = gymnasium.spaces.Box(0, 255, (side, side, 3), np.uint8)
        self._state: Any = None

    def reset(self, **given: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's own, with pixels."""
        self._state, info = self.env.reset(**given)
        return self._look(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As the environment's own, with pixels and the risk of the row as info["cost"]."""
        before = self._state
        self._state, reward, terminated, truncated, info = self.env.step(action)
        cost = self._risk(before, action, self._state, float(reward), terminated, info)
        return self._look(), float(reward), terminated, truncated, {**info, "cost": float(cost)}

    def _look(self) -> np.ndarray:
        return shrink(np.asarray(self.env.render()), self.side)


def pixel_name(name: str) -> tuple[str, int]:
    """ "Pendulum-v1@64px" -> ("Pendulum-v1", 64); side 0 for a name that asks for no pixels."""
    found = re.fullmatch(r"(.+)@(\d+)px", name)
    return (found[1], check_side(int(found[2]))) if found else (name, 0)


def check_side(side: int) -> int:
    """The side, or ConfigError where it is too small to see or too large to learn from."""
    if not SIDES[0] <= side <= SIDES[1]:
        raise ConfigError("pixels", expected=f"a side of {SIDES[0]} to {SIDES[1]}", actual=side)
    return side


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """An RGB picture [H, W, 3] as [side, side, 3] means of its parts, uint8."""
    sums, area = picture, np.ones((1, 1, 1))
    for axis, shape in ((0, (-1, 1, 1)), (1, (1, -1, 1))):
        length = picture.shape[axis]
        if length < side:
            raise ConfigError("pixels", expected=f"a picture of at least {side}", actual=length)
        edges = np.arange(side) * length // side
        sums = np.add.reduceat(sums, edges, axis=axis, dtype=np.uint32)
        area = area * np.diff(np.append(edges, length)).reshape(shape)
    return np.asarray(np.rint(sums / area).astype(np.uint8))


def quiet_pygame() -> None:
    """Pygame greets on standard output, where our tables go, and looks for loudspeakers."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
