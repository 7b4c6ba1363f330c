"""The probe finds a shift of one row on worlds, and says nothing where nothing can be said."""

from dataclasses import replace

import numpy as np
import pytest

from bb_wm.data.alignment import SHIFTS, paired_z, probe_alignment
from bb_wm.data.collecting import collect
from bb_wm.data.ridge import RIDGES, held_out_errors, standardised
from bb_wm.errors import AlignmentError, ConfigError
from bb_wm.testing.worlds import EchoWorld, KalmanWorld, LineWorld
from bb_wm.types import Episode
from bb_wm.worlds.catalogue import make_world


def shifted(episodes: list[Episode], late: int) -> list[Episode]:
    """Actions stored `late` rows too late (+1) or too early (-1), as broken loggers do."""
    found = []
    for episode in episodes:
        action = np.zeros_like(episode.action)
        if late == 1:
            action[1:] = episode.action[:-1]
        elif late == -1:
            action[:-1] = episode.action[1:]
        else:
            action[:] = episode.action
        action[-1] = 0
        found.append(replace(episode, action=action))
    return found


def judge(episodes: list[Episode], rows: int = 1500) -> list[tuple[str, int]]:
    reports = [probe_alignment(shifted(episodes, late), rows=rows) for late in (0, 1, -1)]
    return [(report.verdict, report.best_shift) for report in reports]


RIGHT = [("aligned", 0), ("shifted", 1), ("shifted", -1)]


@pytest.mark.parametrize("world", [EchoWorld, LineWorld, KalmanWorld])
def test_exact_worlds(world) -> None:
    assert judge(collect(world, rows=1500, seed=1)) == RIGHT


