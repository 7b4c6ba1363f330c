"""Two small worlds made for smells that need one: a confounded reward, and answers worth asking.

`LampWorld`: the reward hangs on a quality nobody sees and on where the cart is; the lamp is only an
indicator. Whoever logs rows of operators who see the quality and set the lamp by it, leaks the
reward into the lamp: the model learns that lamps make quality, and a strong planner switches it on.
Hints: a thing that is good or bad, a cue that tells nothing, and a hint that has a price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from bb_wm.decide import (
    EVSI,
    Ask,
    AskEvidence,
    CandidateEvidence,
    Evidence,
    Gate,
    Ledger,
    Verdict,
    record_pair,
)
from bb_wm.imagine.utility import Utility
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode, Latent

Vector = np.ndarray


class LampWorld(gymnasium.Env[Vector, Vector]):
    """obs = (x, v, lamp), with `shown` also the quality q; action = (push, lamp).

    x' = x + 0.2 v,  v' = 0.9 v + 0.2 push,  q' = 0.9 q + 0.44 n,  lamp' = lamp action,
    reward' = 1.5 q' - |x'|,  risk' = max(|x'| - 1, 0)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, length: int = 50, shown: bool = False) -> None:
        self.length, self.shown = length, shown
        self.observation_space = gymnasium.spaces.Box(-9, 9, (3 + shown,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self._state = np.zeros(4)
        self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        x, v = self.np_random.uniform(-1, 1, 2)
        self._state = np.asarray([x, v, 0.0, self.np_random.standard_normal()])
        return self._see(), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        self._row += 1
        x, v, _, q = self._state
        q = 0.9 * q + 0.44 * self.np_random.standard_normal()
        x, v = x + 0.2 * v, 0.9 * v + 0.2 * float(action[0])
        self._state = np.asarray([x, v, float(action[1]), q])
        reward, cut = 1.5 * q - abs(x), self._row + 1 >= self.length
        return self._see(), float(reward), False, cut, {"cost": max(abs(float(x)) - 1.0, 0.0)}

    def _see(self) -> Vector:
        return self._state[: 3 + self.shown].astype(np.float32)


@dataclass(frozen=True)
class Operators:
    """Push at random; set the lamp by the quality they see."""

    def begin(self, generator: np.random.Generator) -> Callable[[Vector], Vector]:
        def act(obs: Vector) -> Vector:
            lamp = np.clip(0.6 * obs[3], -1, 1)
            return np.asarray([generator.uniform(-1, 1), lamp], np.float32)

        return act


def hide_quality(episodes: list[Episode]) -> list[Episode]:
    """The same rows without the quality."""
    return [replace(e, obs={"obs": np.ascontiguousarray(e.obs["obs"][:, :3])}) for e in episodes]


# --- hints ----------------------------------------------------------------------------------------

HINT, CUE = 0.95, 0.5  # how often each is right: the cue tells nothing
ASK, PASS, TAKE = 0, 1, 2  # actions
SEEN = gymnasium.spaces.Dict(
    {
        "cue": gymnasium.spaces.Discrete(2),
        "hint": gymnasium.spaces.Discrete(3),  # 0: none was given
        "row": gymnasium.spaces.Discrete(3),
    }
)
DONE = gymnasium.spaces.Discrete(3)


def hint_episodes(count: int, seed: int, *, blank: bool = False) -> list[Episode]:
    """Random play: maybe ask once, then pass (reward 0) or take (reward 1 if good, -1 if bad).

    `blank`: the answers were never logged.
    """
    draw = np.random.default_rng([seed, 7])
    episodes = []
    for _ in range(count):
        good, cue = draw_state(draw)
        asks, takes = int(draw.random() < 0.6), bool(draw.random() < 0.7)
        rows = 2 + asks
        hint = np.zeros((rows, 1), np.int64)
        if asks and not blank:
            hint[1:] = 1 + draw_hint(draw, good)
        obs = {
            "cue": np.full((rows, 1), cue),
            "hint": hint,
            "row": np.arange(rows)[:, None],
        }
        action = np.zeros((rows, 3), np.float32)
        if asks:
            action[0, ASK] = 1.0
        action[asks, TAKE if takes else PASS] = 1.0
        reward = np.zeros(rows, np.float32)
        reward[-1] = (2 * good - 1) * takes
        safe = np.zeros(rows, np.float32)
        episodes.append(Episode(obs, action, reward, safe, True, False))
    return episodes


def draw_state(draw: np.random.Generator) -> tuple[int, int]:
    """Whether the thing is good, 0 or 1, and the cue."""
    good = int(draw.integers(2))
    return good, good if draw.random() < CUE else 1 - good


def draw_hint(draw: np.random.Generator, good: int) -> int:
    return good if draw.random() < HINT else 1 - good


class HintPlay:
    """Decides by what a model imagines, plays it in the true world, and writes the ledger.

    `price` is what a hint costs; `told` what the gate was told it costs.
    """

    gate = Gate(limit=1.0, max_age=1.0, clock=lambda: 0.0)

    def __init__(self, model: WorldModel, *, price: float, told: float, seed: int) -> None:
        self.model, self.price = model, price
        self._draw = np.random.default_rng([seed, 11])
        # Two rows, the deadline of asking first; who decides at once has ended by then.
        actions = torch.eye(3)[[PASS, TAKE]][:, None].expand(-1, 2, -1)
        asks = EVSI(utility=Utility(discount=1.0), particles=256, answers=4, seed=seed)
        ask = Ask("hint", action=torch.eye(3)[ASK], cost=told)
        self._first = {cue: self._see(cue, 0, 0) for cue in (0, 1)}
        self._asked = {
            cue: asks(model, latent[None], ask, actions) for cue, latent in self._first.items()
        }

    def _see(self, cue: int, hint: int, row: int, before: Latent | None = None) -> Latent:
        obs = {"cue": np.asarray([cue]), "hint": np.asarray([hint]), "row": np.asarray([row])}
        if before is None:
            return self.model.encode(obs)
        return self.model.encode(obs, before, torch.eye(3)[ASK])

    def _worths(self, latent: Latent) -> list[float]:
        after = [self.model.step(latent, torch.eye(3)[done]) for done in (PASS, TAKE)]
        return [float(self.model.predict_reward(one)) for one in after]

    def evidence(self, cue: int) -> Evidence:
        worths = self._worths(self._first[cue])
        asked = AskEvidence.of(self._asked[cue], risk=0.0, risk_bound=0.0)
        return Evidence(
            candidates=[CandidateEvidence(str(i), u, 0.0, 0.0) for i, u in enumerate(worths)],
            hold_utility=-9.0,
            horizon=2,
            observed_at=0.0,
            policy="pass or take",
            asks=[asked],
        )

    def write(self, path: Path, *, own: int = 160, pairs: int = 160) -> None:
        """`own` decisions by the gate, and `pairs` states played both ways."""
        evidence = {cue: self.evidence(cue) for cue in (0, 1)}
        with Ledger(path, durable=False) as ledger:
            for _ in range(own):
                good, cue = draw_state(self._draw)
                decision = self.gate.decide(evidence[cue])
                ledger.record(decision, gate=self.gate)
                asks = decision.verdict is Verdict.ASK
                ledger.outcome(decision.decision_id, self._play(good, cue, asks))
            for number in range(pairs):
                good, cue = draw_state(self._draw)
                both = record_pair(self.gate, ledger, evidence[cue], pair=str(number))
                if both is None:
                    continue
                for decision, asks in zip(both, (True, False), strict=True):
                    ledger.outcome(decision.decision_id, self._play(good, cue, asks))

    def _play(self, good: int, cue: int, asks: bool) -> float:
        """The return of one thing, asking first or not, and then doing what is worth more."""
        latent = self._first[cue]
        if asks:
            latent = self._see(cue, 1 + draw_hint(self._draw, good), 1, latent)
        taken = int(np.argmax(self._worths(latent)))
        return float((2 * good - 1) * taken - self.price * asks)
