"""Heads: what a latent says about reward, risk, continuation and which actions are available."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model.nets import MLP, Statistics

if TYPE_CHECKING:
    from torch import Tensor


class RewardHead(nn.Module):
    """r = g(h, z) in the data's units; learnt by squared error on the standardised reward."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, 1, hidden=hidden, layers=1, zero=True)
        self.statistics = Statistics(1)

    def forward(self, features: Tensor) -> Tensor:
        raw = self.net(features).squeeze(-1)
        scaled: Tensor = raw * self.statistics.scale[0]
        return scaled + self.statistics.centre[0]

    def error(self, features: Tensor, reward: Tensor) -> Tensor:
        """Squared error in units of the reward's variance."""
        gap: Tensor = self(features) - reward
        return (gap / self.statistics.scale).square()


class RiskHead(nn.Module):
    """V_s(h, z) >= 0, the risk of the row in the data's units; larger is worse."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, 1, hidden=hidden, layers=1, zero=True)
        self.statistics = Statistics(1)
        self.start = -3.0  # softplus(-3) = 0.05: nearly no risk before any was seen

    def forward(self, features: Tensor) -> Tensor:
        return F.softplus(self.net(features).squeeze(-1) + self.start) * self.statistics.scale[0]

    def error(self, features: Tensor, risk: Tensor) -> Tensor:
        """Squared error in units of the risk's variance."""
        gap: Tensor = self(features) - risk
        return (gap / self.statistics.scale).square()


class ContinueHead(nn.Module):
    """Probability that the row is not terminal. Truncation is not termination."""

    def __init__(self, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(latent_size, 1, hidden=hidden, layers=1, zero=True)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.net(features).squeeze(-1) + 3.0)

    def error(self, features: Tensor, terminated: Tensor) -> Tensor:
        """-log p(terminated)."""
        logits = self.net(features).squeeze(-1) + 3.0
        return F.binary_cross_entropy_with_logits(logits, (~terminated).float(), reduction="none")


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
