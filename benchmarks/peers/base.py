"""What the trained peers share: vector keys side by side, their scales, and one training loop.

Every peer gets what ours gets beside its method: AdamW with a warm-up, clipped gradients and
averaged weights, the same number of updates and of rows in each.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bb_wm.data import EpisodeStore, SequenceSampler
from bb_wm.diagnose.baselines import Forecast
from bb_wm.errors import ConfigError
from bb_wm.types import ActionSpec, Batch, Episode, ObsSpec

Progress = Callable[[int, float], None]
Tensors = list[Tensor] | tuple[Tensor, ...]
_WARMUP, _CLIP, _DECAY, _AVERAGE = 100, 100.0, 1e-4, 0.998
_ROOM = 0.1  # predicted rows may leave the range of the training rows by so much of it


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and on how much: `sequences` of `length` rows in each of `updates`."""

    updates: int
    rate: float = 1e-3
    sequences: int = 16
    length: int = 32
    seed: int = 0

    @property
    def rows(self) -> int:
        return self.sequences * self.length


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and deviation of columns; a constant column keeps deviation 1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, rows: np.ndarray) -> Scale:
        std = rows.std(axis=0)
        std = np.where(std > 1e-8, std, 1.0)
        return cls(_tensor(rows.mean(axis=0)), _tensor(std))

    def apply(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std

    def undo(self, scaled: Tensor) -> Tensor:
        return scaled * self.std + self.mean


@dataclass(frozen=True, slots=True)
class Draw:
    """`count` samples of every window, by a generator of their own."""

    count: int
    generator: torch.Generator

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)


class Rows:
    """Training rows as arrays: x [T, D], action [T, A], reward [T] of every episode."""

    def __init__(self, keys: VectorKeys, episodes: Sequence[Episode]) -> None:
        self.x = [
            keys.join({k: np.asarray(v)[None] for k, v in e.obs.items()})[0] for e in episodes
        ]
        self.action = [np.asarray(e.action, np.float32) for e in episodes]
        self.reward = [np.asarray(e.reward, np.float32) for e in episodes]

    def scales(self) -> tuple[Scale, Scale, Scale, Scale]:
        """Of rows, of their one-step changes, of actions, of rewards."""
        change = np.concatenate([x[1:] - x[:-1] for x in self.x])
        action = np.concatenate([a[:-1] for a in self.action])
        reward = np.concatenate([r[1:, None] for r in self.reward])
        return tuple(map(Scale.of, (np.concatenate(self.x), change, action, reward)))  # type: ignore[return-value]

    def bounds(self) -> tuple[Tensor, Tensor]:
        rows = np.concatenate(self.x)
        low, high = rows.min(axis=0), rows.max(axis=0)
        room = _ROOM * (high - low)
        return _tensor(low - room), _tensor(high + room)


