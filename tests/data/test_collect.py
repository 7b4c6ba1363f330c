"""Collecting: the rows of an environment and nothing else, whoever steps it."""

import os
import signal
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from bb_wm.data.collecting import CollectProgress, collect, collect_episodes
from bb_wm.data.recorder import Actor, Settings
from bb_wm.errors import ActionError, ConfigError, DataError
from bb_wm.types import ActionSpec, Episode, ObsSpec

spaces = gym.spaces


class CountWorld(gym.Env):
    """obs = (seed's number, row); every third row costs; reward = row; ends after `last` rows."""

    def __init__(self, last=7, fault=None, fault_row=4, dtype=np.float32) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.last, self.fault, self.fault_row = last, fault, fault_row
        self.row = self.name = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.name = 0, int(self.np_random.integers(1000))
        return np.array([self.name, 0.0]), {}

    def step(self, action):
        self.row += 1
        obs, reward = np.array([self.name, float(self.row)]), float(self.row)
        if self.row == self.fault_row and self.fault and self.name % 3 == 0:
            if self.fault == "raise":
                raise RuntimeError("motor lost")
            if self.fault == "nan":
                obs[1] = np.nan
            if self.fault == "hang":
                time.sleep(60)
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        # a whole number first and a fraction later, as real cost functions do
        cost = 0.5 if self.row % 3 == 0 else 0
        done = self.row == self.last
        return obs, reward, done and self.name % 2 == 0, done, {"cost": cost}


def assert_same(left: list[Episode], right: list[Episode]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.terminated, a.truncated) == (b.terminated, b.truncated)
        assert sorted(a.obs) == sorted(b.obs)
        pairs = [(a.obs[key], b.obs[key]) for key in a.obs]
        pairs += [(a.action, b.action), (a.reward, b.reward), (a.safety, b.safety)]
        assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def by_hand(env, *, seed: int, episodes: int) -> list[Episode]:
    """The same rows written down without any of the library's collecting."""
    settings = Settings(None, None, None, None, seed)
    settings = settings.complete(env.observation_space, env.action_space)
    spec = ActionSpec.of(env.action_space)
    found = []
    for index in range(episodes):
        actor = Actor(settings, index)
        obs, _ = env.reset(seed=actor.env_seed)
        seen, done, rewards, risks = [obs], [], [0.0], [0.0]
        ended = cut = False
        while not (ended or cut):
            flat = spec.sample(actor.generator, 1)[0]
            obs, reward, ended, cut, info = env.step(spec.unflatten(flat))
            seen.append(obs)
            done.append(flat)
            rewards.append(reward)
            risks.append(info.get("cost", 0.0))
        done.append(np.zeros(spec.size))
        found.append(
            Episode(
                {"obs": np.asarray(seen, np.float32)},
                np.asarray(done, np.float32),
                np.asarray(rewards, np.float32),
                np.asarray(risks, np.float32),
                ended,
                cut and not ended,
            )
        )
    return found


@pytest.mark.parametrize("world", ["CartPole-v1", "Pendulum-v1", "count"])
def test_rows_are_those_of_a_loop_written_by_hand(world) -> None:
    make = CountWorld if world == "count" else partial(gym.make, world)
    episodes = 2 if world == "Pendulum-v1" else 6
    expected = by_hand(make(), seed=5, episodes=episodes)
    assert_same(collect(make, episodes=episodes, seed=5), expected)
    assert_same(collect(make(), episodes=episodes, seed=5), expected)
    assert_same(collect(make, episodes=episodes, seed=5, workers=3), expected)


def test_another_seed_gives_other_rows_and_the_same_seed_the_same() -> None:
    first = collect(CountWorld, rows=50, seed=1)
    assert_same(first, collect(CountWorld, rows=50, seed=1))
    assert not np.array_equal(first[0].action, collect(CountWorld, rows=50, seed=2)[0].action)


