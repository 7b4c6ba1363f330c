"""A plain one-step model for orientation: MLP (obs, action) -> change of obs and reward.

Two hidden layers of 200, standardised in- and outputs, squared error, AdamW; k steps by iteration.
It has no memory: on worlds that are only partly seen it cannot do better than one row allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import nn

from bb_wm.diagnose.baselines import Forecast
from bb_wm.types import Episode, ObsSpec

Progress = Callable[[int, float], None]


class DeltaMLP:
    """A `Predictor` of vector observations, trained for `updates` batches of `rows` transitions."""

    name = "delta-MLP"

    def __init__(
        self,
        spec: ObsSpec,
        *,
        updates: int,
        rows: int = 1024,
        hidden: int = 200,
        learning_rate: float = 1e-3,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._keys = [entry for entry in spec.entries if entry.kind == "vector"]
        self._updates, self._rows, self._hidden = updates, rows, hidden
        self._learning_rate, self._seed = learning_rate, seed
        self._progress = progress
        self.parameters = 0

    def fit(self, episodes: Sequence[Episode]) -> Self:
        obs = [self._join({k: np.asarray(v)[None] for k, v in e.obs.items()})[0] for e in episodes]
        x = np.concatenate([rows[:-1] for rows in obs])
        change = np.concatenate([rows[1:] - rows[:-1] for rows in obs])
        action = np.concatenate([np.asarray(e.action)[:-1] for e in episodes])
        reward = np.concatenate([np.asarray(e.reward)[1:, None] for e in episodes])
        self._in = _scale(np.concatenate([x, action], axis=1))
        self._out = _scale(np.concatenate([change, reward], axis=1))
        inputs = torch.from_numpy(_apply(self._in, np.concatenate([x, action], axis=1)))
        targets = torch.from_numpy(_apply(self._out, np.concatenate([change, reward], axis=1)))
        generator = torch.Generator().manual_seed(self._seed)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            self._net = nn.Sequential(
                nn.Linear(inputs.shape[1], self._hidden),
                nn.SiLU(),
                nn.Linear(self._hidden, self._hidden),
                nn.SiLU(),
                nn.Linear(self._hidden, targets.shape[1]),
            )
        self.parameters = sum(p.numel() for p in self._net.parameters())
        optimiser = torch.optim.AdamW(self._net.parameters(), lr=self._learning_rate)
        for update in range(1, self._updates + 1):
            index = torch.randint(len(inputs), (self._rows,), generator=generator)
            loss = (self._net(inputs[index]) - targets[index]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if self._progress is not None:
                self._progress(update, float(loss.detach()))
        return self

    @torch.no_grad()
    def predict(
        self,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        future: np.ndarray,
    ) -> Forecast:
        x = self._join(obs)[:, -1]
        states, rewards = [], []
        for k in range(future.shape[1]):
            inputs = _apply(self._in, np.concatenate([x, future[:, k]], axis=1))
            out = self._net(torch.from_numpy(inputs)).numpy() * self._out[1] + self._out[0]
            x = x + out[:, :-1]
            states.append(x)
            rewards.append(out[:, -1])
        return Forecast(self._split(np.stack(states, axis=1)), np.stack(rewards, axis=1))

    def _join(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        pieces = [np.asarray(obs[e.key], np.float32) for e in self._keys]
        return np.concatenate([p.reshape(*p.shape[:2], -1) for p in pieces], axis=-1)

    def _split(self, states: np.ndarray) -> dict[str, np.ndarray]:
        result, start = {}, 0
        for entry in self._keys:
            piece = states[..., start : start + entry.size]
            result[entry.key] = piece.reshape(*states.shape[:2], *entry.shape)
            start += entry.size
        return result


def _scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    std = rows.std(axis=0)
    return rows.mean(axis=0).astype(np.float32), np.where(std > 1e-8, std, 1).astype(np.float32)


def _apply(scale: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> np.ndarray:
    return np.asarray((rows - scale[0]) / scale[1], np.float32)
