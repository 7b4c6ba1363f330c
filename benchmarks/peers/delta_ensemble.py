"""Probabilistic ensemble of one-step models: PETS (Chua et al. 2018, arXiv 1805.12114).

Five perceptrons (obs, action) -> Gaussian over the change of obs and the reward, negative
log-likelihood with learned soft bounds of the log-variance, a bootstrap of its own for each.
Its best guess is the mean of the members' own mean paths; a sample keeps its member (TS-infinity).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bb_wm.types import Episode
from benchmarks.peers.base import Draw, Peer, Rows

MEMBERS, HIDDEN, LAYERS = 5, 200, 3
_BOUNDS = 0.01  # weight of the term that keeps the bounds of the log-variance narrow


class _Members(nn.Module):
    """MEMBERS perceptrons side by side: x [M, N, in] -> mean and log-variance [M, N, out]."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        sizes = [size, *[HIDDEN] * LAYERS, 2 * out]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(a)
            self.weights.append(nn.Parameter(torch.empty(MEMBERS, a, b).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(MEMBERS, 1, b).uniform_(-bound, bound)))
        self.high, self.low = (
            nn.Parameter(torch.full((out,), 0.5)),
            nn.Parameter(torch.full((out,), -10.0)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = F.silu(x) if i < last else x
        mean, raw = x.chunk(2, dim=-1)
        below = self.high - F.softplus(self.high - raw)
        return mean, self.low + F.softplus(below - self.low)


class DeltaEnsemble(Peer):
    """See the module; it has no memory, so what one row does not show it cannot know."""

    name = "delta-MLP ensemble"

    def _build(self) -> nn.Module:
        return _Members(self.keys.size + self.action_spec.size, self.keys.size + 1)

    def _losses(self, rows: Rows, episodes: Sequence[Episode]) -> Iterator[Tensor]:
        x = torch.cat([torch.from_numpy(x[:-1]) for x in rows.x])
        new = torch.cat([torch.from_numpy(x[1:]) for x in rows.x])
        action = torch.cat([torch.from_numpy(a[:-1]) for a in rows.action])
        reward = torch.cat([torch.from_numpy(r[1:, None]) for r in rows.reward])
        inputs = torch.cat([self.obs_scale.apply(x), self.action_scale.apply(action)], dim=-1)
        change = self.change_scale.apply(new - x)
        targets = torch.cat([change, self.reward_scale.apply(reward)], dim=-1)
        own = torch.randint(len(x), (MEMBERS, len(x)))
        net = self.net
        assert isinstance(net, _Members)
        while True:
            index = own.gather(1, torch.randint(len(x), (MEMBERS, self.effort.rows)))
            mean, log_variance = net(inputs[index])
            error = (mean - targets[index]).square()
            likelihood = (error * torch.exp(-log_variance) + log_variance).mean(dim=(1, 2)).sum()
            yield likelihood + _BOUNDS * (net.high.sum() - net.low.sum())

    def _roll(
        self, x: Tensor, past: Tensor, future: Tensor, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        each = 1 if draw is None else math.ceil(draw.count / MEMBERS)
        windows, steps = future.shape[:2]
        now = x[:, -1].repeat_interleave(each, 0).expand(MEMBERS, -1, -1)
        actions = future.repeat_interleave(each, 0).expand(MEMBERS, -1, -1, -1)
        states, rewards = [], []
        for k in range(steps):
            mean, log_variance = self.net(
                torch.cat([self.obs_scale.apply(now), actions[:, :, k]], dim=-1)
            )
            if draw is not None:
                mean = mean + torch.exp(0.5 * log_variance) * draw.normal(mean)
            now = now + self.change_scale.undo(mean[..., :-1])
            now = torch.minimum(torch.maximum(now, self.low), self.high)
            states.append(now)
            rewards.append(self.reward_scale.undo(mean[..., -1:])[..., 0])
        paths, received = torch.stack(states, 2), torch.stack(rewards, 2)
        if draw is None:
            return paths.mean(0), received.mean(0)
        size = paths.shape[-1]
        particles = paths.reshape(MEMBERS, windows, each, steps, size).permute(1, 2, 0, 3, 4)
        particles = particles.reshape(windows, each * MEMBERS, steps, size)[:, : draw.count]
        return particles, received.mean(0)
