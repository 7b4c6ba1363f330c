from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from tests.diagnose.helpers import A, B, linear_episodes, make_episode

from bb_wm.diagnose.baselines import Persistence, RidgeARX
from bb_wm.diagnose.open_loop import evaluate_predictors, forecast
from bb_wm.diagnose.windows import cut_windows
from bb_wm.errors import ConfigError, DataError
from bb_wm.types import ObsSpec


def test_persistence_on_a_random_walk_errs_by_the_square_root_of_k():
    # E (x_{t+k} - x_t)^2 = k for unit steps, whatever the episode
    generator = np.random.default_rng(0)
    walks = [make_episode(np.cumsum(generator.standard_normal((400, 4)), 0)) for _ in range(30)]
    result = evaluate_predictors(ObsSpec.of(4), [Persistence()], walks, windows=None)
    spread = np.concatenate([walk.obs["obs"] for walk in walks]).astype(np.float64).var(axis=0)
    for k in (1, 5, 10, 15):
        theory = np.sqrt(np.mean(k / spread))
        assert result.nrmse("persistence", k) == pytest.approx(theory, rel=0.04)


def test_persistence_of_white_noise_is_the_root_of_two():
    generator = np.random.default_rng(1)
    noise = [make_episode(generator.standard_normal((500, 3))) for _ in range(20)]
    result = evaluate_predictors(ObsSpec.of(3), [Persistence()], noise, windows=None)
    assert result.nrmse("persistence", 10) == pytest.approx(np.sqrt(2.0), rel=0.03)


@pytest.mark.parametrize(("lags", "delay"), [(1, 0), (3, 0), (10, 0), (3, 2), (10, 4)])
def test_arx_is_exact_on_linear_systems_with_enough_lags(lags, delay):
    train, held = (linear_episodes(8, 60, seed, delay=delay) for seed in (0, 1))
    arx = RidgeARX(ObsSpec.of(2), lags=lags).fit(train)
    result = evaluate_predictors(ObsSpec.of(2), [arx], held, context=10)
    assert max(result.path(arx.name).nrmse) < 1e-4
    assert max(result.path(arx.name).reward_nrmse) < 1e-4


def test_arx_misses_an_action_delayed_beyond_its_lags():
    train, held = (linear_episodes(8, 60, seed, delay=4) for seed in (0, 1))
    arx = RidgeARX(ObsSpec.of(2), lags=3).fit(train)
    result = evaluate_predictors(ObsSpec.of(2), [arx], held, context=10)
    assert result.nrmse(arx.name, 5) > 0.1


def test_arx_equals_a_twin_by_augmented_least_squares():
    # ridge on standardised columns = least squares with sqrt(n * strength) I appended
    train = linear_episodes(6, 80, 0, noise=0.1)
    arx = RidgeARX(ObsSpec.of(2), lags=1).fit(train)
    cut = cut_windows(
        linear_episodes(4, 30, 1, noise=0.1), context=1, reach=5, count=None, seed=0, full=True
    )
    x, a, y = (
        np.concatenate([part(e) for e in train]).astype(np.float64)
        for part in (
            lambda e: e.obs["obs"][:-1],
            lambda e: e.action[:-1],
            lambda e: e.obs["obs"][1:],
        )
    )
    raw = np.column_stack([x, a])
    every_row = np.concatenate([e.obs["obs"] for e in train]).astype(np.float64)
    unit = np.concatenate([every_row.std(axis=0), a.std(axis=0)])
    scaled, change = raw / unit, (y - x) / unit[:2]
    centre, drift = scaled.mean(axis=0), change.mean(axis=0)
    penalty = np.sqrt(len(x) * arx.strength) * np.eye(4)
    top = np.concatenate([scaled - centre, penalty])
    weight, *_ = np.linalg.lstsq(
        top, np.concatenate([change - drift, np.zeros((4, 2))]), rcond=None
    )
    law = np.concatenate([A - np.eye(2), B], axis=1).T * unit[:, None] / unit[:2]
    assert weight == pytest.approx(law, abs=0.05)
    state = cut.obs["obs"][:, 0].astype(np.float64)
    predicted = forecast(arx, cut).obs["obs"]
    for k in range(5):
        step = (np.column_stack([state, cut.future[:, k]]) / unit - centre) @ weight + drift
        state = state + step * unit[:2]
        assert predicted[:, k] == pytest.approx(state, abs=1e-5)


def test_arx_shrinks_to_persistence_where_nothing_can_be_learnt():
    generator = np.random.default_rng(0)
    walks = [make_episode(np.cumsum(generator.standard_normal((30, 6)), 0)) for _ in range(5)]
    arx = RidgeARX(ObsSpec.of(6), lags=10).fit(walks)  # 66 regressors, 80 rows
    assert arx.strength >= 1e-2
    held = [make_episode(np.cumsum(generator.standard_normal((60, 6)), 0)) for _ in range(20)]
    result = evaluate_predictors(ObsSpec.of(6), [Persistence(), arx], held)
    assert result.nrmse(arx.name, 10) < 1.35 * result.nrmse("persistence", 10)


def test_arx_reads_discrete_keys_as_choices():
    # a counter modulo 4 that adds the action's index: linear in one-hots only for a fixed action
    generator = np.random.default_rng(0)
    spec = ObsSpec.of({"n": gymnasium.spaces.Discrete(4), "x": 1})
    episodes = []
    for _ in range(6):
        n = (np.arange(40) + generator.integers(4)) % 4
        x = generator.standard_normal((40, 1)).astype(np.float32)
        episodes.append(make_episode({"n": n[:, None], "x": x}))
    arx = RidgeARX(spec, lags=2).fit(episodes[:4])
    result = evaluate_predictors(spec, [Persistence(), arx], episodes[4:])
    assert result.path(arx.name).exact["n"][9] == 1.0
    assert result.path("persistence").exact["n"][0] == 0.0
    assert result.path("persistence").exact["n"][3] == 1.0


def test_arx_says_what_it_needs():
    spec = ObsSpec.of(2)
    with pytest.raises(ConfigError):
        RidgeARX(spec, lags=0)
    with pytest.raises(DataError):
        RidgeARX(spec, lags=10).fit(linear_episodes(3, 8, 0))
    with pytest.raises(ConfigError):
        forecast(
            RidgeARX(spec),
            cut_windows(linear_episodes(1, 20, 0), context=3, reach=2, count=3, seed=0),
        )
    fitted = RidgeARX(spec, lags=5).fit(linear_episodes(3, 30, 0))
    with pytest.raises(ConfigError) as caught:
        forecast(
            fitted, cut_windows(linear_episodes(1, 20, 0), context=3, reach=2, count=3, seed=0)
        )
    assert "at least 5 rows" in str(caught.value)


def test_arx_gives_up_lags_before_it_gets_slow():
    generator = np.random.default_rng(0)
    episodes = [make_episode(generator.standard_normal((40, 199))) for _ in range(2)]
    assert RidgeARX(ObsSpec.of(199), lags=10).fit(episodes).lags == 5
