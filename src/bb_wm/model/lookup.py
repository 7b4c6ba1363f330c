"""Reading one-hots by looking their columns up instead of multiplying all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

_MANY = 64  # rows from which looking up pays


class LatentLinear(nn.Linear):
    """A linear layer that reads z. `hots` (groups, classes) where z is one-hots, else None."""

    hots: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.hots is None:
            return super().forward(x)
        return affine_of_hots(x, self.weight, self.bias, *self.hots)


def affine_of_hots(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, classes: int
) -> Tensor:
    """x W^T + b of x [*, M + groups * classes] that ends in one-hots.

    Of a one-hot's columns only one counts: on a CPU, where nothing is learnt, the rows of W^T are
    looked up and added, a quarter of the time of the product. Whatever is not one-hot (an empty
    belief's zeros, a mean of beliefs) is multiplied.
    """
    index = None
    learning = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not learning and x.device.type == "cpu" and x.numel() >= _MANY * x.shape[-1]:
        index = _index_of_hots(x[..., -groups * classes :], groups, classes)
    if index is None:
        return F.linear(x, weight, bias)
    rest = x.shape[-1] - groups * classes
    table = weight[:, rest:].t().contiguous()
    found = F.embedding_bag(index, table, mode="sum").reshape(*x.shape[:-1], -1)
    if rest:
        return found + F.linear(x[..., :rest], weight[:, :rest], bias)
    return found if bias is None else found + bias


def _index_of_hots(z: Tensor, groups: int, classes: int) -> Tensor | None:
    """Rows [N, groups] of a table [groups * classes, .]; None where z is not all one-hots."""
    largest, index = z.reshape(-1, groups, classes).max(-1)
    if int(torch.count_nonzero(z)) != largest.numel() or not bool((largest == 1.0).all()):
        return None
    return index + torch.arange(0, groups * classes, classes)
