"""A GRU trained on its own predictions over 8 steps: RWM (Li et al. 2025, arXiv 2501.10100).

It reads real rows, then is fed its own for 8 steps, and every step's error is a loss. Here every
fourth row of a sequence is a start, errors are in units of the k-step change, and changes are
predicted. A variance of each row about the mean path is fitted beside it without touching the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bb_wm.types import Episode
from benchmarks.peers.base import Draw, Peer, Rows, perceptron

HIDDEN, HEAD, STEPS = 224, 256, 8
STRIDE = 4  # every fourth row of a sequence starts a prediction, at an offset that is drawn
_LOG_BOUNDS = (-12.0, 4.0)


class _Net(nn.Module):
    """(x, action) of a row -> hidden; hidden -> change of x, its log-variance, the reward."""

    def __init__(self, obs: int, action: int) -> None:
        super().__init__()
        self.gru = nn.GRU(obs + action, HIDDEN, batch_first=True)
        self.head = perceptron(HIDDEN + obs + action, HEAD, HEAD, 2 * obs + 1)
        self.obs = obs

    def read(self, inputs: Tensor) -> Tensor:
        """Hidden after every row, [B, T, H]."""
        hidden: Tensor = self.gru(inputs)[0]
        return hidden

    def step(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        weights = self.gru.all_weights[0]
        return torch.gru_cell(inputs, hidden, *weights)

    def tell(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.head(torch.cat([hidden, inputs], dim=-1))
        change, log_variance, reward = out.split([self.obs, self.obs, 1], dim=-1)
        return change, log_variance.clamp(*_LOG_BOUNDS), reward


class AutoregressiveGRU(Peer):
    """See the module."""

    name = "GRU, 8-step loss"

    def _build(self) -> nn.Module:
        return _Net(self.keys.size, self.action_spec.size)

    def _losses(self, rows: Rows, episodes: Sequence[Episode]) -> Iterator[Tensor]:
        self._spread = _spread_of_changes(rows)
        net = self.net
        assert isinstance(net, _Net)
        for batch in self._batches(episodes):
            real = self.keys.join_batch(batch)
            x, action = self.obs_scale.apply(real), self.action_scale.apply(batch.action)
            reward = self.reward_scale.apply(batch.reward.unsqueeze(-1))
            inputs = torch.cat([x, action], dim=-1)
            offset = int(torch.randint(STRIDE, ()))
            starts = torch.arange(offset, x.shape[1] - 1, STRIDE)
            yield self._unroll(net, x, action, reward, batch.valid, net.read(inputs), starts)

    def _unroll(
        self,
        net: _Net,
        x: Tensor,
        action: Tensor,
        reward: Tensor,
        valid: Tensor,
        hidden: Tensor,
        starts: Tensor,
    ) -> Tensor:
        """Mean error over 8 steps from `starts`; rows past the sequence's end count nothing."""
        total, weight = x.new_zeros(()), x.new_zeros(())
        ratio = self.change_scale.std / self.obs_scale.std
        now, hidden = x[:, starts], hidden[:, starts]
        for k in range(1, STEPS + 1):
            inside = starts + k < x.shape[1]
            starts, now, hidden = starts[inside], now[:, inside], hidden[:, inside]
            if not len(starts):
                break
            inputs = torch.cat([now, action[:, starts + k - 1]], dim=-1)
            if k > 1:
                hidden = net.step(inputs.flatten(0, 1), hidden.flatten(0, 1)).view_as(hidden)
            change, log_variance, told = net.tell(inputs, hidden)
            now = now + change * ratio
            mask = valid[:, starts + k].unsqueeze(-1)
            error = (now - x[:, starts + k]) / self._spread[k - 1]
            likelihood = error.detach().square() * torch.exp(-log_variance) + log_variance
            outcome = (told - reward[:, starts + k]).square()
            total = total + (mask * (error.square() + 0.1 * likelihood)).mean(-1).sum()
            total = total + 0.1 * (mask * outcome).sum()
            weight = weight + mask.sum()
        return total / weight.clamp(min=1)

    def _roll(
        self, x: Tensor, past: Tensor, future: Tensor, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        net = self.net
        assert isinstance(net, _Net)
        ratio = self.change_scale.std / self.obs_scale.std
        low, high = self.obs_scale.apply(self.low), self.obs_scale.apply(self.high)
        seen = self.obs_scale.apply(x)
        inputs = torch.cat([seen, torch.cat([past, future[:, :1]], dim=1)], dim=-1)
        hidden, inputs = net.read(inputs)[:, -1], inputs[:, -1]
        states, rewards, widths = [], [], []
        for k in range(future.shape[1]):
            change, log_variance, reward = net.tell(inputs, hidden)
            new = inputs[..., : x.shape[-1]] + change * ratio
            new = torch.minimum(torch.maximum(new, low), high)
            states.append(new)
            rewards.append(self.reward_scale.undo(reward)[..., 0])
            unit = self._spread[min(k, STEPS - 1)] * self.obs_scale.std
            widths.append(torch.exp(0.5 * log_variance) * unit)
            if k + 1 < future.shape[1]:
                inputs = torch.cat([new, future[:, k + 1]], dim=-1)
                hidden = net.step(inputs, hidden)
        path = self.obs_scale.undo(torch.stack(states, 1))
        if draw is None:
            return path, torch.stack(rewards, 1)
        path = path.unsqueeze(1).repeat(1, draw.count, 1, 1)
        return path + torch.stack(widths, 1).unsqueeze(1) * draw.normal(path), torch.stack(
            rewards, 1
        )


def _spread_of_changes(rows: Rows) -> Tensor:
    """Deviation of x_{t+k} - x_t in deviations of x, k = 1..STEPS, [STEPS, D]."""
    every = torch.cat([torch.from_numpy(x) for x in rows.x])
    std = every.std(0)
    std = torch.where(std > 1e-8, std, torch.ones_like(std))
    found: list[Tensor] = []
    for k in range(1, STEPS + 1):
        pairs = [torch.from_numpy(x[k:] - x[:-k]) for x in rows.x if len(x) > k]
        change = torch.cat(pairs).square().mean(0).sqrt() / std if pairs else found[-1]
        found.append(torch.where(change > 1e-6, change, torch.ones_like(change)))
    return torch.stack(found)
