"""How far what is imagined is from what is then read: KL(posterior || prior) by horizon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm.world_model import WorldModel
    from bb_wm.types import Batch


@torch.no_grad()
def kl_by_horizon(model: WorldModel, batch: Batch | Mapping[str, Any], context: int) -> Tensor:
    """Raw D_KL(q_{t+k} || p_{t+k|t}) in nats, [B, T - context], for k = 1 .. T - context.

    q has read every row up to t + k, p has read the first `context` rows and then only followed
    the real actions, by the most probable z. k = 1 is the ordinary one-step KL.
    """
    rows = model._batch(batch, learn=False)
    rssm, family = model._rssm, model.config.latent
    walk = rssm.filter(rssm.look(rows.obs), rows.action, rows.is_first, None)
    latent = walk.row(context - 1)
    found = []
    for t in range(context, rows.shape[1]):
        latent = rssm.step(latent, rows.action[:, t - 1])
        found.append(family.kl(walk.posterior[:, t], rssm.prior(latent.h)))
    return torch.stack(found, dim=1)
