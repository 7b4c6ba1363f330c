"""Worlds through a camera: the picture is a mean of parts, and risk is read before it is hidden."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from bb_wm.errors import ConfigError
from bb_wm.worlds.catalogue import find_world, make_world
from bb_wm.worlds.pixels import Pixels, pixel_name, shrink


def test_every_pixel_is_the_mean_of_its_part() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (50, 70, 3), np.uint8)
    small = shrink(picture, 16)
    assert small.shape == (16, 16, 3)
    rows, columns = np.arange(17) * 50 // 16, np.arange(17) * 70 // 16
    for i, j in ((0, 0), (7, 3), (15, 15)):
        part = picture[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
        expected = part.reshape(-1, 3).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(small[i, j], expected, atol=0.5)
    assert (shrink(np.full((40, 40, 3), 200, np.uint8), 40) == 200).all()
    with pytest.raises(ConfigError, match="at least 64"):
        shrink(picture, 64)


def test_names() -> None:
    assert pixel_name("Pendulum-v1@64px") == ("Pendulum-v1", 64)
    assert pixel_name("Pendulum-v1") == ("Pendulum-v1", 0)
    world = find_world("Pendulum-v1@64px")
    assert (world.name, world.needs, world.side) == ("Pendulum-v1@64px", "pixels", 64)
    assert 'pip install "bb_wm[pixels]"' in world.install
    assert find_world("Hopper-v5@64px").needs == find_world("Hopper-v5").needs
    with pytest.raises(ConfigError, match="16 to 256"):
        find_world("Pendulum-v1@8px")


class Drawn(gymnasium.Env):
    """An environment of one number that draws it as brightness."""

    render_mode = "rgb_array"

    def __init__(self) -> None:
        self.at = 0.0

    def reset(self, **given):
        self.at = 0.0
        return np.zeros(1), {}

    def step(self, action):
        self.at += float(action)
        return np.array([self.at]), 1.0, False, False, {"kept": 3}

    def render(self):
        return np.full((32, 32, 3), int(10 * self.at), np.uint8)


def test_risk_is_read_off_the_numbers_behind_the_pixels() -> None:
    def risk(obs, action, new, reward, terminated, info):
        return float(new[0] - obs[0]) + info["kept"]

    wrapped = Pixels(Drawn(), 16, risk)
    first, _ = wrapped.reset(seed=0)
    assert first.shape == (16, 16, 3)
    seen, reward, _, _, info = wrapped.step(2.0)
    assert (seen == 20).all()
    assert (reward, info["cost"], info["kept"]) == (1.0, 5.0, 3)
    with pytest.raises(ConfigError, match="rgb_array"):
        Pixels(gymnasium.make("CartPole-v1"), 16, risk)


def test_a_real_world_through_a_camera() -> None:
    pytest.importorskip("pygame")
    maker, world = make_world("CartPole-v1@32px")
    env = maker()
    one, _ = env.reset(seed=0)
    for _ in range(6):
        two, *_, info = env.step(1)
    assert env.observation_space.contains(one)
    assert (one != two).any()
    assert world.risk(one, 0, two, 1.0, False, info) == 0.0
    env.close()
