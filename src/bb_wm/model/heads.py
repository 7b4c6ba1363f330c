"""Heads: what a latent says about reward, risk, continuation and which actions are available."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model import native
from bb_wm.model.lookup import affine_of_latent, product_of_latent
from bb_wm.model.nets import MLP, Statistics, split
from bb_wm.model.products import joined

if TYPE_CHECKING:
    from torch import Tensor


class RewardHead(nn.Module):
    """r = g(h, z) in the data's units; learnt by squared error on the standardised reward."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, 1, hidden=hidden, layers=1, zero=True)
        self.statistics = Statistics(1)

    def forward(self, features: Tensor) -> Tensor:
        return self.value(self.net(features).squeeze(-1))

    def value(self, raw: Tensor) -> Tensor:
        """The reward from the net's output."""
        return torch.addcmul(self.statistics.centre[0], raw, self.statistics.scale[0])

    def error(self, raw: Tensor, reward: Tensor) -> Tensor:
        """Squared error in units of the reward's variance."""
        return ((self.value(raw) - reward) / self.statistics.scale).square()


class RiskHead(nn.Module):
    """V_s(h, z) >= 0, the risk of the row in the data's units; larger is worse."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, 1, hidden=hidden, layers=1, zero=True)
        self.statistics = Statistics(1)
        self.start = -3.0  # softplus(-3) = 0.05: nearly no risk before any was seen

    def forward(self, features: Tensor) -> Tensor:
        return self.value(self.net(features).squeeze(-1))

    def value(self, raw: Tensor) -> Tensor:
        """The risk from the net's output."""
        return F.softplus(raw + self.start) * self.statistics.scale[0]

    def error(self, raw: Tensor, risk: Tensor) -> Tensor:
        """Squared error in units of the risk's variance."""
        return ((self.value(raw) - risk) / self.statistics.scale).square()


class ContinueHead(nn.Module):
    """Probability that the row is not terminal. Truncation is not termination."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, 1, hidden=hidden, layers=1, zero=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.value(self.net(features).squeeze(-1))

    def value(self, raw: Tensor) -> Tensor:
        """The probability from the net's output."""
        return torch.sigmoid(raw + 3.0)

    def error(self, raw: Tensor, terminated: Tensor) -> Tensor:
        """-log p(terminated)."""
        goes_on = (~terminated).to(raw.dtype)
        return F.binary_cross_entropy_with_logits(raw + 3.0, goes_on, reduction="none")


def side_by_side(nets: list[MLP], h: Tensor, z: Tensor, hots: tuple[int, int] | None) -> Tensor:
    """Outputs [*batch, n] of n perceptrons of one hidden layer and one output, in one pass over
    h [*batch, D] and z [*batch, Z], which is one-hots where `hots` says so."""
    weight, bias = _entry(nets)
    if native.ready(h, nets[0].output.in_features):
        told = product_of_latent(h, z, weight, hots)
        last = (
            torch.cat([getattr(net.output, name) for net in nets]) for name in ("weight", "bias")
        )
        return native.heads(told, bias, *last).view(*h.shape[:-1], -1)
    return _leave(nets, affine_of_latent(h, z, weight, bias, hots))


def beside_trunk(
    trunk: MLP,
    nets: list[MLP],
    paths: list[Tensor],
    h: Tensor,
    z: Tensor,
    hots: tuple[int, int] | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The trunk's output, `side_by_side` of the others, and the products with `paths` [., D + Z];
    in one pass over h and z."""
    weights, biases = zip(_entry(nets), _entry([trunk]), strict=True)
    sizes = [*(len(bias) for bias in biases), *(len(path) for path in paths)]
    none = [path.new_zeros(len(path)) for path in paths]
    weight, bias = torch.cat([*weights, *paths]), torch.cat([*biases, *none])
    mine, own, *others = split(affine_of_latent(h, z, weight, bias, hots), sizes)
    inner, outer = own.tensor_split([trunk.output.in_features], dim=-1)
    return trunk.leave(inner, None if trunk.linear is None else outer), _leave(nets, mine), others


def _entry(nets: list[MLP]) -> tuple[Tensor, Tensor]:
    """Weight and bias of all that reads the latent itself: hidden layers, then linear paths."""
    hidden = [cast("nn.Linear", net.hidden[0]) for net in nets]
    bypasses = [net.linear.weight for net in nets if net.linear is not None]
    weight = joined([*(one.weight for one in hidden), *bypasses])
    none = [torch.zeros_like(one[:, 0]) for one in bypasses]
    return weight, torch.cat([*(one.bias for one in hidden), *none])


def _leave(nets: list[MLP], read: Tensor) -> Tensor:
    """The outputs [*batch, n] from what `_entry` made of a latent."""
    inner, outer = read.tensor_split([-len(nets)], dim=-1)
    hidden = F.silu(inner, inplace=not torch.is_grad_enabled())  # nobody else reads it
    last = torch.stack([net.output.weight[0] for net in nets])
    heads = torch.unflatten(hidden, -1, last.shape)
    return (heads * last).sum(-1) + outer + torch.cat([net.output.bias for net in nets])


class MaskHead(nn.Module):
    """Probability [*batch, A] that each entry of the flat action is available in the row."""

    def __init__(self, latent_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, action_size, hidden=hidden, layers=1, zero=True)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.net(features))

    def error(self, features: Tensor, mask: Tensor) -> Tensor:
        """-log p(mask), summed over the entries."""
        losses = F.binary_cross_entropy_with_logits(
            self.net(features), mask.float(), reduction="none"
        )
        return losses.sum(-1)
