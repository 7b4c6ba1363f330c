"""TD-MPC2's latent, read by a frozen linear probe (Hansen et al. 2024, arXiv 2310.16828), compact.

No decoder: a latent of simplices must foretell its own next ones over 3 steps (weight 20), the
reward and the value of who recorded the rows (.1 each), later steps counting half as much each.
LayerNorm and Mish, two-hot symlog reward and value, a slow copy of the value for its targets, the
encoder at .3 of the rate. Nothing else of TD-MPC2 is here: one value head, no policy, no planner.
The probe is a ridge regression from latents of the training rows to the rows, fitted afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bb_wm.types import Batch, Episode
from benchmarks.peers.base import Draw, Peer, Rows, perceptron
from benchmarks.peers.rssm import symexp, symlog, two_hot

LATENT, SIMPLEX, HIDDEN, ENTRY = 128, 8, 256, 128
STEPS, STRIDE, FADE, DISCOUNT, SLOW = 3, 2, 0.5, 0.97, 0.01
CONSISTENCY, REWARD, VALUE = 20.0, 0.1, 0.1
BINS, ENCODER_SHARE, RIDGE = 101, 0.3, 1e-4


def simplices(x: Tensor) -> Tensor:
    """Groups of `SIMPLEX` numbers, each made to add up to 1 (SimNorm)."""
    return F.softmax(torch.unflatten(x, -1, (-1, SIMPLEX)), dim=-1).flatten(-2)


def _layers(*sizes: int) -> nn.Sequential:
    return perceptron(*sizes, norm=nn.LayerNorm, bend=nn.Mish)


class _Net(nn.Module):
    def __init__(self, obs: int, action: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_layers(obs, ENTRY, LATENT), nn.LayerNorm(LATENT))
        entry = LATENT + action
        self.dynamics = nn.Sequential(_layers(entry, HIDDEN, HIDDEN, LATENT), nn.LayerNorm(LATENT))
        self.reward = _layers(entry, HIDDEN, BINS)
        self.value = _layers(entry, HIDDEN, BINS)
        self.slow = _layers(entry, HIDDEN, BINS).requires_grad_(False)
        self.slow.load_state_dict(self.value.state_dict())
        for head in (self.reward, self.value, self.slow):
            nn.init.zeros_(head[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(head[-1].bias)  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> Tensor:
        return simplices(self.encoder(x))

    def step(self, latent: Tensor, action: Tensor) -> Tensor:
        return simplices(self.dynamics(torch.cat([latent, action], dim=-1)))

    @torch.no_grad()
    def follow(self) -> None:
        """Move the slow copy of the value a little towards the value."""
        pairs = zip(self.slow.parameters(), self.value.parameters(), strict=True)
        for kept, new in pairs:
            kept.lerp_(new, SLOW)


class ConsistentLatent(Peer):
    """See the module; it has no memory and no spread."""

    name = "TD-MPC2 latent, linear probe"
    has_spread = False

    def fit(self, episodes: Sequence[Episode]) -> Self:
        super().fit(episodes)
        rows = torch.cat([torch.from_numpy(x) for x in Rows(self.keys, episodes).x])
        x = self.obs_scale.apply(rows)
        with torch.no_grad():
            latent = self._net.encode(x).double()
        read = torch.cat([latent, torch.ones_like(latent[:, :1])], dim=-1)
        gram = read.T @ read + RIDGE * len(read) * torch.eye(read.shape[-1], dtype=read.dtype)
        self._probe = torch.linalg.solve(gram, read.T @ x.double()).float()
        return self

    @property
    def _net(self) -> _Net:
        assert isinstance(self.net, _Net)
        return self.net

    def _build(self) -> nn.Module:
        self._edges = torch.linspace(-10, 10, BINS)
        return _Net(self.keys.size, self.action_spec.size)

    def _shares(self) -> list[tuple[list[nn.Parameter], float]]:
        encoder = list(self._net.encoder.parameters())
        known = {id(p) for p in encoder}
        rest = [p for p in self._net.parameters() if id(p) not in known and p.requires_grad]
        return [(encoder, ENCODER_SHARE), (rest, 1.0)]

    def _losses(self, rows: Rows, episodes: Sequence[Episode]) -> Iterator[Tensor]:
        for batch in self._batches(episodes):
            self._net.follow()
            yield self._unroll(self._net, batch)

    def _unroll(self, net: _Net, batch: Batch) -> Tensor:
        """From every second row that has `STEPS` rows after it in its episode: about the paper's
        256 starts."""
        x = self.obs_scale.apply(self.keys.join_batch(batch))
        action = self.action_scale.apply(batch.action)
        with torch.no_grad():
            real = net.encode(x)
            worth = self._number(net.slow(torch.cat([real, action], dim=-1)))
            going = DISCOUNT * ~batch.terminated
            # What the recorded actions earn: reward, and the slow value of the action done next.
            outcomes = [(batch.reward, REWARD), (batch.reward + going * worth, VALUE)]
            wanted = [(two_hot(symlog(told), self._edges), share) for told, share in outcomes]
        starts = torch.arange(int(torch.randint(STRIDE, ())), x.shape[1] - STEPS, STRIDE)
        goes_on = batch.valid & ~batch.is_first
        weight = batch.valid[:, starts]
        latent, total = net.encode(x[:, starts]), x.new_zeros(())
        for k in range(STEPS):
            done, ahead = action[:, starts + k], starts + k + 1
            weight = weight & goes_on[:, ahead]
            told = torch.cat([latent, done], dim=-1)
            latent = net.step(latent, done)
            loss = CONSISTENCY * (latent - real[:, ahead]).square().mean(-1)
            for head, (hot, share) in zip((net.reward, net.value), wanted, strict=True):
                loss = loss - share * (hot[:, ahead] * F.log_softmax(head(told), -1)).sum(-1)
            total = total + FADE**k * (loss * weight).sum() / weight.sum().clamp(min=1)
        return total / STEPS

    def _number(self, logits: Tensor) -> Tensor:
        return symexp(F.softmax(logits, dim=-1) @ self._edges)

    def _roll(
        self, x: Tensor, past: Tensor, future: Tensor, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        latent = self._net.encode(self.obs_scale.apply(x[:, -1]))
        states, rewards = [], []
        for action in future.unbind(1):
            rewards.append(self._number(self._net.reward(torch.cat([latent, action], dim=-1))))
            latent = self._net.step(latent, action)
            states.append(latent @ self._probe[:-1] + self._probe[-1])
        return self.obs_scale.undo(torch.stack(states, 1)), torch.stack(rewards, 1)
