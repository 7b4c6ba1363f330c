"""Reading one-hots by looking their columns up instead of multiplying all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bb_wm.model.products import Linear, kept, linear, operand, times

if TYPE_CHECKING:
    from torch import Tensor

_MANY = 64  # rows from which looking up pays


class LatentLinear(Linear):
    """A linear layer that reads z. `hots` (groups, classes) where z is one-hots, else None."""

    hots: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return affine_of_latent(x, self.weight, self.bias, self.hots)


def affine_of_latent(
    x: Tensor, weight: Tensor, bias: Tensor | None, hots: tuple[int, int] | None
) -> Tensor:
    """x W^T + b of x [*, M + Z] that ends in a z: one-hots of `hots` (groups, classes), or any.

    Of a one-hot's columns only one counts: on a CPU the rows of W^T are looked up and added, and
    W's gradient is scattered, in a quarter of the products' time; x's own gradient, which reaches
    every column straight through, stays a product. Whatever is not one-hot (an empty belief's
    zeros, a mean of beliefs) is multiplied.
    """
    rest = x.shape[-1] - math.prod(hots or ())
    index = None
    if hots is not None and x.device.type == "cpu" and x.numel() >= _MANY * x.shape[-1]:
        index = _index_of_hots(x.detach()[..., rest:], *hots)
    if index is None:
        return linear(x, weight, bias)
    source = weight.detach() if torch.is_grad_enabled() else weight
    factor = operand(source)
    table = kept(source, f"table of {factor.dtype}", lambda _: factor[:, rest:].t().contiguous())
    flat = _LookUp.apply(x.flatten(0, -2), weight, index, factor, table)  # type: ignore[no-untyped-call]
    found = cast("Tensor", flat).reshape(*x.shape[:-1], -1)
    return found if bias is None else found + bias


class _LookUp(torch.autograd.Function):
    """x [N, M + Z] and W [O, M + Z], whose last Z columns are the rows of `table` [Z, O]; `index`
    [N, groups] are those that are hot. `factor` is W as it is multiplied."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, index: Tensor, factor: Tensor, table: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, index, factor)
        ctx.rest = rest = x.shape[1] - table.shape[0]
        found = F.embedding_bag(index, table, mode="sum").to(x.dtype)
        return times(x[:, :rest], factor[:, :rest].t(), found) if rest else found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, index, factor = ctx.saved_tensors
        by_x = times(slope, factor) if ctx.needs_input_grad[0] else None
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_table = slope.new_zeros(factor.shape[1] - ctx.rest, factor.shape[0])
            for group in index.unbind(1):  # embedding_bag's own backward takes longer
                by_table.index_add_(0, group, slope)
            by_rest = times(slope.t().to(factor.dtype), x[:, : ctx.rest])
            by_weight = torch.cat([by_rest, by_table.t()], dim=1)
        return by_x, by_weight, None, None, None


def _index_of_hots(z: Tensor, groups: int, classes: int) -> Tensor | None:
    """Rows [N, groups] of a table [groups * classes, .]; None where z is not all one-hots."""
    largest, index = z.reshape(-1, groups, classes).max(-1)
    if int(torch.count_nonzero(z)) != largest.numel() or not bool((largest == 1.0).all()):
        return None
    return index + torch.arange(0, groups * classes, classes)
