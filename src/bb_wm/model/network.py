"""The whole network: dynamics and heads, with what a latent says in data units."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model.dynamics import RSSM, features_of
from bb_wm.model.heads import (
    ContinueHead,
    MaskHead,
    RewardHead,
    RiskHead,
    beside_trunk,
    side_by_side,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.nets import MLP
    from bb_wm.types import Batch, Latent


class Network(nn.Module):
    """RSSM plus heads."""

    def __init__(self, rssm: RSSM, *, action_size: int, head_hidden: int, masked: bool) -> None:
        super().__init__()
        self.rssm = rssm
        self.action_size = action_size
        self.reward = RewardHead(rssm.latent_size, head_hidden)
        self.risk = RiskHead(rssm.latent_size, head_hidden)
        self.continuation = ContinueHead(rssm.latent_size, head_hidden)
        self.mask = MaskHead(rssm.latent_size, action_size, head_hidden) if masked else None

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What decoder heads read in features [*batch, D + Z], and `outcomes`, in one pass."""
        trunk, outcomes = beside_trunk(
            self.rssm.trunk, self._heads(), features, self.rssm.family.hots
        )
        return torch.cat([F.silu(trunk), features], dim=-1), outcomes

    def outcomes(self, features: Tensor) -> Tensor:
        """What the heads for reward, risk and continuation read in features [*batch, D + Z], before
        their own scales: [*batch, 3]."""
        return side_by_side(self._heads(), features, self.rssm.family.hots)

    def _heads(self) -> list[MLP]:
        return [head.net for head in (self.reward, self.risk, self.continuation)]

    def predict_outcomes(self, latent: Latent) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, risk and continuation [*batch], in one pass over the latent."""
        reward, risk, goes_on = self.outcomes(features_of(latent)).unbind(-1)
        return self.reward.value(reward), self.risk.value(risk), self.continuation.value(goes_on)

    def predict_reward(self, latent: Latent) -> Tensor:
        return cast("Tensor", self.reward(features_of(latent)))

    def predict_safety(self, latent: Latent) -> Tensor:
        return cast("Tensor", self.risk(features_of(latent)))

    def predict_continue(self, latent: Latent) -> Tensor:
        return cast("Tensor", self.continuation(features_of(latent)))

    def predict_action_mask(self, latent: Latent) -> Tensor:
        """Probability [*batch, A] per entry of a flat action; all 1 where masks were not learnt."""
        if self.mask is None:
            return torch.ones_like(latent.h[..., :1]).expand(*latent.batch_shape, self.action_size)
        return cast("Tensor", self.mask(features_of(latent)))

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        """Merge a batch of real rows into the running statistics."""
        valid = batch.valid
        follows = valid[:, 1:] & valid[:, :-1] & ~batch.is_first[:, 1:]
        for i, key in enumerate(self.rssm.keys):
            obs = batch.obs[key]
            modality = self.rssm.modality(i)
            rows = obs[valid]
            # Pictures have no use for changes, and they are large.
            changes = (
                (obs[:, 1:].float() - obs[:, :-1].float())[follows]
                if modality.by_sight
                else rows[:0]
            )
            modality.observe(rows, changes)
        self.rssm.action_statistics.update(batch.action[:, :-1][follows])
        received = valid & ~batch.is_first
        self.reward.statistics.update(batch.reward[received].unsqueeze(-1))
        self.risk.statistics.update(batch.safety[received].unsqueeze(-1))
