"""The checker finds each fault in an environment that has it, and nothing in one that has none."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from bb_wm.types import Episode
from bb_wm.worlds.catalogue import make_world
from bb_wm.worlds.checker import check_environment, check_episodes, count_events, verdict


class Plant(gym.Env):
    """A sound little plant; `fault` names what is wrong with it."""

    def __init__(self, fault="") -> None:
        self.fault = fault
        bound = np.inf if fault == "unbounded" else 1.0
        self.observation_space = gym.spaces.Box(-5.0, 5.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(-bound, bound, (1,), np.float32)
        if fault == "text":
            self.observation_space = gym.spaces.Text(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        draw = np.random.default_rng() if self.fault == "chance" else self.np_random
        self.x = np.zeros(2) if self.fault == "one start" else draw.uniform(-1, 1, 2)
        self.row = 0
        return self.see(), {}

    def see(self):
        seen = self.x.astype(np.float32)
        if self.fault == "outside":
            seen = seen + 10
        if self.fault == "float64":
            return self.x.copy()
        if self.fault == "nan" and self.row == 7:
            seen[0] = np.nan
        return seen

    def step(self, action):
        if self.fault == "crash" and self.row == 3:
            raise RuntimeError("valve stuck")
        self.row += 1
        self.x = np.clip(0.9 * self.x + np.asarray(action, np.float64), -5, 5)
        cost = max(float(abs(self.x[0])) - 1.5, 0.0)
        info = {"cost": {"negative": -1.0, "nan cost": np.nan}.get(self.fault, cost)}
        if self.fault == "no cost":
            info = {}
        reward = np.inf if self.fault == "reward" else -abs(float(self.x[1]))
        over = int(self.row >= 20) if self.fault == "int flags" else self.row >= 20
        return self.see(), reward, False, over, info


FAULTS = {
    "text": ("stop", "environment"),
    "crash": ("stop", "environment"),
    "nan": ("stop", "observation"),
    "reward": ("stop", "reward"),
    "negative": ("stop", "risk"),
    "nan cost": ("stop", "risk"),
    "int flags": ("stop", "episode end"),
    "outside": ("fix", "observation space"),
    "float64": ("fix", "observation space"),
    "unbounded": ("fix", "action space"),
    "chance": ("fix", "seed"),
    "no cost": ("fix", "risk"),
    "one start": ("note", "seed"),
}


def test_a_sound_environment_has_no_findings() -> None:
    assert check_environment(Plant) == []
    maker, world = make_world("CartPole-v1")
    found = check_environment(maker, risk=world.risk)
    assert verdict(found) == "usable"


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_graded_and_told_how_to_mend(fault) -> None:
    found = check_environment(partial(Plant, fault))
    grades = {(finding.grade, finding.topic) for finding in found}
    assert FAULTS[fault] in grades
    wrong = [f for f in found if (f.grade, f.topic) == FAULTS[fault]]
    assert FAULTS[fault][0] == "note" or wrong[0].fix
    if FAULTS[fault][0] == "stop":
        assert verdict(found) == "not usable"
    elif FAULTS[fault][0] == "fix":
        assert verdict(found).startswith("usable, with 1 thing")


def test_a_crash_is_quoted() -> None:
    assert "valve stuck" in check_environment(partial(Plant, "crash"))[0].what


def episode(risk, *, terminated=False, truncated=True) -> Episode:
    rows = len(risk)
    return Episode(
        obs={"obs": np.zeros((rows, 1), np.float32)},
        action=np.zeros((rows, 1), np.float32),
        reward=np.zeros(rows, np.float32),
        safety=np.asarray(risk, np.float32),
        terminated=terminated,
        truncated=truncated,
    )


def test_events_are_onsets_by_hand() -> None:
    events = count_events([episode([0, 0, 1, 2, 0, 1]), episode([0, 0, 0])])
    assert (events.onsets, events.episodes, events.of) == (2, 1, 2)
    assert (events.rows, events.risky) == (7, 3)
    none = count_events([episode([0.0] * 301)])
    assert none.rate == (0.0, 0.01)  # the rule of three


def topics(episodes) -> list[tuple[str, str]]:
    return [(finding.grade, finding.topic) for finding in check_episodes(episodes)]


def test_a_time_limit_told_as_the_end_of_the_world_is_found() -> None:
    often = [0, 1] * 10
    limit = [episode(often, terminated=True, truncated=False) for _ in range(5)]
    assert topics(limit) == [("fix", "episode end")]
    mixed = [*limit[:4], episode(often[:12], terminated=True, truncated=False)]
    assert topics(mixed) == []
    assert topics([episode(often) for _ in range(5)]) == []


def test_an_endless_episode_is_found() -> None:
    assert ("fix", "episode end") in topics([episode([0, 1] * 30)])


def test_rare_never_and_always_are_told_apart() -> None:
    (never,) = check_episodes([episode([0.0] * 101), episode([0.0] * 51)])
    assert "1 in 50" in never.what
    (rare,) = check_episodes([episode([0.0] * 50 + [1.0]), episode([0.0] * 51)])
    assert "1 in 100 rows" in rare.what
    assert "about 1900 rows more" in rare.fix
    (always,) = check_episodes([episode([0.0] + [1.0] * 40), episode([0.0] + [1.0] * 30)])
    assert always.topic == "risk"
    assert "100%" in always.what
    often = [episode([0.0, 0.0, 1.0], terminated=True, truncated=False) for _ in range(30)]
    often.append(episode([0.0] * 9 + [1.0], terminated=True, truncated=False))
    (ends,) = check_episodes(often)
    assert ends.grade == "note"
    assert verdict([ends]) == "usable"
    assert verdict([never, rare]) == "usable, with 2 things to fix"
