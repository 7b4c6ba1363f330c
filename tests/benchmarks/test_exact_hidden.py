"""The world's own equations as a predictor: they are the world's, and nobody is better."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from benchmarks.quality_rows import Rules, gather

from bb_wm.diagnose import evaluate_predictors
from bb_wm.diagnose.baselines import RidgeARX
from benchmarks import exact_hidden


@pytest.mark.parametrize("world", exact_hidden.WORLDS)
def test_the_equations_are_the_worlds(world):
    env = gymnasium.make(world.partition("@")[0])
    physics = exact_hidden.WORLDS[world]()
    env.action_space.seed(0)
    seen, _ = env.reset(seed=0)
    rows, actions = [seen], []
    for _ in range(15):
        action = env.action_space.sample()
        rows.append(env.step(action)[0])
        actions.append(np.eye(2)[action] if np.ndim(action) == 0 else action)
    start = physics.states(np.stack(rows).astype(np.float64))[:, :1]
    told = physics.roll(start, np.stack(actions))[0]
    np.testing.assert_allclose(told, np.stack(rows)[:, list(physics.columns)], atol=2e-5)
    env.close()


@pytest.mark.parametrize("world", exact_hidden.WORLDS)
def test_a_linear_model_is_worse_and_the_noise_is_the_floor(world):
    rules = Rules(rows=2_000, heldout_rows=400, validation_rows=50)
    data = gather(world, 0, rules)
    exact = exact_hidden.ExactPhysics(world, 0).fit(data.training)
    linear = RidgeARX(data.obs_spec, lags=3).fit(data.training)
    found = evaluate_predictors(
        data.obs_spec, [exact, linear], data.held, context=3, horizons=(1, 10), windows=60, seed=0
    )
    best, fitted = (np.asarray(path.nrmse) for path in found.paths)
    assert (best < 1.05 * fitted).all()
    assert best[9] < 0.9 * fitted[9]
    assert best[0] > 0.045  # the truth is noisy by 5 %
