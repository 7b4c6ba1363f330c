"""An RSSM with DreamerV3's losses (Hafner et al. 2023, arXiv 2301.04104), compact.

16 variables of 16 classes with 1 % uniform mix, straight-through gradients, symlog inputs and
symlog squared-error decoder, symexp two-hot reward, KL balanced 1.0 / 0.1 with one free nat each,
RMSNorm and SiLU, a GRU with update bias -1. Nothing else of DreamerV3 is here: no actor, no critic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bb_wm.types import Episode
from benchmarks.peers.base import Draw, Peer, Rows, perceptron

DETER, HIDDEN, HEAD = 128, 112, 48
VARIABLES, CLASSES = 16, 16
UNIMIX, FREE_NATS = 0.01, 1.0
DYNAMICS, REPRESENTATION = 1.0, 0.1
BINS = 255
GUESSES = 16


def symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.expm1(x.abs())


def probabilities(logits: Tensor) -> Tensor:
    """0.99 softmax + 0.01 uniform, [..., VARIABLES, CLASSES]."""
    mixed = F.softmax(logits.view(*logits.shape[:-1], VARIABLES, CLASSES), dim=-1)
    return (1 - UNIMIX) * mixed + UNIMIX / CLASSES


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of probabilities in nats, summed over variables."""
    return (p * (p.log() - q.log())).sum(dim=(-2, -1))


def two_hot(x: Tensor, edges: Tensor) -> Tensor:
    """Weights [..., BINS] on the two bins next to x that average to it."""
    x = x.clamp(edges[0], edges[-1])
    above = torch.searchsorted(edges, x).clamp(1, len(edges) - 1)
    low, high = edges[above - 1], edges[above]
    share = ((x - low) / (high - low)).unsqueeze(-1)
    upper = F.one_hot(above, len(edges))
    return upper * share + F.one_hot(above - 1, len(edges)) * (1 - share)


