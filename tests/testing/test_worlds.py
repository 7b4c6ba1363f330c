"""EchoWorld, LineWorld and HazardChain do what their docstrings say."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bb_wm.data.collecting import collect
from bb_wm.errors import ConfigError
from bb_wm.testing.worlds import EchoWorld, HazardChain, KalmanWorld, LineWorld
from bb_wm.worlds.catalogue import register_worlds


@pytest.mark.parametrize("name", ["EchoWorld", "LineWorld", "KalmanWorld", "HazardChain"])
def test_gymnasiums_own_checker_accepts_it(name) -> None:
    register_worlds()
    register_worlds()
    check_env(gym.make(f"bb_wm/{name}-v0").unwrapped, skip_render_check=True)


def test_the_next_observation_is_the_action() -> None:
    for episode in collect(EchoWorld, episodes=3):
        assert np.array_equal(episode.obs["obs"][1:], episode.action[:-1])
        assert not episode.obs["obs"][0].any()
        assert np.allclose(episode.reward[1:], episode.action[:-1].sum(1), atol=1e-6)
        assert np.array_equal(episode.safety[1:], np.maximum(episode.action[:-1, 0], 0))
        assert (len(episode), episode.truncated) == (50, True)


def test_line_rollouts_are_exact() -> None:
    episodes = collect(LineWorld, episodes=4, seed=2)
    obs = np.stack([e.obs["obs"] for e in episodes])
    done = np.stack([e.action for e in episodes])
    seen, reward, risk = LineWorld.exact_rollout(obs[:, 3], done[:, 3:-1])
    assert np.allclose(seen, obs[:, 4:], atol=1e-5)
    assert np.allclose(reward, np.stack([e.reward for e in episodes])[:, 4:], atol=1e-5)
    assert np.allclose(risk, np.stack([e.safety for e in episodes])[:, 4:], atol=1e-5)
    by_hand, _, _ = LineWorld.exact_rollout(np.array([1.0, 2.0]), np.array([[0.5], [-1.0]]))
    assert np.allclose(by_hand, [[1.4, 1.9], [1.78, 1.51]])


def test_the_hazards_rate_is_the_one_asked_for() -> None:
    for depth, rate in ((6, 0.005), (3, 0.02), (1, 0.1)):
        chain = HazardChain(depth=depth, rate=rate)
        assert np.isclose(chain.stationary()[-1], rate)
        for action in (0, 1):
            assert np.allclose(chain.transition(action).sum(1), 1.0)


def test_hazard_probabilities_by_walking_every_path() -> None:
    chain = HazardChain(depth=2, rate=0.1)

    def walk(stage: int, actions: tuple[int, ...]) -> float:
        """P(no event) by recursion over all paths."""
        if not actions:
            return 1.0
        law = chain.transition(actions[0])[stage]
        return float(sum(law[s] * walk(s, actions[1:]) for s in range(3)))

    for stage in (0, 1, 2):
        for actions in ((0, 0, 0), (1, 0, 1, 0), (1, 1, 1, 1, 1)):
            within = chain.event_within(stage, np.array(actions))
            assert np.isclose(within, 1.0 - walk(stage, actions))
    assert np.allclose(chain.event_probability(1, np.array([0, 0, 0])), [0, 1, 0])
    assert np.isclose(chain.event_probability(2, np.array([1]))[0], 0.5)


def test_hazards_happen_as_often_as_promised() -> None:
    chain = HazardChain(depth=3, rate=0.05)
    episodes = collect(chain, rows=20_000, seed=0)
    risk = np.concatenate([e.safety[1:] for e in episodes])
    # events are almost regular, so their count varies less than a Poisson one
    assert abs(risk.mean() - 0.05) < 4 * np.sqrt(0.05 / len(risk))
    assert all(e.obs["obs"][0, -1] == 0 for e in episodes)
    stage = np.concatenate([e.obs["obs"][:-1].argmax(1) for e in episodes])
    action = np.concatenate([e.action[:-1].argmax(1) for e in episodes])
    slow = (stage == 3) & (action == 1)
    assert abs(risk[slow].mean() - 0.5) < 4 * np.sqrt(0.25 / slow.sum())


def test_a_rate_that_cannot_be_is_refused() -> None:
    for rate in (0.0, 0.5, 1.5):
        with pytest.raises(ConfigError, match="rate"):
            HazardChain(rate=rate)


def test_worlds_repeat_from_their_seed() -> None:
    for world in (EchoWorld, LineWorld, KalmanWorld, HazardChain):
        left, right = (collect(world, rows=60, seed=4) for _ in range(2))
        assert all(
            np.array_equal(a.obs["obs"], b.obs["obs"]) for a, b in zip(left, right, strict=True)
        )
