"""The best that can be foretold where columns are hidden: by the world's own equations.

What a model cannot know, this cannot know either: the state of the first context row is drawn by
importance sampling in rounds (population Monte Carlo, Cappe et al. 2004) from what the noisy rows
say; the forecast is the mean of what the drawn states go on to show. No predictor of squared error
can do better than that mean, but for the noise of the draws. Gymnasium's classic worlds only, whose
equations are short.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np

from bb_wm.data import collect
from bb_wm.diagnose.baselines import Forecast
from bb_wm.types import Episode
from bb_wm.worlds.catalogue import make_world
from benchmarks.quality_rows import NOISE

Array = np.ndarray
ROWS, DRAWS = 20_000, 2_000  # recorded states to begin with, states drawn per round
# Likelihoods are sharp: they count in part at first, and in full in the last two rounds.
_TEMPERS: Final = (64.0, 16.0, 4.0, 1.0, 1.0)
_WIDER: Final = 1.3  # what is drawn from is wider than what is drawn for


class Physics(ABC):
    """A world's equations. States are [S, N]: a column per state."""

    columns: tuple[int, ...]  # of the observation, shown
    normal: bool  # whether recorded states are nearly normal; else the rows seen must say it all

    @abstractmethod
    def states(self, obs: Array) -> Array:
        """The states of whole observations [N, D]."""

    @abstractmethod
    def step(self, state: Array, action: Array) -> Array:
        """What a flat action [A] leads to."""

    @abstractmethod
    def show(self, state: Array) -> Array:
        """The shown columns [N, columns]."""

    def roll(self, state: Array, actions: Array) -> Array:
        """What is shown at a state and after each of actions [T, A], [N, T + 1, columns]."""
        shown = [self.show(state)]
        for action in actions:
            state = self.step(state, action)
            shown.append(self.show(state))
        return np.stack(shown, axis=1)


class Pendulum(Physics):
    """Angle and speed."""

    columns, normal = (0, 1), False

    def states(self, obs: Array) -> Array:
        return np.stack([np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]])

    def step(self, state: Array, action: Array) -> Array:
        angle, speed = state
        torque = float(np.clip(action[0], -2.0, 2.0))
        speed = np.clip(speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque), -8.0, 8.0)
        return np.stack([angle + 0.05 * speed, speed])

    def show(self, state: Array) -> Array:
        return np.stack([np.cos(state[0]), np.sin(state[0])], axis=-1)


class CartPole(Physics):
    """Place, speed, angle and turning."""

    columns, normal = (0, 2), True

    def states(self, obs: Array) -> Array:
        return obs.T

    def step(self, state: Array, action: Array) -> Array:
        place, speed, angle, turning = state
        force = 10.0 if action[1] > action[0] else -10.0
        cos, sin = np.cos(angle), np.sin(angle)
        pushed = (force + 0.05 * turning**2 * sin) / 1.1
        bent = (9.8 * sin - cos * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
        sped = pushed - 0.05 * bent * cos / 1.1
        moved = place + 0.02 * speed, speed + 0.02 * sped
        return np.stack([*moved, angle + 0.02 * turning, turning + 0.02 * bent])

    def show(self, state: Array) -> Array:
        return np.stack([state[0], state[2]], axis=-1)


WORLDS: Final[Mapping[str, type[Physics]]] = {
    "Pendulum-v1@0,1": Pendulum,
    "CartPole-v1@0,2": CartPole,
}


class ExactPhysics:
    """A `Predictor` that knows the equations, the noise and which states are usual."""

    name = "exact physics"

    def __init__(self, world: str, seed: int) -> None:
        self.physics = WORLDS[world]()
        maker, about = make_world(world.partition("@")[0])
        env = maker()
        recorded = collect(env, rows=ROWS, seed=seed, risk=about.risk)
        env.close()
        whole = [np.asarray(next(iter(e.obs.values())), np.float64) for e in recorded]
        self._states = self.physics.states(np.concatenate(whole))
        self._usual = self._states.mean(axis=1, keepdims=True)
        self._inverse = np.linalg.inv(np.cov(self._states)) * self.physics.normal
        self._random = np.random.default_rng(seed)
        self._noise = np.ones(len(self.physics.columns))

    def fit(self, episodes: Sequence[Episode]) -> Self:
        """The noise from episodes that have it: NOISE of the deviation without it."""
        seen = np.concatenate([np.asarray(next(iter(e.obs.values()))) for e in episodes])
        self._noise = NOISE * seen.std(axis=0) / np.sqrt(1 + NOISE**2)
        return self

    def predict(
        self,
        obs: Mapping[str, Array],
        action: Array,
        reward: Array,
        future: Array,
    ) -> Forecast:
        """The mean of what may follow, by importance sampling; rewards are held."""
        ((key, seen),) = obs.items()
        past = action[:, : seen.shape[1] - 1]
        told = np.stack([self._mean(*window) for window in zip(seen, past, future, strict=True)])
        held = np.repeat(np.asarray(reward)[:, -1:], future.shape[1], axis=1)
        return Forecast({key: told}, held)

    def _mean(self, seen: Array, past: Array, future: Array) -> Array:
        """Rows [K, columns] expected after rows [C, columns], over the states of the first."""
        state = self._states  # drawn from what is usual, which counts once they are drawn anew
        weight = _normal(self._fit(state, seen, past) / _TEMPERS[0])
        for temper in _TEMPERS[1:]:
            centre = state @ weight
            away = state - centre[:, None]
            spread = np.linalg.cholesky((away * weight) @ away.T + 1e-12 * np.eye(len(centre)))
            drawn = self._random.standard_normal((len(centre), DRAWS))
            state = centre[:, None] + _WIDER * spread @ drawn
            drawn_for = 0.5 * (drawn**2).sum(axis=0)
            fit = self._fit(state, seen, past) / temper
            weight = _normal(fit + drawn_for - self._unusual(state))
        rows = self.physics.roll(state, np.concatenate([past, future]))[:, len(seen) :]
        return np.asarray(np.einsum("n,nkc->kc", weight, rows))

    def _fit(self, state: Array, seen: Array, past: Array) -> Array:
        """Log-likelihood [N] of the rows seen, from states of the first."""
        off = (self.physics.roll(state, past) - seen) / self._noise
        return np.asarray(-0.5 * (off**2).sum(axis=(1, 2)))

    def _unusual(self, state: Array) -> Array:
        """-log of the prior [N] but for a constant; 0 where it is not normal."""
        away = state - self._usual
        return np.asarray(0.5 * np.einsum("sn,st,tn->n", away, self._inverse, away))


def _normal(log: Array) -> Array:
    """Weights [N] that sum to 1."""
    weight = np.exp(log - log.max())
    return np.asarray(weight / weight.sum())
