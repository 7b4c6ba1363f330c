"""Every named world can be made, its risk is what it says, and wrong names are answered well."""

import importlib.util
import pickle

import gymnasium as gym
import numpy as np
import pytest

from bb_wm.data.collecting import collect
from bb_wm.errors import ConfigError, MissingExtraError
from bb_wm.worlds.catalogue import WorldMaker, find_world, list_worlds, make_world
from bb_wm.worlds.risk import Failure, InfoCost, NoRisk, OverLimit
from bb_wm.worlds.world import missing_module

NAMES = [world.name for world in list_worlds()]


def test_the_worlds_of_the_foundation_are_there() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {
        "Reacher-v5",
        "Pendulum-v1",
        "Hopper-v5",
        "CartPole-v1",
        "Acrobot-v1",
        "MountainCarContinuous-v0",
        "InvertedPendulum-v5",
        "HalfCheetah-v5",
        "EchoWorld",
        "LineWorld",
        "KalmanWorld",
        "HazardChain",
        "ToolDesk",
    } <= set(NAMES)


@pytest.mark.xdist_group("factory")  # the packages of the factory are slow to import: once
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_a_world_can_be_made_collected_and_sent_to_a_worker(name) -> None:
    if not find_world(name).installed:
        pytest.skip(f"needs: {find_world(name).install}")
    maker, world = make_world(name)
    again = pickle.loads(pickle.dumps((maker, world)))
    episodes = collect(again[0], rows=60, seed=1, risk=again[1].risk)
    assert sum(map(len, episodes)) in (60, 61)
    assert all((episode.safety >= 0).all() for episode in episodes)
    assert world.risk_description


def test_risks_mean_what_they_say_on_real_steps() -> None:
    maker, world = make_world("Reacher-v5")
    episodes = collect(maker, rows=400, seed=0, risk=world.risk)
    speed = np.concatenate([e.obs["obs"][1:, 6:8] for e in episodes])
    risk = np.concatenate([e.safety[1:] for e in episodes])
    assert np.allclose(risk, np.maximum(np.abs(speed) / 10 - 1, 0).sum(1), atol=1e-5)
    assert 0.01 < (risk > 0).mean() < 0.9
    maker, world = make_world("Pendulum-v1")
    env = maker().unwrapped
    env.reset(seed=0)
    env.state = np.array([np.pi / 2, 7.9])
    obs, reward, ended, _, info = env.step(np.array([2.0], np.float32))
    assert np.isclose(world.risk(None, None, obs, reward, ended, info), 8 / 6 - 1)
    for name in ("CartPole-v1", "Hopper-v5", "InvertedPendulum-v5"):
        maker, world = make_world(name)
        for episode in collect(maker, episodes=3, risk=world.risk):
            assert episode.terminated
            assert episode.safety.tolist() == [0.0] * (len(episode) - 1) + [1.0]


def test_risk_rules_by_hand() -> None:
    step = (None, None, np.array([3.0, -6.0, 1.0]), 1.0, True, {"cost": 0.5, "heat": 2})
    assert NoRisk()(*step) == 0.0
    assert Failure()(*step) == 1.0
    assert InfoCost()(*step) == 0.5
    assert InfoCost("heat")(*step) == 2.0
    assert InfoCost("absent")(*step) == 0.0
    assert OverLimit((0, 1, 2), 2.0)(*step) == 0.5 + 2.0


def test_any_gymnasium_id_is_a_world_and_its_note_says_there_is_no_risk() -> None:
    maker, world = make_world("FrozenLake-v1", is_slippery=False)
    assert "risk" in world.note
    assert maker().unwrapped.spec.kwargs["is_slippery"] is False
    assert find_world("bb_wm/EchoWorld-v0").name == "EchoWorld"
    assert find_world("Walker2d-v5").needs == "mujoco"


def test_a_module_that_registers_worlds_is_imported(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_worlds_for_test.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', entry_point='bb_wm.testing.worlds:EchoWorld')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        maker, world = make_world("my_worlds_for_test:Mine-v0", length=5)
        assert world.name == "my_worlds_for_test:Mine-v0"
        assert len(collect(maker, episodes=1)[0]) == 5
    finally:
        gym.registry.pop("Mine-v0", None)


@pytest.mark.parametrize(
    ("name", "near"),
    [("Pendulm-v1", "Pendulum-v1"), ("echoworld", "EchoWorld"), ("reacher", "Reacher-v5")],
)
def test_a_misspelt_world_is_answered_with_the_nearest(name, near) -> None:
    with pytest.raises(ConfigError, match=near):
        make_world(name)


@pytest.mark.parametrize("name", ["", "  ", "a/../b:X-v0", "os.system('x'):Y-v0", "zzzzqqqq", None])
def test_what_is_no_name_is_refused(name) -> None:
    with pytest.raises(ConfigError, match="world"):
        make_world(name)


def without(monkeypatch, *modules) -> None:
    """As if these modules were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m in modules else real(m))


def test_an_absent_extra_is_named_with_its_install_line(monkeypatch) -> None:
    without(monkeypatch, "mujoco")
    with pytest.raises(MissingExtraError, match=r'pip install "bb_wm\[mujoco\]"'):
        make_world("Reacher-v5")
    with pytest.raises(MissingExtraError, match="mujoco"):
        make_world("Walker2d-v5")
    robots = {w.name for w in list_worlds() if w.domain == "robot"}
    absent = {w.name for w in list_worlds() if not w.installed}
    assert {name for name in robots if not name.startswith("safety/")} <= absent
    assert make_world("CartPole-v1")[1].installed


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("dm_control/reacher-easy-v0", "dm_control", "robot"),
        ("dm_control/hopper-hop-v0", "shimmy", "robot"),
        ("Cont-CC-PMSM-v0", "gym_electric_motor", "factory"),
        ("Finite-TC-SCIM-v0", "gym_electric_motor", "factory"),
        ("CSTR", "pcgym", "factory"),
    ],
)
def test_every_domain_says_which_extra_it_lacks(name, module, extra, monkeypatch) -> None:
    without(monkeypatch, module)
    with pytest.raises(MissingExtraError, match=rf'pip install "bb_wm\[{extra}\]"'):
        make_world(name)


def test_a_motor_needs_no_chemistry(monkeypatch) -> None:
    # As if everything but pcgym were installed, whatever is.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pcgym" else name)
    assert missing_module("motor") == ""
    assert missing_module("factory") == "pcgym"


def test_install_lines_fit_into_an_error_whole() -> None:
    for world in list_worlds():
        error = MissingExtraError(world.name, expected="x", actual="y", hint=world.install)
        assert error.hint == world.install, world.name


def test_a_module_that_is_not_installed_is_named() -> None:
    with pytest.raises(MissingExtraError, match="no_such_package"):
        make_world("no_such_package:Foo-v0")


def test_a_maker_gives_fresh_environments() -> None:
    maker = WorldMaker("bb_wm/EchoWorld-v0", {"size": 3})
    left, right = maker(), maker(size=1)
    assert left is not right
    assert left.observation_space.shape == (3,)
    assert right.observation_space.shape == (1,)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dm_control/cheeta-run-v0", "dm_control/cheetah-run-v0"),
        ("rec/git", "no file or folder"),
        ("nowhere/log.csv", "no file or folder"),
    ],
)
def test_a_name_with_a_slash_is_a_world_misspelt_or_a_path_that_is_not_there(name, hint) -> None:
    pytest.importorskip("shimmy")
    with pytest.raises(ConfigError, match=hint):
        make_world(name)
