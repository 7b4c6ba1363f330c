"""ToolDesk as a Gymnasium world: its contract, its chances, and its exact twin."""

from __future__ import annotations

import itertools
import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bb_wm.errors import ActionError, ConfigError
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.types import ActionSpec, ObsSpec
from bb_wm.worlds import tooldesk
from bb_wm.worlds.tooldesk import HAND_OFF, ToolDesk, sample_desks


@pytest.mark.parametrize("observation", ["dict", "vector"])
@pytest.mark.filterwarnings("ignore:.*not within the observation space.*")
def test_gymnasium_accepts_it(observation: str) -> None:
    check_env(ToolDesk(observation=observation), skip_render_check=True)  # type: ignore[arg-type]


def test_spaces_are_ones_the_model_takes() -> None:
    env = ToolDesk()
    spec = ObsSpec.of(env.observation_space)
    assert {e.key: e.classes for e in spec.entries}["named"] == (5,) * 8
    assert ActionSpec.of(env.action_space).size == 8
    assert tooldesk.VECTOR_SIZE == 22 + 5 + 3 + 4 + 40 + 2 + 2 + 4


def test_vector_and_dict_show_the_same() -> None:
    plain, vector = ToolDesk(), ToolDesk(observation="vector")
    seen, _ = plain.reset(seed=5)
    shown, _ = vector.reset(seed=5)
    for action in (0, 1, 2, 0, 3):
        assert np.array_equal(tooldesk.as_vector(seen), shown)
        seen, *_ = plain.step(action)
        shown, *_ = vector.step(action)


@pytest.mark.parametrize("cue", range(4))
def test_belief_is_the_twins_posterior(cue: int) -> None:
    for clarity, counts in itertools.product(range(3), itertools.product(range(2), repeat=8)):
        pairs = tuple((counts[k], counts[4 + k]) for k in range(4))
        mine = tooldesk.belief(clarity, cue, np.asarray(counts))
        assert mine == pytest.approx(exact.posterior(clarity, cue, pairs), abs=1e-14)