def continued(makers, *, seed: int, steps: int) -> list[list[tuple[list[int], bool]]]:
    """For every slot, the episodes a lone environment gives that is only seeded once."""
    slots = []
    for slot, make in enumerate(makers):
        env = make()
        settings = Settings(None, None, None, None, seed).complete(
            env.observation_space, env.action_space
        )
        actor = Actor(settings, slot, stream=1)
        obs, _ = env.reset(seed=actor.env_seed)
        episodes, rows = [], [obs]
        for _ in range(steps):
            action = settings.action_spec.unflatten(
                settings.action_spec.sample(actor.generator, 1)[0]
            )
            obs, _, ended, cut, _ = env.step(action)
            rows.append(obs)
            if ended or cut:
                episodes.append((np.asarray(rows, np.float32), ended))
                obs, _ = env.reset()
                rows = [obs]
        slots.append(episodes)
    return slots


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_a_vector_env_gives_the_rows_of_lone_environments_in_every_mode(mode, kind) -> None:
    makers = [partial(gym.make, "CartPole-v1")] * 3
    vector = kind(makers, autoreset_mode=mode)
    try:
        found = collect(vector, episodes=12, seed=3)
    finally:
        vector.close()
    lone = continued(makers, seed=3, steps=400)
    # the order is by time of ending; every episode must be some lone environment's next one
    place = [0, 0, 0]
    for episode in found:
        slot = next(
            s
            for s in range(3)
            if np.array_equal(episode.obs["obs"], lone[s][place[s]][0])
            and episode.terminated == lone[s][place[s]][1]
        )
        place[slot] += 1
    assert sum(place) == 12


