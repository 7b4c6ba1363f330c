"""Whole episodes under planners: the oracle arms, and what a limit on risk costs and saves."""

import gymnasium
import numpy as np
import pytest
import torch

from bb_wm.data import collect
from bb_wm.decide.control import PlanningPolicy, play
from bb_wm.decide.planners import CEM, MPPI
from bb_wm.errors import ConfigError
from bb_wm.imagine.risk import CVaR
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.testing.classic_control import CartPoleOracle, PendulumOracle
from bb_wm.testing.point_hazard import PointHazardEnv, PointHazardOracle
from bb_wm.types import ActionSpec


def test_pendulum_swings_up_with_the_known_equations():
    model = PendulumOracle()
    planner = CEM(horizon=15, candidates=96, elites=12, rounds=2, colour=1.0, samples=0)
    envs = [gymnasium.make("Pendulum-v1") for _ in range(2)]
    played = play(envs, model, model.encode, planner, Utility(), seed=0)
    assert played.rows == (200,) * 2
    assert np.mean(played.returns) >= -200


@pytest.mark.slow
def test_cart_pole_stands_with_the_known_equations():
    model = CartPoleOracle()
    planner = MPPI(horizon=50, candidates=64, rounds=2, samples=0)
    envs = [gymnasium.make("CartPole-v1") for _ in range(5)]
    assert np.mean(play(envs, model, model.encode, planner, Utility()).returns) >= 475


def hazard(utility, steps, episodes):
    model = PointHazardOracle()
    planner = CEM(horizon=12, candidates=64, elites=8, rounds=2, samples=4, colour=1.0)
    envs = [PointHazardEnv(steps=steps) for _ in range(episodes)]
    return play(envs, model, model.encode, planner, utility, seed=1)


@pytest.mark.parametrize(
    ("steps", "episodes"), [(45, 3), pytest.param(240, 8, marks=pytest.mark.slow)]
)
def test_a_limit_saves_nearly_all_risk_at_little_return(steps, episodes):
    free = hazard(Utility(), steps, episodes)
    limited = hazard(Utility(limit=Limit(0.0), risk=CVaR(0.2)), steps, episodes)
    assert sum(free.risks) >= episodes * 3  # it does go through the hazards
    assert sum(limited.risks) <= 0.05 * sum(free.risks)
    assert sum(limited.returns) >= 0.85 * sum(free.returns)


def test_an_episode_ends_where_there_is_no_action():
    class Blinded(PendulumOracle):
        """Its reward head breaks after 20 calls."""

        calls = 0

        def predict_reward(self, latent):
            Blinded.calls += 1
            good = PendulumOracle.predict_reward(self, latent)
            return good if Blinded.calls <= 20 else good * torch.nan

    model = Blinded()
    planner = CEM(horizon=8, candidates=16, elites=4, rounds=1, samples=0)
    envs = [gymnasium.make("Pendulum-v1") for _ in range(3)]
    played = play(envs, model, model.encode, planner, Utility())
    assert played.rows == (10, 10, 10)  # two calls a plan: the round, and the last centre
    abstaining = play(envs, PendulumOracle(), model.encode, planner, Utility(abstain=0.0))
    assert abstaining.rows == (0, 0, 0)
    with pytest.raises(ConfigError, match="envs"):
        play([], model, model.encode, planner, Utility())


def planning(**settings):
    model = PendulumOracle()
    env = gymnasium.make("Pendulum-v1", max_episode_steps=25)
    planner = CEM(horizon=10, candidates=32, elites=6, rounds=2, colour=1.0, samples=0)
    spec = ActionSpec.of(env.action_space)
    return env, PlanningPolicy(model, model.encode, planner, spec, **settings)


def rewards(env, policy, **settings):
    return [float(e.reward.sum()) for e in collect(env, policy=policy, **settings)]


def test_a_planner_collects_better_rows_than_chance_and_the_same_ones_again():
    env, policy = planning()
    planned = rewards(env, policy, seed=2, episodes=2)
    assert sum(planned) > sum(rewards(env, None, seed=2, episodes=2)) + 20
    assert rewards(env, policy, seed=2, episodes=1, first_episode=1) == planned[1:]


def test_a_planner_that_is_not_ready_acts_at_random():
    env, policy = planning(ready=lambda: False)
    waiting = collect(env, episodes=2, policy=policy, seed=2)
    env, policy = planning(explore=1.0)
    exploring = collect(env, episodes=2, policy=policy, seed=2)
    for episode in (*waiting, *exploring):
        assert np.abs(np.diff(episode.action[:-1, 0])).mean() > 0.5  # white noise in [-2, 2]
    with pytest.raises(ConfigError, match="explore"):
        planning(explore=2.0)
