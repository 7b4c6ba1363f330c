"""A linear-Gaussian world, partially seen, and the exact predictor nobody can beat on it.

    s_0 ~ N(m0, P0),   s_{t+1} = A s_t + B a_t + w_t,  w ~ N(0, Q)
    y_t = C s_t + v_t,  v ~ N(0, R);   reward_{t+1} = g . s_{t+1};   risk = 1 where |y_0| > limit

The predictor is the Kalman filter (Kalman 1960) with the covariance update in Joseph's form, which
stays symmetric and positive; prediction is open loop under given actions. Float64 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from bb_wm.errors import ConfigError

Vector = np.ndarray


@dataclass(frozen=True, slots=True)
class KalmanParameters:
    """The matrices above: S hidden, D seen, U action dimensions."""

    A: Vector
    B: Vector
    C: Vector
    Q: Vector
    R: Vector
    m0: Vector
    P0: Vector
    g: Vector
    limit: float

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        hidden: int = 4,
        seen: int = 2,
        actions: int = 2,
        radius: float = 0.95,
        process_noise: float = 0.1,
        obs_noise: float = 0.1,
    ) -> KalmanParameters:
        """A world from a seed: slow rotations of spectral radius exactly `radius`, mixed.

        A = M diag(radius * rotations) M^-1 with M close to orthogonal, so hidden dimensions show in
        y only through the past. P0 and `limit` follow the stationary law under actions of
        variance 1/3 (uniform in [-1, 1]): the first row looks like any other.
        """
        for name, value, low, high in (
            ("radius", radius, 0.0, 1.0),
            ("process_noise", process_noise, 0.0, math.inf),
            ("obs_noise", obs_noise, 0.0, math.inf),
        ):
            if not low < value < high:
                raise ConfigError(name, expected=f"in ({low:g}, {high:g})", actual=value)
        draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(104,)))
        A = _transition(draw, hidden, radius)
        B = draw.standard_normal((hidden, actions)) * 0.5
        C = draw.standard_normal((seen, hidden)) / math.sqrt(hidden)
        Q = process_noise**2 * np.eye(hidden)
        R = obs_noise**2 * np.eye(seen)
        P0 = _stationary(A, B @ B.T / 3.0 + Q)
        g = draw.standard_normal(hidden) / math.sqrt(hidden)
        first = float(C[0] @ P0 @ C[0] + R[0, 0])
        return cls(A, B, C, Q, R, np.zeros(hidden), P0, g, limit=2.0 * math.sqrt(first))


def _transition(draw: np.random.Generator, hidden: int, radius: float) -> Vector:
    blocks = np.zeros((hidden, hidden))
    for start in range(0, hidden - 1, 2):
        angle = draw.uniform(0.1, 0.6)
        size = radius if start == 0 else radius * draw.uniform(0.8, 1.0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        blocks[start : start + 2, start : start + 2] = size * turn
    if hidden % 2:
        blocks[-1, -1] = radius if hidden == 1 else radius * 0.9
    mix = np.linalg.qr(draw.standard_normal((hidden, hidden)))[0]
    mix = mix @ np.diag(draw.uniform(0.7, 1.4, hidden))
    return np.asarray(mix @ blocks @ np.linalg.inv(mix))


def _stationary(A: Vector, Q: Vector) -> Vector:
    """P = A P A' + Q, by solving the linear system."""
    size = A.shape[0]
    solved = np.linalg.solve(np.eye(size * size) - np.kron(A, A), Q.ravel())
    P = solved.reshape(size, size)
    return np.asarray((P + P.T) / 2)


