"""Whether a recording holds what a gate will do."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from bb_wm.cli import main
from bb_wm.data import EpisodeStore
from bb_wm.data.collecting import collect
from bb_wm.errors import ActionError
from bb_wm.types import ActionSpec, ObsSpec
from bb_wm.worlds.catalogue import make_world
from bb_wm.worlds.falling_back import check_fallback

SPEC = ActionSpec.of(gym.spaces.Box(-1.0, 1.0, (1,), np.float32))


class Stretches:
    """`own` rows of anything, then `safe` rows of the fallback, again and again."""

    def __init__(self, own: int, safe: int) -> None:
        self.own, self.safe = own, safe

    def begin(self, generator: np.random.Generator):
        row = -1

        def act(obs):
            nonlocal row
            row += 1
            if row % (self.own + self.safe) < self.own:
                return generator.uniform(0.1, 1.0, 1).astype(np.float32)
            return np.zeros(1, np.float32)

        return act


def recorded(own: int, safe: int, episodes: int = 12):
    maker, world = make_world("LineWorld")
    return collect(
        maker,
        episodes=episodes,
        policy=Stretches(own, safe),
        seed=0,
        risk=world.risk,
        max_episode_rows=50,
    )


@pytest.mark.parametrize(
    ("own", "safe", "words"),
    [
        (5, 0, "in none of 588 rows"),
        (16, 4, "in 96 of 588 rows, 0 times for 10 rows or more"),
        (10, 10, ""),  # 12 episodes x 2 stretches of ten
        (30, 10, "in 120 of 588 rows, 12 times for 10 rows or more"),  # 20 are wanted
    ],
)
def test_what_is_missing_by_hand(own: int, safe: int, words: str) -> None:
    found = check_fallback(recorded(own, safe), SPEC, [0.0])
    assert [f.grade for f in found] == (["fix"] if words else [])
    assert all(words in f.what for f in found)
    looking = check_fallback(recorded(own, safe), SPEC, lambda obs: np.zeros(1))
    assert looking == found
    nearer = check_fallback(recorded(own, safe), SPEC, [0.0], ahead=4)
    assert bool(nearer) == (safe == 0 or own == 30)


def test_a_fallback_that_looks_is_compared_row_by_row() -> None:
    episodes = recorded(5, 0)
    actions = {
        episode.obs[key][t].tobytes(): episode.action[t]
        for episode in episodes
        for key in episode.obs
        for t in range(len(episode) - 1)
    }
    (finding,) = check_fallback(episodes, SPEC, lambda obs: actions[obs.tobytes()], ahead=40)
    assert "in 588 of 588 rows, 12 times for 40 rows" in finding.what


def test_what_is_no_action_is_refused() -> None:
    for wrong in ([0.0, 0.0], [2.0], [np.nan]):
        with pytest.raises(ActionError):
            check_fallback(recorded(5, 5, 2), SPEC, wrong)


def test_the_command_says_so(tmp_path, capsys) -> None:
    episodes = recorded(16, 4)
    maker, _ = make_world("LineWorld")
    env = maker()
    specs = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
    with EpisodeStore(tmp_path / "rec", *specs) as store:
        store.append(episodes)
    assert main(["check", str(tmp_path / "rec"), "--fallback", "0"]) == 0
    told = capsys.readouterr().out
    assert "To fix: fallback: in 96 of 588 rows" in told
    assert main(["check", str(tmp_path / "rec")]) == 0
    assert "fallback" not in capsys.readouterr().out
    assert main(["check", str(tmp_path / "rec"), "--fallback", "0", "0"]) != 0
