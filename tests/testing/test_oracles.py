"""The worlds with known equations equal what they claim to be, number by number."""

import gymnasium
import numpy as np
import pytest
import torch

from bb_wm.testing.classic_control import CartPoleOracle, PendulumOracle
from bb_wm.testing.point_hazard import PointHazardEnv, PointHazardLayout, PointHazardOracle
from bb_wm.testing.tabular import quantile, tiger


def test_the_cart_pole_oracle_is_gymnasiums():
    oracle, env = CartPoleOracle(), gymnasium.make("CartPole-v1").unwrapped
    rng, ended = np.random.default_rng(0), 0
    for episode in range(5):
        env.reset(seed=episode)
        latent = oracle.encode(np.asarray(env.state, np.float64))
        for _ in range(100):
            choice = int(rng.integers(2))
            _, reward, terminated, _, _ = env.step(choice)
            action = torch.nn.functional.one_hot(torch.tensor(choice), 2).double()
            latent = oracle.step(latent, action)
            assert latent.h.tolist() == pytest.approx(list(env.state), abs=1e-9)
            assert oracle.predict_reward(latent).item() == reward == 1.0
            assert oracle.predict_continue(latent).item() == float(not terminated)
            if terminated:
                ended += 1
                break
    assert ended == 5


def test_the_pendulum_oracle_is_gymnasiums():
    oracle, env = PendulumOracle(), gymnasium.make("Pendulum-v1").unwrapped
    rng = np.random.default_rng(0)
    for episode in range(3):
        obs, _ = env.reset(seed=episode)
        latent = oracle.encode(obs.astype(np.float64))
        assert latent.h.tolist() == pytest.approx(list(env.state), abs=1e-6)
        latent = oracle.encode(np.array([np.cos(env.state[0]), np.sin(env.state[0]), env.state[1]]))
        for _ in range(100):
            torque = rng.uniform(-2.5, 2.5, 1)
            _, reward, _, _, _ = env.step(torque)
            latent = oracle.step(latent, torch.tensor(torque))
            assert np.cos(latent.h[0].item()) == pytest.approx(np.cos(env.state[0]), abs=1e-8)
            assert latent.h[1].item() == pytest.approx(env.state[1], abs=1e-8)
            assert oracle.predict_reward(latent).item() == pytest.approx(reward, abs=1e-7)


def test_the_point_hazard_oracle_is_its_world_with_the_same_noise():
    env, oracle = PointHazardEnv(steps=300), PointHazardOracle()
    env.reset(seed=3)
    latent = oracle.encode(np.concatenate([env.position, env.velocity, env.layout.goals[env.goal]]))
    luck = np.random.Generator(type(env.np_random.bit_generator)())
    luck.bit_generator.state = env.np_random.bit_generator.state
    goals, cost, met = set(), 0.0, 0
    for _ in range(300):
        # Straight to the goal, so that hazards and changes of goal are met.
        push = np.clip(8 * (np.asarray(env.layout.goals[env.goal]) - env.position), -1, 1)
        noise = torch.tensor(luck.standard_normal(2))
        obs, reward, terminated, _, info = env.step(push)
        latent = oracle.step(latent, torch.tensor(push), noise)
        assert latent.h.tolist() == pytest.approx(obs.tolist(), abs=1e-6)
        assert oracle.predict_reward(latent).item() == pytest.approx(reward, abs=1e-9)
        assert oracle.predict_safety(latent).item() == info["cost"]
        assert not terminated
        goals.add(env.goal)
        cost += info["cost"]
        met += info["cost"] > 0
    assert goals == {0, 1, 2, 3}
    assert 20 < met < 200


def test_point_hazard_is_a_sound_gymnasium_world():
    from gymnasium.utils.env_checker import check_env

    check_env(PointHazardEnv(), skip_render_check=True)
    layout = PointHazardLayout()
    for x, y in layout.goals:  # no goal inside a hazard, all inside the square
        gaps = [np.hypot(x - hx, y - hy) - r for hx, hy, r in layout.hazards]
        assert min(gaps) > layout.goal_radius


def test_tabular_draws_follow_the_tables():
    model = tiger(0.85)
    count = 20_000
    noise = torch.randn(2, count, 1, generator=torch.Generator().manual_seed(0))
    listen = torch.tensor([1.0, 0.0, 0.0]).double().expand(count, 3)
    latent = model.step(model.latent(torch.zeros(count)), listen, noise[0])
    assert (latent.h[:, 0] == 1).all()
    assert (model.predict_reward(latent) == -1).all()
    heard = model.imagine_obs(latent, noise[1])["obs"][:, 0]
    assert (heard == 0).double().mean().item() == pytest.approx(0.85, abs=0.01)
    assert model.log_likelihood(latent, {"obs": heard[:, None]})[heard == 1][
        0
    ].exp() == pytest.approx(0.15)
    opened = model.step(latent, listen.roll(1, -1), noise[0])
    assert (model.predict_reward(opened) == -100).all()
    assert opened.h[:, 0].mean().item() == pytest.approx(0.5, abs=0.015)
    assert model.imagine_obs(latent[0])["obs"].item() == 0


def test_quantiles_never_pick_the_impossible():
    chance = torch.tensor([0.0, 0.4, 0.6, 0.0]).double().expand(3, 4)
    extremes = torch.tensor([-50.0, 0.0, 50.0])
    assert quantile(chance, extremes).tolist() == [1, 2, 2]