class KalmanWorld(gymnasium.Env[Vector, Vector]):
    """The world of `KalmanParameters.draw(parameters_seed, ...)`; obs y [D], actions in [-1, 1]."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        parameters_seed: int = 0,
        actions: int = 2,
        radius: float = 0.95,
        process_noise: float = 0.1,
        obs_noise: float = 0.1,
        length: int = 100,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.length = length
        self.parameters = KalmanParameters.draw(
            parameters_seed,
            actions=actions,
            radius=radius,
            process_noise=process_noise,
            obs_noise=obs_noise,
        )
        seen = self.parameters.C.shape[0]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (seen,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (actions,), np.float32)
        p = self.parameters
        self._roots = [np.linalg.cholesky(cov) for cov in (p.P0, p.Q, p.R)]
        self._state = np.zeros(len(p.m0))
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        self._state = self.parameters.m0 + self._noise(0)
        return self._see().astype(np.float32), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        self._row += 1
        p = self.parameters
        self._state = p.A @ self._state + p.B @ np.asarray(action, np.float64) + self._noise(1)
        seen = self._see()
        info = {"cost": float(abs(seen[0]) > p.limit)}
        reward = float(p.g @ self._state)
        return seen.astype(np.float32), reward, False, self._row + 1 >= self.length, info

    def _see(self) -> Vector:
        return np.asarray(self.parameters.C @ self._state + self._noise(2))

    def _noise(self, source: int) -> Vector:
        """A draw from N(0, P0), N(0, Q) or N(0, R)."""
        root = self._roots[source]
        return np.asarray(root @ self.np_random.standard_normal(len(root)))


@dataclass(frozen=True, slots=True)
class Belief:
    """N(mean, cov) over the hidden state of one row: mean [*batch, S], cov [S, S].

    The covariance does not depend on what was seen, so a batch shares it.
    """

    mean: Vector
    cov: Vector


@dataclass(frozen=True, slots=True)
class Prediction:
    """The law of the next K rows: obs N(obs_mean [*batch, K, D], obs_cov [K, D, D]), and the means
    of reward and risk [*batch, K]."""

    obs_mean: Vector
    obs_cov: Vector
    reward: Vector
    risk: Vector


@dataclass(frozen=True, slots=True)
class KalmanPredictor:
    """The exact filter and open-loop predictor of a `KalmanWorld`."""

    parameters: KalmanParameters

    def start(self, obs: Vector) -> Belief:
        """The belief of row 0 after seeing obs [*batch, D]."""
        p = self.parameters
        prior = Belief(np.broadcast_to(p.m0, (*obs.shape[:-1], len(p.m0))), p.P0)
        return self.correct(prior, obs)

    def advance(self, belief: Belief, action: Vector) -> Belief:
        """The belief of the next row before it is seen."""
        p = self.parameters
        mean = belief.mean @ p.A.T + np.asarray(action, np.float64) @ p.B.T
        return Belief(mean, p.A @ belief.cov @ p.A.T + p.Q)

    def correct(self, belief: Belief, obs: Vector) -> Belief:
        """The belief after seeing obs. Joseph: (I-KC) P (I-KC)' + K R K'."""
        p = self.parameters
        innovation = p.C @ belief.cov @ p.C.T + p.R
        gain = np.linalg.solve(innovation, p.C @ belief.cov).T
        mean = belief.mean + (np.asarray(obs, np.float64) - belief.mean @ p.C.T) @ gain.T
        keep = np.eye(len(p.m0)) - gain @ p.C
        return Belief(mean, keep @ belief.cov @ keep.T + gain @ p.R @ gain.T)

    def filter(self, obs: Vector, action: Vector) -> list[Belief]:
        """The belief of every row of obs [*batch, T, D]; action [*batch, T, U], the last unused."""
        beliefs = [self.start(obs[..., 0, :])]
        for t in range(1, obs.shape[-2]):
            ahead = self.advance(beliefs[-1], action[..., t - 1, :])
            beliefs.append(self.correct(ahead, obs[..., t, :]))
        return beliefs

    def predict(self, belief: Belief, actions: Vector) -> Prediction:
        """The next K rows under actions [*batch, K, U], nothing more being seen."""
        p = self.parameters
        means, covs, rewards, risks = [], [], [], []
        for k in range(actions.shape[-2]):
            belief = self.advance(belief, actions[..., k, :])
            mean, cov = belief.mean @ p.C.T, p.C @ belief.cov @ p.C.T + p.R
            means.append(mean)
            covs.append(cov)
            rewards.append(belief.mean @ p.g)
            risks.append(_outside(mean[..., 0], math.sqrt(cov[0, 0]), p.limit))
        return Prediction(
            np.stack(means, -2), np.stack(covs), np.stack(rewards, -1), np.stack(risks, -1)
        )


def _outside(mean: Vector, deviation: float, limit: float) -> Vector:
    """P(|y| > limit), y ~ N(mean, deviation^2)."""
    scale = deviation * math.sqrt(2.0)
    tail = np.vectorize(math.erfc, otypes=[float])
    return np.asarray((tail((limit - mean) / scale) + tail((limit + mean) / scale)) / 2)