def test_the_fake_row_of_next_step_autoreset_becomes_no_row() -> None:
    vector = SyncVectorEnv(
        [partial(CountWorld, last=3), partial(CountWorld, last=5)],
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    risk = lambda obs, action, after, reward, ended, info: 0.0  # noqa: E731
    for episode in collect(vector, episodes=10, seed=0, risk=risk):
        assert episode.reward.tolist() == list(range(len(episode)))
        assert episode.obs["obs"][:, 1].tolist() == list(range(len(episode)))
        assert len(episode) in (4, 6)


def test_costs_that_gymnasium_would_round_are_refused_or_kept() -> None:
    vector = SyncVectorEnv([CountWorld, CountWorld], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(DataError, match="cost"):
        collect(vector, episodes=2)
    kept = collect(CountWorld, episodes=2, workers=2)
    assert kept[0].safety.tolist() == [0, 0, 0, 0.5, 0, 0, 0.5, 0]


def test_a_run_goes_on_where_it_stopped() -> None:
    whole = collect(CountWorld, rows=45, seed=9)
    source = collect_episodes(CountWorld, rows=45, seed=9)
    head = [next(source), next(source)]
    source.close()
    done = sum(map(len, head))
    rest = collect(CountWorld, rows=45 - done, seed=9, first_episode=2, workers=2)
    assert_same(head + rest, whole)


def test_the_rows_asked_for_are_the_rows_given() -> None:
    for rows in (2, 8, 20, 41):
        found = collect(CountWorld, rows=rows)
        assert sum(map(len, found)) in (rows, rows + 1)  # the last has at least two
        assert all(len(episode) >= 2 for episode in found)
        assert not found[-1].action[-1].any()
    cut = collect(CountWorld, rows=20)[-1]
    assert (len(cut), cut.terminated, cut.truncated) == (4, False, True)
    endless = partial(CountWorld, last=10**9)
    assert [len(e) for e in collect(endless, rows=30, workers=2)] == [30]
    assert [len(e) for e in collect(endless, rows=30, max_episode_rows=12)] == [12, 12, 6]


def test_a_policy_sees_what_it_acts_on() -> None:
    def policy(obs: np.ndarray) -> np.ndarray:
        return np.array([obs[1] / 10], np.float32)

    for workers in (1, 2):
        episode = collect(CountWorld, episodes=1, policy=policy, workers=workers)[0]
        assert np.allclose(episode.action[:-1, 0], np.arange(7) / 10)


def test_a_policy_with_memory_starts_anew_with_every_episode() -> None:
    class Ramp:
        def begin(self, generator: np.random.Generator):
            start, count = generator.uniform(0, 0.1), iter(range(100))
            return lambda obs: np.array([start + next(count) / 100], np.float32)

    found = collect(CountWorld, episodes=4, policy=Ramp(), workers=2, seed=1)
    assert_same(found, collect(CountWorld, episodes=4, policy=Ramp(), seed=1))
    starts = [float(episode.action[0, 0]) for episode in found]
    assert len(set(starts)) == 4
    assert all(np.allclose(np.diff(episode.action[:-1, 0]), 0.01) for episode in found)


def test_a_policy_out_of_the_action_space_is_named() -> None:
    with pytest.raises(ActionError, match=r"CountWorld, episode 0, row 1"):
        collect(CountWorld, episodes=1, policy=lambda obs: np.array([3.0]))


def test_a_risk_rule_reads_the_step_it_judges() -> None:
    def risk(obs, action, after, reward, terminated, info) -> float:
        assert after[1] == obs[1] + 1 == reward
        return float(after[1] + 100 * terminated + 1000 * info["cost"])

    for workers in (1, 2):
        for episode in collect(CountWorld, episodes=3, risk=risk, workers=workers):
            end = 100.0 * episode.terminated
            assert episode.safety.tolist() == [0, 1, 2, 503, 4, 5, 506, 7 + end]


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_a_risk_that_is_no_risk_is_refused(value) -> None:
    with pytest.raises(DataError, match=r"risk.*episode 0, row 1"):
        collect(CountWorld, episodes=1, risk=lambda *_: value)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("fault", "text"), [("nan", "nan"), ("raise", "motor lost")])
def test_a_broken_environment_ends_its_episode_with_its_name(fault, text, workers) -> None:
    make = partial(CountWorld, fault=fault)
    first_bad = next(
        i for i, e in enumerate(collect(CountWorld, episodes=30)) if e.obs["obs"][0, 0] % 3 == 0
    )
    kept: list[Episode] = []
    with pytest.raises(DataError, match=f"episode {first_bad}, row 4") as caught:
        kept.extend(collect_episodes(make, episodes=30, workers=workers))
    assert text in str(caught.value)
    assert_same(kept, collect(CountWorld, episodes=first_bad) if first_bad else [])


@pytest.mark.parametrize("workers", [1, 2])
def test_abandoned_episodes_keep_the_rows_before_the_fault(workers) -> None:
    told: list[CollectProgress] = []
    found = collect(
        partial(CountWorld, fault="nan"),
        episodes=12,
        seed=4,
        workers=workers,
        on_error="abandon",
        on_progress=told.append,
    )
    sound = collect(CountWorld, episodes=12, seed=4)
    for left, right in zip(found, sound, strict=True):
        if right.obs["obs"][0, 0] % 3:
            assert_same([left], [right])
        else:
            assert (len(left), left.terminated, left.truncated) == (4, False, False)
            assert np.array_equal(left.obs["obs"], right.obs["obs"][:4])
    abandoned = sum(len(e) == 4 for e in found)
    assert abandoned > 0
    assert told[-1].abandoned == abandoned
    assert told[-1].error is not None


def test_an_environment_that_always_breaks_stops_the_run() -> None:
    class Broken(CountWorld):
        def step(self, action):
            raise RuntimeError("no power")

    with pytest.raises(DataError, match="no power"):
        collect(Broken, episodes=5, on_error="abandon")


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_worker_that_hangs_or_dies_is_an_error_and_leaves_nothing_behind(fault) -> None:
    import multiprocessing

    make = partial(CountWorld, fault=fault)
    start = time.monotonic()
    with pytest.raises(DataError, match="worker"):
        collect(make, episodes=30, workers=2, timeout_s=1.0)
    assert time.monotonic() - start < 20
    assert multiprocessing.active_children() == []


def test_masks_of_info_are_kept_and_respected() -> None:
    for workers in (1, 2):
        for episode in collect(partial(gym.make, "Taxi-v4"), rows=300, seed=1, workers=workers):
            assert episode.action_mask is not None
            done = episode.action[:-1] > 0
            assert (done & ~episode.action_mask[:-1]).sum() == 0
            assert not episode.action_mask[:-1].all()


class MaskedObs(gym.Env):
    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {"x": spaces.Box(-9, 9, (1,)), "action_mask": spaces.MultiBinary(4)}
        )
        self.action_space = spaces.Discrete(4)
        self.row = 0

    def _see(self):
        mask = np.zeros(4, np.int8)
        mask[self.row % 4] = 1
        return {"x": np.array([self.row], np.float32), "action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row = 0
        return self._see(), {}

    def step(self, action):
        assert action == self.row % 4
        self.row += 1
        return self._see(), 0.0, False, self.row == 9, {}


@pytest.mark.parametrize("workers", [1, 2])
def test_masks_inside_the_observation_are_taken_out_of_it(workers) -> None:
    episode = collect(MaskedObs, episodes=1, action_mask="obs", workers=workers)[0]
    assert sorted(episode.obs) == ["x"]
    assert episode.action[:-1].argmax(1).tolist() == [t % 4 for t in range(9)]
    with pytest.raises(ConfigError, match="action_mask"):
        collect(CountWorld, episodes=1, action_mask="obs")


class Hybrid(gym.Env):
    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "a": spaces.Discrete(3),
                "b": spaces.Tuple([spaces.Box(0, 9, (2,)), spaces.MultiBinary(2)]),
            }
        )
        self.action_space = spaces.Dict(
            {
                "click": spaces.Discrete(3),
                "move": spaces.Tuple([spaces.Box(-1, 1, (2, 2)), spaces.MultiDiscrete([2, 4])]),
            }
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = action["click"] + 10 * float(action["move"][1][1])
        return self.observation_space.sample(), reward, False, True, {}


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_spaces_reach_the_environment_in_its_own_form(workers) -> None:
    found = collect(Hybrid, episodes=20, workers=workers)
    assert sorted(found[0].obs) == ["a", "b/0", "b/1"]
    for episode in found:
        click, tail = episode.action[0, :3].argmax(), episode.action[0, -4:].argmax()
        assert episode.reward[1] == click + 10 * tail
    assert {int(e.action[0, :3].argmax()) for e in found} == {0, 1, 2}


def test_specs_of_the_caller_are_used() -> None:
    found = collect(CountWorld, episodes=1, obs_spec=ObsSpec.of(2), action_spec=ActionSpec.of(1))
    assert np.abs(found[0].action).max() > 1e-6
    with pytest.raises(DataError, match="obs"):
        collect(CountWorld, episodes=1, obs_spec=ObsSpec.of(3))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": None}, "rows"),
        ({"rows": 1}, "rows"),
        ({"rows": True}, "rows"),
        ({"episodes": 0}, "episodes"),
        ({"workers": 0}, "workers"),
        ({"first_episode": -1}, "first_episode"),
        ({"max_episode_rows": 1}, "max_episode_rows"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"seed": -1}, "seed"),
        ({"policy": 3}, "policy"),
        ({"env_or_maker": 3}, "env_or_maker"),
        ({"env_or_maker": CountWorld(), "workers": 2}, "env_or_maker"),
    ],
)
def test_wrong_settings_are_named(change, field) -> None:
    settings = {"env_or_maker": CountWorld, "rows": 10, **change}
    with pytest.raises(ConfigError, match=field):
        collect(settings.pop("env_or_maker"), **settings)


def test_a_callers_environment_stays_open_and_a_makers_is_closed() -> None:
    closed = []

    class Closing(CountWorld):
        def close(self) -> None:
            closed.append(1)

    env = Closing()
    collect(env, rows=10)
    assert closed == []
    collect(Closing, rows=10)
    assert closed == [1]
    source = collect_episodes(Closing, rows=100)
    next(source)
    source.close()
    assert closed == [1, 1]
