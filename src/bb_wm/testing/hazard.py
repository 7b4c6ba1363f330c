"""A rare event with known probabilities: the chain on which risk heads are judged.

Stages 0 (normal), 1 .. D (it builds up) and E (the event, risk 1). From 0 the build-up begins with
probability p; in stage 1 .. D the action "go" moves one stage on, "slow" does so with probability
1/2; from D the next stage is E, and from E it is 0 again. Under uniform random actions a cycle
lasts 1/p + D / 0.75 + 1 rows on average; p is chosen so that `rate` of all rows are events.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from bb_wm.errors import ConfigError

Vector = np.ndarray
GO, SLOW = 0, 1


class HazardChain(gymnasium.Env[Vector, Any]):
    """obs: one-hot of the stage [D + 2]; reward 1 for "go", 0.5 for "slow", -10 in the event."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        depth: int = 6,
        rate: float = 0.005,
        length: int = 200,
        render_mode: str | None = None,
    ) -> None:
        longest = 1.0 / rate - depth / 0.75 - 1.0 if rate > 0 else -1.0
        if depth < 1 or longest < 1.0:
            raise ConfigError("rate", expected=f"in (0, 1/{depth / 0.75 + 2:.4g}]", actual=rate)
        self.render_mode = render_mode
        self.depth, self.rate, self.length = depth, rate, length
        self.begin = 1.0 / longest
        self.observation_space = gymnasium.spaces.Box(0, 1, (depth + 2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._laws = (self.transition(GO), self.transition(SLOW))
        self._stage = 0
        self._row = 0

    def transition(self, action: int) -> Vector:
        """P [D + 2, D + 2], P[i, j] the probability of stage j after stage i under `action`."""
        event = self.depth + 1
        P = np.zeros((event + 1, event + 1))
        P[0, 0], P[0, 1] = 1.0 - self.begin, self.begin
        move = 1.0 if action == GO else 0.5
        for stage in range(1, event):
            P[stage, stage + 1], P[stage, stage] = move, 1.0 - move
        P[event, 0] = 1.0
        return P

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        event = self.depth + 1
        law = self.stationary()
        law[event] = 0.0  # row 0 receives no risk, so it is never the event
        self._stage = self._draw(law / law.sum())
        return self._see(), {}

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        self._row += 1
        self._stage = self._draw(self._laws[int(action)][self._stage])
        event = self._stage == self.depth + 1
        reward = -10.0 if event else (1.0 if int(action) == GO else 0.5)
        cut = self._row + 1 >= self.length
        return self._see(), reward, False, cut, {"cost": float(event)}

    def _draw(self, law: Vector) -> int:
        reached = int(np.searchsorted(np.cumsum(law), self.np_random.random(), side="right"))
        return reached if reached < self.depth + 1 else self.depth + 1

    def _see(self) -> Vector:
        return np.asarray(np.eye(self.depth + 2, dtype=np.float32)[self._stage])

    def stationary(self) -> Vector:
        """The share of rows in each stage under uniform random actions; the last one is `rate`."""
        P = (self.transition(GO) + self.transition(SLOW)) / 2
        size = P.shape[0]
        system = np.vstack([P.T - np.eye(size), np.ones(size)])
        return np.asarray(np.linalg.lstsq(system, np.eye(size + 1)[-1], rcond=None)[0])

    def event_probability(self, stage: int, actions: Vector) -> Vector:
        """P(event in row k) [K] for k = 1 .. K after `actions` [K] done from `stage` on."""
        law = np.eye(self.depth + 2)[stage]
        found = []
        for action in actions:
            law = law @ self.transition(int(action))
            found.append(law[-1])
        return np.asarray(found)

    def event_within(self, stage: int, actions: Vector) -> float:
        """P(at least one event in the K rows after `actions` [K] done from `stage` on)."""
        law, happened = np.eye(self.depth + 2)[stage], 0.0
        for action in actions:
            law = law @ self.transition(int(action))
            happened += float(law[-1])
            law[-1] = 0.0  # counted once; what follows it does not matter
        return happened
