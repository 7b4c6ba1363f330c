"""The injections do what they say, and the table counts what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmarks.results import Job, Results
from benchmarks.smell_injections import LooksBack, copy_as, pushed, shifted, without_risk
from benchmarks.smell_worlds import LampWorld, Operators, hide_quality, hint_episodes
from benchmarks.smells import Settings, table

from bb_wm.data import collect, probe_alignment, validate_episode
from bb_wm.rssm import WorldModel
from bb_wm.testing.worlds import EchoWorld, LineWorld
from bb_wm.types import ActionSpec, ObsSpec


def test_no_risky_row_is_left_and_rows_stay_in_order():
    episodes = collect(LineWorld, rows=600, seed=0)
    assert sum((e.safety > 0).sum() for e in episodes) > 20
    kept = without_risk(episodes)
    assert kept
    assert all((e.safety == 0).all() and len(e) >= 4 for e in kept)
    env = LineWorld()
    obs, action = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
    for episode in kept:
        validate_episode(episode, obs, action)
        x, v = episode.obs["obs"].T.astype(np.float64)
        np.testing.assert_allclose(x[1:], x[:-1] + 0.2 * v[:-1], atol=1e-5)


def test_shifted_rows_are_shifted_the_way_they_say():
    episodes = collect(lambda: EchoWorld(length=40), rows=1200, seed=0)
    env = EchoWorld()
    obs, action = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
    for late, best in ((True, 1), (False, -1)):
        moved = shifted(episodes, late)
        for episode in moved:
            validate_episode(episode, obs, action)
        report = probe_alignment(moved)
        assert (report.verdict, report.best_shift) == ("shifted", best)


def small_model(seed: int = 0) -> WorldModel:
    env = LineWorld()
    return WorldModel(env.observation_space, env.action_space, Settings().config(seed))


def test_a_pushed_model_is_itself_in_closed_loop_and_leaves_further_every_step():
    model = small_model()
    obs = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    action = torch.zeros(6, 8, 1)
    bad = pushed(model, 0.1, 0)
    torch.testing.assert_close(bad.encode(obs).h, model.encode(obs).h)
    gaps = [
        (one.rollout(one.encode(obs), action).latents.h - other).abs().mean((0, 2))
        for other in [model.rollout(model.encode(obs), action).latents.h]
        for one in [bad, bad]
    ]
    torch.testing.assert_close(gaps[0], gaps[1])  # a second rollout starts over
    torch.testing.assert_close(gaps[0][0], torch.tensor(0.1))
    assert (gaps[0][1:4] > gaps[0][:3]).all()


def test_a_core_that_looks_back_imagines_the_same():
    model = small_model()
    slow = copy_as(LooksBack, model)
    obs, action = np.zeros((3, 2), np.float32), torch.zeros(3, 5, 1)
    torch.testing.assert_close(
        slow.rollout(slow.encode(obs), action).reward,
        model.rollout(model.encode(obs), action).reward,
    )


def test_operators_leak_the_quality_into_the_lamp():
    rows = collect(lambda: LampWorld(shown=True), rows=1000, policy=Operators(), seed=0)
    told = [
        np.corrcoef(
            np.concatenate([e.obs["obs"][1:, 2] for e in episodes]),
            np.concatenate([e.reward[1:] for e in episodes]),
        )[0, 1]
        for episodes in (hide_quality(rows), collect(LampWorld, rows=1000, seed=0))
    ]
    assert told[0] > 0.6
    assert abs(told[1]) < 0.2


def test_hints_are_right_as_often_as_they_say_and_blank_ones_are_never_seen():
    episodes = hint_episodes(2000, 0)
    right = [
        (e.obs["hint"][-1, 0] == 2) == (e.reward[-1] > 0)
        for e in episodes
        if e.obs["hint"][-1, 0] and e.reward[-1]
    ]
    assert 0.93 < np.mean(right) < 0.97
    assert all((e.obs["hint"] == 0).all() for e in hint_episodes(50, 0, blank=True))
    env_rows = {len(e) for e in episodes}
    assert env_rows == {2, 3}


def test_the_table_counts_injected_and_healthy_runs_apart(tmp_path: Path):
    results = Results(tmp_path)
    found, clear, unknown = (
        {"status": status} for status in ("found", "clear", "not enough evidence")
    )
    for seed, told in ((100, found), (101, clear)):
        arms = {
            "healthy line": {"rollout drift": clear, "latency creep": told, "x": unknown},
            "rollout drift": {"rollout drift": told, "latency creep": found},
        }
        results.write(Job("smells", "small", "base", seed), {}, {"arms": arms})
    text, good = table(results, [100, 101])
    assert "| rollout drift | 2 | 1 (50%) | 2 | 0 (0%) | 0 |" in text
    assert "| latency creep | 0 | - | 2 | 1 (50%) | 0 |" in text
    assert not good
    assert "| rollout drift | 1 | 1 (100%) |" in table(results, [100])[0]