def gumbel(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """Noise that makes the argmax of log-probabilities a draw from them."""
    return -torch.log(-torch.log(torch.rand(shape, generator=generator).clamp(1e-20, 1 - 1e-7)))


def bins() -> Tensor:
    """Edges of the two-hot reward: symexp of -20..20, exactly symmetric."""
    half = symexp(torch.linspace(-20, 0, BINS // 2 + 1))
    return torch.cat([half, -half[:-1].flip(0)])


def draw_code(p: Tensor, noise: Tensor | None) -> Tensor:
    """One-hot codes [..., VARIABLES * CLASSES], gradients straight through to the probabilities.

    Without noise the likeliest code.
    """
    fixed = p.detach()
    index = (fixed if noise is None else fixed.log() + noise).argmax(-1)
    return (F.one_hot(index, CLASSES) + (p - fixed)).flatten(-2)


class _Net(nn.Module):
    def __init__(self, obs: int, action: int) -> None:
        super().__init__()
        z = VARIABLES * CLASSES
        self.encoder = perceptron(obs, HIDDEN, HIDDEN, norm=nn.RMSNorm)
        self.enter = nn.Sequential(nn.Linear(z + action, HIDDEN), nn.RMSNorm(HIDDEN), nn.SiLU())
        self.gates = nn.Sequential(nn.Linear(DETER + HIDDEN, 3 * DETER), nn.RMSNorm(3 * DETER))
        self.prior = perceptron(DETER, HIDDEN, z, norm=nn.RMSNorm)
        self.posterior = perceptron(DETER + HIDDEN, HIDDEN, z, norm=nn.RMSNorm)
        self.decoder = perceptron(DETER + z, HIDDEN, HIDDEN, obs, norm=nn.RMSNorm)
        self.reward = perceptron(DETER + z, HEAD, BINS, norm=nn.RMSNorm)
        self.going = perceptron(DETER + z, HEAD, 1, norm=nn.RMSNorm)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                std = 1.1368 / layer.in_features**0.5
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.reward[-1].weight)  # type: ignore[arg-type]

    def advance(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        entered = self.enter(torch.cat([z, action], dim=-1))
        reset, new, update = self.gates(torch.cat([h, entered], dim=-1)).chunk(3, dim=-1)
        update = torch.sigmoid(update - 1)
        return update * torch.tanh(torch.sigmoid(reset) * new) + (1 - update) * h

    def infer(self, h: Tensor, seen: Tensor) -> Tensor:
        return probabilities(self.posterior(torch.cat([h, seen], dim=-1)))


class DreamerRSSM(Peer):
    """See the module. Its best guess is the mode's path or the mean of 16 samples."""

    name = "RSSM, DreamerV3 losses"
    readings = ("mode", "mean of 16 samples")

    def _build(self) -> nn.Module:
        self._edges = bins()
        return _Net(self.keys.size, self.action_spec.size)

    def _losses(self, rows: Rows, episodes: Sequence[Episode]) -> Iterator[Tensor]:
        net = self.net
        assert isinstance(net, _Net)
        for batch in self._batches(episodes):
            x = symlog(self.keys.join_batch(batch))
            action = self.action_scale.apply(batch.action)
            seen = net.encoder(x)
            h, z = x.new_zeros(len(x), DETER), x.new_zeros(len(x), VARIABLES * CLASSES)
            hs, zs, posteriors = [], [], []
            noise = gumbel(*x.shape[:2], VARIABLES, CLASSES)
            for t in range(x.shape[1]):
                if t:
                    h = net.advance(h, z, action[:, t - 1])
                posteriors.append(net.infer(h, seen[:, t]))
                z = draw_code(posteriors[-1], noise[:, t])
                hs.append(h)
                zs.append(z)
            h_all, q = torch.stack(hs, 1), torch.stack(posteriors, 1)
            latent = torch.cat([h_all, torch.stack(zs, 1)], dim=-1)
            terms = (net.decoder(latent) - x).square().sum(-1) + self._divergences(
                q, probabilities(net.prior(h_all))
            )
            weight = batch.valid.float()
            terms = terms + self._outcomes(
                net, latent, batch.reward, batch.terminated, batch.is_first
            )
            yield (terms * weight).sum() / weight.sum().clamp(min=1)

    @staticmethod
    def _divergences(q: Tensor, p: Tensor) -> Tensor:
        """Balanced KL per row, each side not below one nat."""
        dynamics = divergence(q.detach(), p).clamp(min=FREE_NATS)
        representation = divergence(q, p.detach()).clamp(min=FREE_NATS)
        return DYNAMICS * dynamics + REPRESENTATION * representation

    def _outcomes(
        self, net: _Net, latent: Tensor, reward: Tensor, terminated: Tensor, first: Tensor
    ) -> Tensor:
        received = -(two_hot(reward, self._edges) * F.log_softmax(net.reward(latent), -1)).sum(-1)
        going = F.binary_cross_entropy_with_logits(
            net.going(latent).squeeze(-1), 1 - terminated.float(), reduction="none"
        )
        return received * (~first) + going  # nothing was received in an episode's first row

    def _roll(
        self, x: Tensor, past: Tensor, future: Tensor, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        if draw is None and self.reading != "mode":
            rows, rewards = self._roll(x, past, future, Draw(GUESSES, _seeded()))
            return rows.mean(1), rewards
        net = self.net
        assert isinstance(net, _Net)
        count = 1 if draw is None else draw.count
        seen = net.encoder(symlog(x)).repeat_interleave(count, 0)
        actions = torch.cat([past, future], dim=1).repeat_interleave(count, 0)

        def settle(p: Tensor) -> Tensor:
            noise = None if draw is None else gumbel(*p.shape, generator=draw.generator)
            return draw_code(p, noise)

        h = seen.new_zeros(len(seen), DETER)
        z = settle(net.infer(h, seen[:, 0]))
        states, rewards_ = [], []
        for t in range(1, actions.shape[1] + 1):
            h = net.advance(h, z, actions[:, t - 1])
            real = t < x.shape[1]
            z = settle(net.infer(h, seen[:, t]) if real else probabilities(net.prior(h)))
            if not real:
                latent = torch.cat([h, z], dim=-1)
                states.append(symexp(net.decoder(latent)))
                told = F.softmax(net.reward(latent).double(), -1) @ self._edges.double()
                rewards_.append(told.float())
        rows, received = torch.stack(states, 1), torch.stack(rewards_, 1)
        if draw is None:
            return rows, received
        lead = (len(x), count)
        return rows.view(*lead, *rows.shape[1:]), received.view(*lead, -1).mean(1)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
