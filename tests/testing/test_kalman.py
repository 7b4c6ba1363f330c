"""The exact predictor against brute-force conditioning of the whole joint Gaussian."""

import numpy as np
import pytest

from bb_wm.data.collecting import collect
from bb_wm.errors import ConfigError
from bb_wm.testing.kalman import KalmanParameters, KalmanPredictor, KalmanWorld


def joint(p: KalmanParameters, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (s_0 .. s_T, y_0 .. y_T) stacked, written as one linear map.

    Everything is a linear function of the independent (s_0, w_1 .. w_T, v_0 .. v_T).
    """
    S, D, T = len(p.m0), len(p.R), len(actions)
    sources = S * (T + 1) + D * (T + 1)
    cov = np.zeros((sources, sources))
    cov[:S, :S] = p.P0
    for t in range(1, T + 1):
        cov[S * t : S * (t + 1), S * t : S * (t + 1)] = p.Q
    for t in range(T + 1):
        start = S * (T + 1) + D * t
        cov[start : start + D, start : start + D] = p.R
    state = np.zeros((T + 1, S, sources))
    offset = np.zeros((T + 1, S))
    state[0, :, :S], offset[0] = np.eye(S), p.m0
    for t in range(1, T + 1):
        state[t] = p.A @ state[t - 1]
        state[t, :, S * t : S * (t + 1)] += np.eye(S)
        offset[t] = p.A @ offset[t - 1] + p.B @ actions[t - 1]
    seen = np.einsum("ds,tsn->tdn", p.C, state)
    for t in range(T + 1):
        start = S * (T + 1) + D * t
        seen[t, :, start : start + D] += np.eye(D)
    rows = np.concatenate([state.reshape(-1, sources), seen.reshape(-1, sources)])
    mean = np.concatenate([offset.ravel(), (offset @ p.C.T).ravel()])
    return mean, rows @ cov @ rows.T


def condition(mean, cov, wanted, given, values):
    gain = np.linalg.solve(cov[np.ix_(given, given)], cov[np.ix_(given, wanted)]).T
    posterior = mean[wanted] + gain @ (values - mean[given])
    return posterior, cov[np.ix_(wanted, wanted)] - gain @ cov[np.ix_(given, wanted)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("actions", [1, 2])
def test_filter_and_prediction_equal_conditioning_the_joint(seed, actions) -> None:
    p = KalmanParameters.draw(seed, actions=actions)
    draw = np.random.default_rng(seed)
    T, context, S, D = 9, 5, 4, 2
    done = draw.uniform(-1, 1, (T, actions))
    obs = draw.standard_normal((T + 1, D))
    mean, cov = joint(p, done)
    first = S * (T + 1)
    given = np.arange(first, first + D * context)
    exact = KalmanPredictor(p)
    beliefs = exact.filter(obs[:context], np.concatenate([done[: context - 1], [[9.0] * actions]]))
    now = np.arange(S * (context - 1), S * context)
    state, spread = condition(mean, cov, now, given, obs[:context].ravel())
    assert np.allclose(beliefs[-1].mean, state, atol=1e-10)
    assert np.allclose(beliefs[-1].cov, spread, atol=1e-10)
    ahead = exact.predict(beliefs[-1], done[context - 1 :])
    for k in range(T - context + 1):
        row = context + k
        place = np.arange(first + D * row, first + D * (row + 1))
        seen, spread = condition(mean, cov, place, given, obs[:context].ravel())
        assert np.allclose(ahead.obs_mean[k], seen, atol=1e-10)
        assert np.allclose(ahead.obs_cov[k], spread, atol=1e-10)
        hidden = np.arange(S * row, S * (row + 1))
        state, _ = condition(mean, cov, hidden, given, obs[:context].ravel())
        assert np.isclose(ahead.reward[k], p.g @ state, atol=1e-10)


def test_a_batch_is_its_rows() -> None:
    p = KalmanParameters.draw(3)
    draw = np.random.default_rng(0)
    obs, done = draw.standard_normal((5, 6, 2)), draw.uniform(-1, 1, (5, 6, 2))
    exact = KalmanPredictor(p)
    together = exact.predict(exact.filter(obs, done)[-1], done[:, :4])
    for b in range(5):
        alone = exact.predict(exact.filter(obs[b], done[b])[-1], done[b, :4])
        assert np.allclose(together.obs_mean[b], alone.obs_mean, atol=1e-12)
        assert np.allclose(together.risk[b], alone.risk, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_world_is_stable_observable_and_has_the_radius_asked_for(seed) -> None:
    for radius in (0.9, 0.98):
        p = KalmanParameters.draw(seed, radius=radius)
        assert np.isclose(np.abs(np.linalg.eigvals(p.A)).max(), radius)
        seen = np.concatenate([p.C @ np.linalg.matrix_power(p.A, k) for k in range(4)])
        assert np.linalg.matrix_rank(seen, tol=1e-3) == 4
        assert np.allclose(p.P0, p.A @ p.P0 @ p.A.T + p.B @ p.B.T / 3 + p.Q)
    assert not np.array_equal(KalmanParameters.draw(seed).A, KalmanParameters.draw(seed + 100).A)


def test_errors_of_the_world_have_the_size_the_predictor_promises() -> None:
    world = KalmanWorld(parameters_seed=1, length=30)
    episodes = collect(world, episodes=300, seed=0)
    obs = np.stack([e.obs["obs"] for e in episodes]).astype(np.float64)
    done = np.stack([e.action for e in episodes]).astype(np.float64)
    risk = np.stack([e.safety for e in episodes])
    reward = np.stack([e.reward for e in episodes])
    exact = KalmanPredictor(world.parameters)
    belief = exact.filter(obs[:, :12], done[:, :12])[-1]
    ahead = exact.predict(belief, done[:, 11:21])
    error = obs[:, 12:22] - ahead.obs_mean
    for k in (0, 4, 9):
        scaled = np.einsum("bd,de,be->b", error[:, k], np.linalg.inv(ahead.obs_cov[k]), error[:, k])
        # chi-square with 2 degrees of freedom: mean 2, variance 4; 4.5 standard errors
        assert abs(scaled.mean() - 2.0) < 4.5 * np.sqrt(4 / 300)
    expected, happened = ahead.risk.mean(), risk[:, 12:22].mean()
    assert abs(expected - happened) < 4.5 * np.sqrt(expected / 3000 * 5)
    told = np.corrcoef(ahead.reward[:, 0], reward[:, 12])[0, 1]
    assert told > 0.5


def test_impossible_parameters_are_refused() -> None:
    for change in ({"radius": 1.0}, {"process_noise": 0.0}, {"obs_noise": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            KalmanParameters.draw(0, **change)
