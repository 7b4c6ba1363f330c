from __future__ import annotations

import numpy as np
import pytest
from tests.diagnose.helpers import make_episode

from bb_wm.diagnose.windows import cut_windows, plan_windows
from bb_wm.errors import ConfigError, DataError


def counted(rows: int, base: int, *, terminated: bool = False):
    """obs[t] = base + t, so that every row says which it is."""
    values = (base + np.arange(rows, dtype=np.float32))[:, None]
    action = values.copy()
    action[-1] = 0
    return make_episode(values, action, reward=values[:, 0], terminated=terminated)


def test_plan_keeps_the_wanted_context_when_the_median_episode_is_long():
    plan = plan_windows([26, 26, 26])
    assert (plan.context, plan.horizons, plan.note) == (10, (1, 5, 10, 15), "")


def test_plan_falls_back_to_three_rows_and_cuts_horizons_in_the_open():
    plan = plan_windows([25, 25, 25])
    assert (plan.context, plan.horizons) == (3, (1, 5, 10, 15))
    assert plan.note == "context 3 instead of 10: the median episode has 25 rows"
    short = plan_windows([12, 12, 40])
    assert (short.context, short.horizons) == (3, (1, 5))
    assert "horizon 10, 15 left out" in short.note


def test_plan_of_the_shortest_episodes_is_one_row_and_one_step():
    plan = plan_windows([2, 2])
    assert (plan.context, plan.horizons) == (1, (1,))
    with pytest.raises(DataError):
        plan_windows([1, 1])


def test_plan_refuses_what_makes_no_sense():
    with pytest.raises(ConfigError):
        plan_windows([30], context=0)
    with pytest.raises(ConfigError):
        plan_windows([30], horizons=())
    with pytest.raises(DataError):
        plan_windows([])


def test_windows_never_cross_episodes_and_align_actions_with_rows():
    episodes = [counted(9, 0), counted(7, 1000), counted(20, 2000)]
    cut = cut_windows(episodes, context=3, reach=4, count=None, seed=0)
    assert len(cut) == (9 - 3) + (7 - 3) + (20 - 3)
    bases = np.array([0, 1000, 2000])[cut.episode]
    real = cut.obs["obs"][..., 0]
    expected = bases[:, None] + cut.start[:, None] + np.arange(7)
    assert (real[cut.valid] == expected[cut.valid]).all()
    assert (real // 1000 == bases[:, None] // 1000).all()
    # the first future action is the one done at the last context row
    inside = cut.target_valid
    assert (cut.future[..., 0][inside] == real[:, 2:-1][inside]).all()
    obs, action, reward = cut.seen()
    assert obs["obs"].shape[1] == 3
    assert action.shape[1] == 2
    assert (reward == real[:, :3]).all()


def test_rows_after_the_end_are_invalid_and_the_end_is_known():
    cut = cut_windows([counted(6, 0, terminated=True)], context=2, reach=5, count=None, seed=0)
    assert cut.target_valid.sum(axis=1).tolist() == [4, 3, 2, 1]
    assert cut.ended.all()
    assert cut.terminated.argmax(axis=1).tolist() == [5, 4, 3, 2]
    full = cut_windows([counted(6, 0)], context=2, reach=3, count=None, seed=0, full=True)
    assert full.start.tolist() == [0, 1]
    assert full.target_valid.all()


def test_a_seed_fixes_the_windows_and_another_changes_them():
    episodes = [counted(200, 0), counted(200, 1000)]
    one, two, other = (
        cut_windows(episodes, context=3, reach=4, count=20, seed=seed) for seed in (1, 1, 2)
    )
    assert (one.start == two.start).all()
    assert (one.start != other.start).any()
    assert len(set(zip(one.episode.tolist(), one.start.tolist(), strict=True))) == 20


def test_too_short_episodes_are_an_error_that_says_so():
    with pytest.raises(DataError) as caught:
        cut_windows([counted(4, 0)], context=4, reach=1, count=5, seed=0)
    assert "at least 5 rows" in str(caught.value)