class VectorKeys:
    """The vector keys of an observation side by side, and apart again."""

    def __init__(self, spec: ObsSpec) -> None:
        self._entries = [entry for entry in spec.entries if entry.kind == "vector"]
        self.size = sum(entry.size for entry in self._entries)
        if not self._entries:
            raise ConfigError("obs", expected="a vector key", actual="none; peers know no other")

    def join(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        pieces = [np.asarray(obs[e.key], np.float32) for e in self._entries]
        return np.concatenate([p.reshape(*p.shape[:2], -1) for p in pieces], axis=-1)

    def join_batch(self, batch: Batch) -> Tensor:
        pieces = [batch.obs[e.key].float().flatten(2) for e in self._entries]
        return torch.cat(pieces, dim=-1)

    def split(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        found, start = {}, 0
        for entry in self._entries:
            piece = rows[..., start : start + entry.size]
            found[entry.key] = piece.reshape(*rows.shape[:-1], *entry.shape)
            start += entry.size
        return found


class Peer(ABC):
    """A `bb_wm.diagnose.Predictor` of vector keys that is trained, and may draw samples.

    `readings` are the ways it can be asked for its best guess; `reading` the one in use.
    """

    name = ""
    has_spread = True
    readings: tuple[str, ...] = ("mean",)

    def __init__(
        self,
        obs_spec: ObsSpec,
        action_spec: ActionSpec,
        effort: Effort,
        progress: Progress | None = None,
    ) -> None:
        self.obs_spec, self.action_spec, self.effort = obs_spec, action_spec, effort
        self.keys = VectorKeys(obs_spec)
        self.reading = self.readings[0]
        self._progress = progress
        self.net: nn.Module = nn.Identity()

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())

    def fit(self, episodes: Sequence[Episode]) -> Self:
        """Train on `episodes`; the caller's random numbers stay untouched."""
        rows = Rows(self.keys, episodes)
        self.obs_scale, self.change_scale, self.action_scale, self.reward_scale = rows.scales()
        self.low, self.high = rows.bounds()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.effort.seed)
            self.net = self._build()
            self._train(self._losses(rows, episodes))
        return self

    def predict(
        self,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        future: np.ndarray,
    ) -> Forecast:
        """The best guess of rows k = 1..K, as `Predictor.predict` says."""
        with torch.no_grad():
            x, rewards = self._roll(*self._inputs(obs, action, future), None)
        return Forecast(self.keys.split(x.numpy()), rewards.numpy())

    def sample(
        self,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        future: np.ndarray,
        *,
        count: int,
        seed: int,
    ) -> dict[str, np.ndarray]:
        """`count` draws of rows k = 1..K per key, [W, count, K, ...]."""
        draw = Draw(count, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            x, _ = self._roll(*self._inputs(obs, action, future), draw)
        return self.keys.split(x.numpy())

    def _inputs(
        self, obs: Mapping[str, np.ndarray], action: np.ndarray, future: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.from_numpy(self.keys.join(obs))
        past, ahead = (self.action_scale.apply(_tensor(a)) for a in (action, future))
        return x, past, ahead

    @abstractmethod
    def _build(self) -> nn.Module:
        """A fresh network."""

    @abstractmethod
    def _losses(self, rows: Rows, episodes: Sequence[Episode]) -> Iterator[Tensor]:
        """One scalar loss of a fresh batch per update, for ever."""

    @abstractmethod
    def _roll(
        self, x: Tensor, past: Tensor, future: Tensor, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        """Rows [W, K, D] in data units and rewards [W, K]; with a draw, rows [W, count, K, D].

        From context x [W, C, D] in data units and scaled actions [W, C - 1, A], [W, K, A].
        """

    def _batches(self, episodes: Sequence[Episode]) -> Iterator[Batch]:
        store = EpisodeStore(None, self.obs_spec, self.action_spec)
        store.append(episodes)
        effort = self.effort
        sampler = SequenceSampler(
            store, batch_size=effort.sequences, length=effort.length, seed=effort.seed
        )
        while True:
            yield sampler.sample()

    def _shares(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters, and the share of the rate at which they learn."""
        return [(list(self.net.parameters()), 1.0)]

    def _train(self, losses: Iterator[Tensor]) -> None:
        averaged = AveragedModel(self.net, multi_avg_fn=_average)
        groups = self._shares()
        parameters = [parameter for group, _ in groups for parameter in group]
        optimiser = torch.optim.AdamW(
            [{"params": group} for group, _ in groups],
            lr=self.effort.rate,
            weight_decay=_DECAY,
            fused=True,
        )
        for update in range(1, self.effort.updates + 1):
            for group, (_, share) in zip(optimiser.param_groups, groups, strict=True):
                group["lr"] = share * self.effort.rate * min(1.0, update / _WARMUP)
            loss = next(losses)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, _CLIP, error_if_nonfinite=True)
            optimiser.step()
            averaged.update_parameters(self.net)
            if self._progress is not None:
                self._progress(update, float(loss.detach()))
        self.net = averaged.module


def perceptron(
    *sizes: int,
    norm: Callable[[int], nn.Module] | None = None,
    bend: Callable[[], nn.Module] = nn.SiLU,
) -> nn.Sequential:
    """Linear layers with `norm`, if any, and `bend` between them, the last one plain."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [bend()] if norm is None else [norm(b), bend()]
    return nn.Sequential(*layers)


def _average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
    """Exponential average whose memory grows to 500 updates, so that short trainings work too."""
    n = int(count)
    decay = min(_AVERAGE, (1 + n) / (10 + n))
    for kept, new in zip(averaged, current, strict=True):
        kept.lerp_(new, 1 - decay)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
