"""Whole episodes side by side as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bb_wm.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.types import Episode


def pad(episodes: Sequence[Episode], device: torch.device) -> Batch:
    """Episodes side by side, [B, T]; padding repeats the last row and is not valid."""
    longest = max(len(episode) for episode in episodes)

    def column(get: Any, dtype: Any = None) -> Tensor:
        rows = []
        for episode in episodes:
            values = np.asarray(get(episode), dtype)
            index = np.minimum(np.arange(longest), len(episode) - 1)
            rows.append(values[index])
        return torch.from_numpy(np.stack(rows)).to(device)

    count = len(episodes)
    first = torch.zeros(count, longest, dtype=torch.bool, device=device)
    first[:, 0] = True
    lengths = torch.tensor([len(episode) for episode in episodes], device=device)
    place = torch.arange(longest, device=device)
    ended = torch.tensor([bool(episode.terminated) for episode in episodes], device=device)
    return Batch(
        obs={key: column(lambda e, k=key: e.obs[k]) for key in episodes[0].obs},
        action=column(lambda e: e.action, np.float32),
        reward=column(lambda e: e.reward, np.float32),
        safety=column(lambda e: e.safety, np.float32),
        terminated=(place == lengths[:, None] - 1) & ended[:, None],
        is_first=first,
        valid=place < lengths[:, None],
    )
