"""What lies beyond a plan's last row, learnt from what the recorded rows went on to earn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch.nn import functional as F

from bb_wm.data.padding import pad
from bb_wm.errors import ConfigError, DataError
from bb_wm.model.nets import MLP

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm import WorldModel
    from bb_wm.types import Batch, Episode, Latent

_CHUNK = 32  # episodes filtered at once
_BATCH = 512  # rows per step


class Critic:
    """v(s) [*batch]: discounted reward after the row of s, if one goes on as the episodes did.

    For `Utility(terminal=critic)`; larger is better, units of reward. It speaks for the policy that
    recorded the episodes: fit it on rows that a planner did, one of random play misleads a plan.
    It reads the latents of one model and is fitted anew after that has learnt on.
    """

    def __init__(self, net: MLP, scale: float, discount: float) -> None:
        self._net, self._scale = net, scale
        self.discount = discount

    def __call__(self, latent: Latent) -> Tensor:
        return self._value(torch.cat([latent.h, latent.z], dim=-1))

    def _value(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            raw: Tensor = self._net(features).squeeze(-1)
        return raw * self._scale

    @classmethod
    def fit(
        cls,
        model: WorldModel,
        episodes: Sequence[Episode],
        *,
        discount: float = 0.99,
        mix: float = 0.95,
        rounds: int = 10,
        steps: int = 200,
        seed: int = 0,
    ) -> Self:
        """Policy evaluation by TD(lambda): `rounds` times the targets are made, then `steps` taken.

        `mix` is lambda: how much of a target is what was really earned, 1 - mix is what the critic
        believed. An episode that was cut off is gone on with by belief. Raises ConfigError for a
        bad number, DataError where no episode has two rows.
        """
        for name, value in (("discount", discount), ("mix", mix)):
            if not 0 <= value < 1:
                raise ConfigError(name, expected="in [0, 1)", actual=value)
        for name, number in (("rounds", rounds), ("steps", steps)):
            if number < 1:
                raise ConfigError(name, expected="at least 1", actual=number)
        usable = [episode for episode in episodes if len(episode) > 1]
        if not usable:
            raise DataError("episodes", expected="episodes of two rows or more", actual="none")
        parts = [usable[at : at + _CHUNK] for at in range(0, len(usable), _CHUNK)]
        batches = [pad(part, model.device) for part in parts]
        with torch.no_grad():
            filtered = [model.filter(batch) for batch in batches]
        features = [torch.cat([one.h, one.z], dim=-1) for one in filtered]
        rows = torch.cat([f[b.valid] for f, b in zip(features, batches, strict=True)])
        reward = torch.cat([b.reward[b.valid & ~b.is_first] for b in batches])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = MLP(rows.shape[-1], 1, hidden=64, layers=2, zero=True).to(rows)
        # In units of what one discounted horizon of mean rewards comes to.
        span = max(float(reward.std()), abs(float(reward.mean())), 1e-6) / (1 - discount)
        critic = cls(net, span, discount)
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
        random = np.random.default_rng(seed)
        for _ in range(rounds):
            targets = torch.cat(
                [
                    critic._targets(b, f, mix)[b.valid]
                    for b, f in zip(batches, features, strict=True)
                ]
            )
            for _ in range(steps):
                pick = torch.from_numpy(random.integers(0, len(rows), _BATCH)).to(rows.device)
                loss = F.mse_loss(net(rows[pick]).squeeze(-1), targets[pick] / span)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return critic

    def _targets(self, batch: Batch, features: Tensor, mix: float) -> Tensor:
        """lambda-returns [B, T]: r' + discount * ((1 - mix) * v(s') + mix * target')."""
        value = torch.where(batch.terminated, 0.0, self._value(features))
        target = value.clone()
        for t in range(batch.shape[1] - 2, -1, -1):
            beyond = (1 - mix) * value[:, t + 1] + mix * target[:, t + 1]
            onward = batch.reward[:, t + 1] + self.discount * beyond
            target[:, t] = torch.where(batch.valid[:, t + 1], onward, value[:, t])
        return target