def test_echo_is_explained_by_its_own_action_and_by_nothing_else() -> None:
    report = probe_alignment(collect(EchoWorld, rows=2000))
    assert report.losses[0] < 1e-4
    assert min(report.losses[-1], report.losses[1]) > 0.95


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "Acrobot-v1", "Hopper-v5"])
def test_real_worlds_under_random_actions(name) -> None:
    assert judge(collect(make_world(name)[0], rows=1800, seed=0)) == RIGHT


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name",
    ["Reacher-v5", "HalfCheetah-v5", "InvertedPendulum-v5", "MountainCarContinuous-v0"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_more_real_worlds(name, seed) -> None:
    assert judge(collect(make_world(name)[0], rows=6000, seed=seed), rows=5000) == RIGHT


class Smooth:
    """Random actions that hardly change from row to row."""

    def begin(self, generator):
        state = np.zeros(1)

        def act(obs):
            nonlocal state
            state = 0.95 * state + 0.3 * generator.standard_normal(1)
            return np.clip(state, -2, 2).astype(np.float32)

        return act


def test_smooth_actions_in_a_smooth_world() -> None:
    episodes = collect(make_world("Pendulum-v1")[0], rows=1800, policy=Smooth())
    assert judge(episodes) == RIGHT


def test_feedback_with_a_share_of_chance() -> None:
    class Balance:
        def begin(self, generator):
            return lambda obs: int(obs[2] + obs[3] + 0.3 * generator.standard_normal() > 0)

    episodes = collect(make_world("CartPole-v1")[0], rows=2500, policy=Balance())
    assert judge(episodes) == RIGHT


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_feedback_without_chance_never_refuses_good_rows(seed) -> None:
    """action[t+1] follows from obs[t+1], so it tells of it better than its cause, action[t]."""
    K = np.array([[-0.5, 0.2], [0.1, -0.6]])
    policy = lambda obs: np.clip(K @ obs, -1, 1).astype(np.float32)  # noqa: E731
    report = probe_alignment(collect(KalmanWorld, rows=2500, seed=seed, policy=policy), rows=2000)
    assert report.losses[1] < report.losses[0] - 0.2  # the trap is there
    assert report.verdict == "inconclusive"
    assert report.raise_if_shifted() is report


def drift(seed: int, count: int, rows: int, *, smooth: bool) -> list[Episode]:
    """Worlds in which nothing that is done matters."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        noise = draw.standard_normal((rows, 3))
        obs = noise.cumsum(0) if smooth else noise
        action = draw.uniform(-1, 1, (rows, 2))
        action[-1] = 0
        zero = np.zeros(rows, np.float32)
        found.append(
            Episode(
                {"obs": obs.astype(np.float32)}, action.astype(np.float32), zero, zero, False, True
            )
        )
    return found


@pytest.mark.parametrize("smooth", [False, True])
def test_actions_that_do_not_matter_are_no_reason_to_refuse(smooth) -> None:
    for seed in range(5):
        episodes = drift(seed, 12, 40, smooth=smooth)
        assert probe_alignment(episodes, seed=seed).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("episodes", "reason"),
    [
        ([], "too few"),
        (drift(0, 3, 50, smooth=True), "too few"),
        (drift(0, 200, 4, smooth=True), "too few"),
        (
            [replace(e, action=np.zeros_like(e.action)) for e in drift(0, 20, 40, smooth=True)],
            "never",
        ),
        (
            [
                replace(e, obs={"obs": np.ones_like(e.obs["obs"])})
                for e in drift(0, 20, 40, smooth=True)
            ],
            "changes",
        ),
    ],
)
def test_what_cannot_be_judged_is_inconclusive_with_its_reason(episodes, reason) -> None:
    report = probe_alignment(episodes)
    assert (report.verdict, report.best_shift) == ("inconclusive", 0)
    assert reason in report.reason


def test_one_long_episode_is_enough() -> None:
    episodes = collect(lambda: LineWorld(length=800), episodes=1)
    assert judge(episodes) == RIGHT


def test_images_and_choices_are_seen_too() -> None:
    """A 16 x 16 picture with a bright column that the action moves, and a discrete twin."""
    draw = np.random.default_rng(0)
    episodes = []
    for _ in range(30):
        place, action = [int(draw.integers(16))], draw.integers(3, size=49)
        for a in action:
            place.append(int(np.clip(place[-1] + a - 1, 0, 15)))
        image = np.zeros((50, 16, 16, 1), np.uint8)
        image[np.arange(50), :, place] = 200
        flat = np.concatenate([np.eye(3, dtype=np.float32)[action], np.zeros((1, 3), np.float32)])
        zero = np.zeros(50, np.float32)
        obs = {"cell": np.asarray(place)[:, None], "view": image}
        episodes.append(Episode(obs, flat, zero, zero, False, True))
    assert judge(episodes) == RIGHT


def test_the_error_names_the_shift_and_the_repair() -> None:
    episodes = collect(EchoWorld, rows=1000)
    late, early = (probe_alignment(shifted(episodes, k)) for k in (1, -1))
    with pytest.raises(AlignmentError, match="one row too late") as caught:
        late.raise_if_shifted()
    assert "action[t] = yours[t+1]" in str(caught.value)
    with pytest.raises(AlignmentError, match="one row too early") as caught:
        early.raise_if_shifted()
    assert "action[t] = yours[t-1]" in str(caught.value)
    # and the repair repairs
    mended = []
    for episode in shifted(episodes, 1):
        action = np.zeros_like(episode.action)
        action[:-1] = episode.action[1:]
        mended.append(replace(episode, action=action))
    assert probe_alignment(mended).raise_if_shifted().losses[0] < 0.05


def test_the_probe_repeats_and_its_numbers_agree_with_each_other() -> None:
    episodes = collect(KalmanWorld, rows=600)
    left, right = (probe_alignment(episodes, seed=3) for _ in range(2))
    assert left == right
    assert set(left.losses) == set(SHIFTS)
    assert np.isclose(left.margin, min(left.losses[-1], left.losses[1]) - left.losses[0])


@pytest.mark.parametrize("rows", [0, 10, True, 1e4])
def test_too_small_a_sample_is_a_wrong_setting(rows) -> None:
    with pytest.raises(ConfigError, match="rows"):
        probe_alignment([], rows=rows)


def test_held_out_ridge_is_that_of_the_normal_equations() -> None:
    draw = np.random.default_rng(0)
    X, Y, fold = draw.standard_normal((60, 5)), draw.standard_normal((60, 2)), np.arange(60) % 3
    errors = held_out_errors(X, Y, fold)
    for k in range(3):
        A, B = X[fold != k], Y[fold != k]
        found = []
        for ridge in RIDGES:
            stacked = np.concatenate([A, np.sqrt(ridge * len(A)) * np.eye(5)])
            weights = np.linalg.lstsq(stacked, np.concatenate([B, np.zeros((5, 2))]), rcond=None)[0]
            found.append((Y[fold == k] - X[fold == k] @ weights) ** 2)
        mine = errors[fold == k]
        assert all(any(np.allclose(mine[:, d], f[:, d]) for f in found) for d in range(2))


def test_standardised_leaves_out_what_never_changes() -> None:
    values = np.array([[1.0, 5.0, 1e6], [3.0, 5.0, 1e6]])
    assert standardised(values).tolist() == [[-1.0], [1.0]]


def test_paired_z_is_the_mean_in_standard_errors_of_units() -> None:
    draw = np.random.default_rng(0)
    scores = []
    for _ in range(400):  # rows of a unit move together: only units count
        unit = np.repeat(np.arange(25), 10)
        scores.append(paired_z(np.repeat(draw.standard_normal(25), 10), unit))
    assert abs(np.mean(scores)) < 0.2
    assert 0.85 < np.std(scores) < 1.2
