"""Loss arithmetic on plain tensors; what the document's section 2 adds up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.stochastic import Stochastic


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Every term as a scalar, before its weight, and their weighted sum `total`.

    total = rec + beta * kl + reward + safety + rollout (+ continuation, shortcut, mask), each
    averaged over real rows. `kl_raw` is D_KL(q || p) itself, without balance or free nats.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    kl_raw: Tensor
    reward: Tensor
    safety: Tensor
    rollout: Tensor
    shortcut: Tensor
    continuation: Tensor
    mask: Tensor


def balanced_kl(
    family: Stochastic, q: Tensor, p: Tensor, *, dynamics: float, representation: float
) -> Tensor:
    """dynamics * KL(sg q || p) + representation * KL(q || sg p), [*batch] (Hafner et al. 2021).

    Its value is (dynamics + representation) * KL(q || p); with both at 0.5 its gradient is half of
    the plain one's on each side. The first trains the prior towards what was seen, the second
    keeps the posterior predictable.
    """
    total = dynamics + representation
    if total == 0.0:
        return 0.0 * family.kl(q, p)
    return total * family.shared_kl(q, p, representation / total, dynamics / total).sum(-1)


def free_nats(kl: Tensor, free: float) -> Tensor:
    """max(kl, free) per entry: below `free` nats the divergence is not pushed down further."""
    return kl if free <= 0.0 else kl.clamp_min(free)


def reachable(valid: Tensor, is_first: Tensor, starts: Tensor, steps: int) -> Tensor:
    """Whether row t_s + k continues the episode of row t_s: [B, S, K] for k = 1..steps.

    `starts` [S] are row indices; valid and is_first are [B, T]. A row counts only if every row from
    the start to it is real and none is a first row.
    """
    offsets = torch.arange(1, steps + 1, device=valid.device)
    index = starts[:, None] + offsets
    inside = index < valid.shape[1]
    index = index.clamp_max(valid.shape[1] - 1)
    onward = valid[:, index] & ~is_first[:, index] & inside
    onward = onward & valid[:, starts].unsqueeze(-1)
    return onward.to(torch.uint8).cumprod(-1).bool()


def past_the_end(
    valid: Tensor, is_first: Tensor, terminated: Tensor, starts: Tensor, steps: int
) -> Tensor:
    """Whether k steps from row t_s lead past a terminal row of its episode: [B, S, K], k >= 1.

    No real row is there: what happens past the end is what imagination must not go on with.
    """
    onward = reachable(valid, is_first, starts, steps)
    index = starts[:, None] + torch.arange(1, steps + 1, device=valid.device)
    ends = terminated[:, index.clamp_max(valid.shape[1] - 1)] & onward
    first = terminated[:, starts] & valid[:, starts]
    ended = torch.cat([first.unsqueeze(-1), ends[..., :-1]], dim=-1)
    return ended.to(torch.uint8).cummax(-1).values.bool()