def test_costs_rewards_and_ends_by_hand() -> None:
    env = ToolDesk()
    env.reset(seed=0, options={"stake": 1, "price": 1, "clarity": 2})
    total = [env.step(tool)[1] for tool in (0, 1, 2)]
    assert total == pytest.approx([-0.15, -0.60, -0.06])
    obs, _, ended, _, info = env.step(2)
    assert obs["calls_left"] == 0
    assert not ended
    assert info["action_mask"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    right = env._intent
    obs, reward, ended, cut, info = env.step(3 + right)
    assert (reward, ended, cut, info["safety"]) == (3.0, True, False, 0.0)
    env.reset(seed=0, options={"stake": 1})
    _, reward, ended, _, info = env.step(3 + (env._intent + 1) % 4)
    assert (reward, ended, info["safety"]) == (-6.0, True, 1.0)
    env.reset(seed=0)
    assert env.step(HAND_OFF)[1:3] == (0.0, True)


def test_a_fifth_call_hands_the_request_off() -> None:
    env = ToolDesk()
    env.reset(seed=1)
    for _ in range(4):
        env.step(0)
    obs, reward, ended, _, _ = env.step(1)
    assert (reward, ended, int(obs["calls_left"])) == (0.0, True, 0)


def test_expected_reward_is_the_belief_of_the_commit() -> None:
    env = ToolDesk(expected_reward=True)
    _, info = env.reset(seed=3, options={"stake": 0})
    _, reward, _, _, last = env.step(4)
    assert reward == pytest.approx(3 * info["belief"][1] - 2)
    assert last["safety"] == pytest.approx(1 - info["belief"][1])


@pytest.mark.parametrize("action", [8, -1, 1.5, "A"])
def test_actions_outside_the_space_are_refused(action: object) -> None:
    env = ToolDesk()
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(action)


def test_options_and_forms_outside_the_table_are_refused() -> None:
    with pytest.raises(ConfigError):
        ToolDesk(observation="words")  # type: ignore[arg-type]
    for options in ({"stake": 2}, {"cue": 1}):
        with pytest.raises(ConfigError):
            ToolDesk().reset(options=options)


def _optimal_action(lookahead: exact.Lookahead, obs: dict[str, np.ndarray]) -> int:
    """The twin's optimal decision, from what the world shows."""
    pairs = [(int(obs["named"][k]), int(obs["named"][4 + k])) for k in range(4)]
    cue = pairs.pop(int(obs["cue"]))
    desk = exact.Desk(int(obs["clarity"]), (1.0, 3.0)[obs["stake"]], (1.0, 3.0)[obs["price"]])
    known = exact.Knowledge(desk, (cue, *sorted(pairs)), int(obs["calls_left"]))
    tool = lookahead(known) if known.calls_left else None
    if tool is not None:
        return exact.TOOLS.index(tool)
    true = tooldesk.belief(desk.clarity, int(obs["cue"]), obs["named"])
    return 3 + int(np.argmax(true)) if known.stop > 0 else HAND_OFF


def test_playing_the_optimum_earns_j_star() -> None:
    env: gymnasium.Env = ToolDesk(expected_reward=True)  # type: ignore[type-arg]
    lookahead, returns = exact.Lookahead(), []
    env.reset(seed=11)
    for _ in range(4000):
        obs, _ = env.reset()
        total, ended = 0.0, False
        while not ended:
            obs, reward, ended, _, _ = env.step(_optimal_action(lookahead, obs))
            total += reward
        returns.append(total)
    error = np.std(returns) / math.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(1.426915, abs=4 * error)
    assert error < 0.025


def test_many_episodes_follow_the_same_chances() -> None:
    """Answers against the predictive of the true belief, commits against the belief: 4.5 sigma."""
    desks = sample_desks(200_000, np.random.default_rng(2))
    rows = np.flatnonzero((desks.length >= 4) & (desks.action[:, 1] < 2))
    keys = np.stack(
        [desks.obs["clarity"][rows, 1], desks.obs["cue"][rows, 1], desks.action[rows, 1]], axis=1
    )
    named = desks.obs["named"][rows, 1]
    checked = 0
    states, member = np.unique(np.concatenate([keys, named], axis=1), axis=0, return_inverse=True)
    for index, state in enumerate(states):
        mine = rows[member.ravel() == index]
        if mine.size < 300:
            continue
        clarity, cue, tool = (int(x) for x in state[:3])
        true = tooldesk.belief(clarity, cue, state[3:])
        silence = tooldesk.SILENCE[tool]
        likely = [silence] + [
            (1 - silence) * float(true @ tooldesk.likelihood(tool, j)) for j in range(4)
        ]
        seen = np.bincount(desks.obs["answer"][mine, 2], minlength=6)[1:6] / mine.size
        spread = np.sqrt(np.asarray(likely) * (1 - np.asarray(likely)) / mine.size)
        assert np.all(np.abs(seen - likely) <= 4.5 * spread)
        checked += 1
    assert checked >= 40


def test_random_commits_earn_their_expectation() -> None:
    """Any fixed commit is right one time in four: -s (2 - 3/4), a hand-off nothing."""
    desks = sample_desks(100_000, np.random.default_rng(3))
    last = desks.length - 2
    action = desks.action[np.arange(len(desks)), last]
    reward = desks.reward[np.arange(len(desks)), last + 1]
    stake = np.asarray((1.0, 3.0))[desks.obs["stake"][:, 0]]
    commits = action != HAND_OFF
    ratio = reward[commits] / stake[commits]
    assert set(np.unique(ratio)) == {-2.0, 1.0}
    assert ratio.mean() == pytest.approx(-1.25, abs=4.5 * 1.3 / math.sqrt(commits.sum()))
    assert not reward[~commits].any()
    assert np.array_equal(desks.safety[np.arange(len(desks)), last + 1], (reward < 0) * 1.0)


def test_rows_tell_one_story() -> None:
    """Counts, costs, calls left and the row convention agree with each other in every row."""
    desks = sample_desks(5000, np.random.default_rng(4))
    for i in range(500):
        named = np.zeros(8, int)
        for t in range(int(desks.length[i]) - 2):
            tool = int(desks.action[i, t])
            answer = int(desks.obs["answer"][i, t + 1])
            assert desks.obs["tool"][i, t + 1] == tool + 1
            if 2 <= answer < 6:
                named[4 * tool + answer - 2] += 1
            assert (answer >= 6) == (tool == 2)
            assert np.array_equal(desks.obs["named"][i, t + 1], named)
            assert desks.obs["calls_left"][i, t + 1] == 3 - t
            cost = exact.Desk(0, 1.0, (1.0, 3.0)[desks.obs["price"][i, 0]]).cost("ABC"[tool])
            assert desks.reward[i, t + 1] == pytest.approx(-cost)
        end = int(desks.length[i])
        assert desks.action[i, end - 2] >= 3
        assert (desks.action[i, end - 1 :] == -1).all()


def test_episodes_carry_masks_and_idle_last_rows() -> None:
    desks = sample_desks(300, np.random.default_rng(5))
    episodes = desks.episodes()
    lengths = {len(episode) for episode in episodes}
    assert lengths == {2, 3, 4, 5, 6}
    for episode in episodes:
        assert not episode.action[-1].any()
        assert (episode.action[:-1].sum(-1) == 1).all()
        assert episode.action_mask is not None
        assert not (episode.action.astype(bool) & ~episode.action_mask).any()
        assert episode.obs["named"].shape == (len(episode), 8)
        assert episode.obs["cue"].shape == (len(episode), 1)
        assert episode.terminated
        assert not episode.truncated
