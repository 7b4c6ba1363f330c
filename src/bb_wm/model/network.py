"""The whole network: dynamics and heads, with what a latent says in data units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

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

    from bb_wm.types import Batch, Latent

# What heads say of a row, by the batch's own names; all but the mask, which a model may lack.
OUTCOMES: Final = ("reward", "safety", "continuation")


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

    def read(
        self, h: Tensor, z: Tensor, asked: Sequence[str] = OUTCOMES
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Decoder parameters of every run of keys from (h, z) [*batch, .], and what the heads that
        are asked say of it before their own scales, [*batch] each; in one pass."""
        rssm = self.rssm
        decoders = [run.modality.head for run in rssm.runs]
        if not asked:
            read = rssm.decode_trunk(torch.cat([h, z], dim=-1))
            return [decoder(read) for decoder in decoders], {}
        nets = [self.head(name).net for name in asked]
        hots, width = rssm.family.hots, rssm.trunk.output.out_features
        # What a linear decoder reads of one-hots themselves is looked up with all the rest.
        apart = [one for one in decoders if hots is not None and isinstance(one, nn.Linear)]
        paths = [decoder.weight[:, width:] for decoder in apart]
        trunk, outcomes, beside = beside_trunk(rssm.trunk, nets, paths, h, z, hots)
        inner = F.silu(trunk)
        read = inner if len(apart) == len(decoders) else torch.cat([inner, h, z], dim=-1)
        found = {
            decoder: F.linear(inner, decoder.weight[:, :width], decoder.bias) + path
            for decoder, path in zip(apart, beside, strict=True)
        }
        params = [found[one] if one in found else one(read) for one in decoders]
        return params, dict(zip(asked, outcomes.unbind(-1), strict=True))

    def head(self, outcome: str) -> RewardHead | RiskHead | ContinueHead:
        """The head of one of `OUTCOMES`."""
        heads: dict[str, RewardHead | RiskHead | ContinueHead] = {
            "reward": self.reward,
            "safety": self.risk,
            "continuation": self.continuation,
        }
        return heads[outcome]

    def errors(
        self, outcomes: Mapping[str, Tensor], reward: Tensor, safety: Tensor, terminated: Tensor
    ) -> dict[str, Tensor]:
        """Per head that was asked, its error [*batch] against what was received in the rows."""
        real = {"reward": reward, "safety": safety, "continuation": terminated}
        return {name: self.head(name).error(raw, real[name]) for name, raw in outcomes.items()}

    def predict_outcomes(self, latent: Latent) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, risk and continuation [*batch], in one pass over the latent."""
        nets = [self.head(name).net for name in OUTCOMES]
        raw = side_by_side(nets, latent.h, latent.z, self.rssm.family.hots)
        reward, risk, goes_on = raw.unbind(-1)
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
