"""Physical risks: right by hand on small machines, and watching changes nothing of what happens."""

import math

import gymnasium as gym
import numpy as np
import pytest

from bb_wm.data.collecting import collect
from bb_wm.errors import ConfigError, InputTypeError
from bb_wm.worlds.catalogue import make_world
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
from bb_wm.worlds.physics import PhysicsRisk, simulator

mujoco = pytest.importorskip("mujoco", reason='needs: pip install "bb_wm[mujoco]"')

BALL = """<mujoco><worldbody><geom type="plane" size="5 5 .1"/>
<body name="ball" pos="0.3 0.4 0.1"><freejoint/><geom type="sphere" size=".1" mass="2"/></body>
<body name="arm" pos="0 0 3"><joint name="turn" type="hinge" axis="0 1 0"/>
<joint name="slip" type="slide" axis="1 0 0"/><geom type="sphere" size=".05" mass="1"/></body>
</worldbody></mujoco>"""


def machine():
    model = mujoco.MjModel.from_xml_string(BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_a_ball_at_rest_presses_with_its_weight() -> None:
    model, data = machine()
    for _ in range(1500):
        mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)
    assert ContactForce(1.0).read(model, data) == pytest.approx(2 * 9.81, rel=1e-3)
    assert ContactForce(1.0, bodies=("ball",)).read(model, data) == pytest.approx(19.62, rel=1e-3)
    assert ContactForce(1.0, bodies=("arm",)).read(model, data) == 0.0


def test_speed_height_tilt_and_distance_are_what_was_set() -> None:
    model, data = machine()
    data.qvel[:] = [1, 0, 0, 0, 0, 0, -7.0, 90.0]  # the ball's six, the hinge, the slide
    data.qpos[3:7] = [math.cos(0.3), 0, math.sin(0.3), 0]  # the ball tilted by 0.6 rad
    mujoco.mj_forward(model, data)
    assert JointSpeed(1.0).read(model, data) == 7.0
    assert JointSpeed(1.0, joints=("slip",)).read(model, data) == 0.0  # metres are no radians
    assert Fall(1.0, body="ball").read(model, data) == pytest.approx(0.1)
    assert Tilt(1.0, body="ball").read(model, data) == pytest.approx(0.6)
    assert Zone(1.0, body="ball").read(model, data) == pytest.approx(0.5)
    assert Zone(1.0, body="ball", axis="y").read(model, data) == pytest.approx(0.4)
    assert Zone(1.0, body="ball", centre=(0.3, -0.6)).read(model, data) == pytest.approx(1.0)


def test_excess_is_zero_inside_and_grows_to_the_bad_side() -> None:
    assert excess(9.0, 10.0, "above") == 0.0
    assert excess(15.0, 10.0, "above") == 0.5
    assert excess(1.2, 1.0, "below") == 0.0
    assert excess(0.25, 1.0, "below") == 0.75
    assert excess(math.nan, 1.0, "above") == math.inf


@pytest.mark.parametrize("kind", [ContactForce, JointSpeed, Fall, Tilt, Zone])
def test_every_measure_names_unit_limit_and_side(kind) -> None:
    measure = kind(2.5)
    assert isinstance(measure, Measure)
    assert f"{measure.name} {measure.worse} 2.5 {measure.unit}" in describe_measures([measure])
    for limit in (0.0, -1.0, math.inf, math.nan, True, "1"):
        with pytest.raises(ConfigError, match=f"{kind.__name__}.limit"):
            kind(limit)


def play(env, steps=150):
    """Everything that a fixed sequence of actions leads to."""
    draw = np.random.default_rng(5)
    obs, _ = env.reset(seed=7)
    seen, costs = [obs], []
    for _ in range(steps):
        action = draw.uniform(env.action_space.low, env.action_space.high)
        obs, reward, ended, cut, info = env.step(action)
        seen.append((obs, reward, ended, cut))
        costs.append((info.get("cost"), info.get("measured")))
        if ended or cut:
            obs, _ = env.reset()
    return seen, costs


def same(a, b) -> bool:
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "measures"),
    [
        ("Walker2d-v5", (ContactForce(300.0), Fall(1.1), JointSpeed(20.0), Tilt(0.5))),
        ("dm_control/cheetah-run-v0", (ContactForce(100.0), JointSpeed(5.0), Zone(0.5))),
    ],
)
def test_watching_changes_nothing_and_the_cost_is_the_sum(name, measures) -> None:
    if name.startswith("dm_control"):
        pytest.importorskip("dm_control", reason='needs: pip install "bb_wm[robot]"')
        pytest.importorskip("shimmy", reason='needs: pip install "bb_wm[robot]"')
    alone, _ = play(gym.make(name, disable_env_checker=True))
    watched, costs = play(PhysicsRisk(gym.make(name, disable_env_checker=True), measures))
    assert same(alone, watched)
    for cost, measured in costs:
        parts = [excess(measured[m.name], m.limit, m.worse) for m in measures]
        assert cost == pytest.approx(sum(parts))
    assert 0 < np.mean([cost > 0 for cost, _ in costs]) < 1


def test_contact_forces_are_those_of_the_state_that_is_shown() -> None:
    """An independent reading: the very state, put into a simulator of its own and solved."""
    env = PhysicsRisk(gym.make("Ant-v5", disable_env_checker=True), [ContactForce(30.0)])
    env.reset(seed=1)
    largest = 0.0
    for _ in range(60):
        info = env.step(env.action_space.sample())[4]
        model, data = simulator(env)
        twin = mujoco.MjData(model)
        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, spec))
        mujoco.mj_getState(model, data, state, spec)
        mujoco.mj_setState(model, twin, state, spec)
        mujoco.mj_forward(model, twin)
        # pyramidal cones: a contact's normal force is the sum over its edges
        edges = [2 * (c.dim - 1) if c.dim > 1 else 1 for c in twin.contact[: twin.ncon]]
        total = [
            float(twin.efc_force[c.efc_address : c.efc_address + n].sum())
            for c, n in zip(twin.contact[: twin.ncon], edges, strict=True)
        ]
        assert info["measured"]["contact force"] == pytest.approx(max(total, default=0.0), rel=1e-6)
        largest = max(largest, *total, 0.0)
    assert largest > 1.0


def test_what_the_machine_has_not_is_named() -> None:
    env = gym.make("Reacher-v5", disable_env_checker=True)
    with pytest.raises(ConfigError, match="contact force"):
        PhysicsRisk(env, [ContactForce(1.0, bodies=("wing",))])
    with pytest.raises(ConfigError, match="torso"):
        PhysicsRisk(env, [Fall(1.0)])
    with pytest.raises(ConfigError, match="named apart"):
        PhysicsRisk(env, [JointSpeed(1.0), JointSpeed(2.0)])
    with pytest.raises(ConfigError, match="one or more"):
        PhysicsRisk(env, [])
    with pytest.raises(InputTypeError, match="MuJoCo"):
        PhysicsRisk(gym.make("CartPole-v1"), [JointSpeed(1.0)])


def test_a_catalogue_world_reports_its_physical_risk_to_collect() -> None:
    maker, world = make_world("Swimmer-v5")
    (episode,) = collect(maker, rows=150, seed=2, risk=world.risk)
    speed = np.abs(episode.obs["obs"][1:, 6:8]).max(1)  # Swimmer's two hinges, rad/s
    assert np.allclose(episode.safety[1:], np.maximum(speed / 3.5 - 1, 0), atol=1e-5)
    assert (episode.safety > 0).any()
