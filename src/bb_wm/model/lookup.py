"""Reading one-hots by looking their columns up instead of multiplying all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bb_wm.model.products import Linear, kept, linear, operand, product, stamp, times

if TYPE_CHECKING:
    from torch import Tensor

_MANY = 64  # rows from which looking up pays


class LatentLinear(Linear):
    """A linear layer that reads z. `hots` (groups, classes) where z is one-hots, else None."""

    hots: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.hots is None:
            return linear(x, self.weight, self.bias)
        rest = x.shape[-1] - math.prod(self.hots)
        z = x[..., rest:] if rest else x
        return affine_of_latent(x[..., :rest], z, self.weight, self.bias, self.hots)


def affine_of_latent(
    h: Tensor, z: Tensor, weight: Tensor, bias: Tensor | None, hots: tuple[int, int] | None
) -> Tensor:
    """[h, z] W^T + b of h [*, M], which may be empty, and z [*, Z]: one-hots of `hots` (groups,
    classes), or any.

    Of a one-hot's columns only one counts: on a CPU the rows of W^T are looked up and added, and
    W's gradient is gathered, in a quarter of the products' time; z's own gradient, which reaches
    every column straight through, stays a product. Whatever is not one-hot (an empty belief's
    zeros, a mean of beliefs) is multiplied.
    """
    index = None if hots is None else index_of_hots(z, *hots)
    if index is None:
        return linear(torch.cat([h, z], dim=-1) if h.shape[-1] else z, weight, bias)
    source = weight.detach() if torch.is_grad_enabled() else weight
    factor, rest = operand(source), h.shape[-1]
    table = _table(source, factor, rest)
    rows = h.flatten(0, -2), z.flatten(0, -2)
    flat = _LookUp.apply(*rows, weight, index, factor, table)  # type: ignore[no-untyped-call]
    found = cast("Tensor", flat if bias is None else flat.add_(bias))
    return found.reshape(*z.shape[:-1], -1)


def product_of_latent(h: Tensor, z: Tensor, weight: Tensor, hots: tuple[int, int] | None) -> Tensor:
    """[h, z] W^T of h [*, M] and z [*, Z] as rows, as it comes (`products.product`); without
    autograd."""
    rest = h.shape[-1]
    index = None if hots is None else index_of_hots(z, *hots)
    h, z = h.flatten(0, -2), z.flatten(0, -2)
    if index is None:
        return product(torch.cat([h, z], dim=-1) if rest else z, weight)
    factor = operand(weight)
    found = F.embedding_bag(index, _table(weight, factor, rest), mode="sum")
    return found.addmm_(h.to(factor.dtype), factor[:, :rest].t()) if rest else found


def _table(weight: Tensor, factor: Tensor, rest: int) -> Tensor:
    """z's rows of W^T, of W as it is multiplied."""
    return kept(weight, f"table of {factor.dtype}", lambda _: factor[:, rest:].t().contiguous())


class _LookUp(torch.autograd.Function):
    """h [N, M], z [N, Z] and W [O, M + Z], whose last Z columns are the rows of `table` [Z, O];
    `index` [N, groups] are those that are hot. `factor` is W as it is multiplied."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, z: Tensor, weight: Tensor, index: Tensor, factor: Tensor, table: Tensor
    ) -> Tensor:
        ctx.save_for_backward(h, index, factor)
        found = F.embedding_bag(index, table, mode="sum")
        return times(h, factor[:, : h.shape[1]].t(), found) if h.shape[1] else found.to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        h, index, factor = ctx.saved_tensors
        by_h = by_z = by_weight = None
        rest = h.shape[1]
        slope = slope.to(factor.dtype)
        if any(ctx.needs_input_grad[:2]):
            by_h, by_z = times(slope, factor).tensor_split([rest], dim=1)
        if ctx.needs_input_grad[2]:
            by_table = gathered(index, slope, factor.shape[1] - rest)
            by_weight = torch.cat([times(slope.t(), h), by_table.t()], dim=1)
        return by_h, by_z, by_weight, None, None, None


def gathered(index: Tensor, slope: Tensor, size: int) -> Tensor:
    """[size, O]: to each row of a table, the sum of the slopes [N, O] of all that looked it up.

    A table's row reads its slopes one after the other; adding each slope [O] to the `groups` rows
    it belongs to would read and write all of the table again and again.
    """
    asked = index.t().flatten()
    order = asked.argsort(stable=True)
    counts = torch.bincount(asked, minlength=size)
    rows = order.remainder_(slope.shape[0])
    found = F.embedding_bag(rows, slope, counts.cumsum(0).sub_(counts), mode="sum")
    return found.float() if slope.dtype == torch.bfloat16 else found


def index_of_hots(z: Tensor, groups: int, classes: int) -> Tensor | None:
    """Rows [N, groups] of a table [groups * classes, .]; None where looking up does not pay, or z
    [*, groups * classes] is not all one-hots.

    Products with a vector are several times faster than `max`. Where a group's numbers are at least
    0 and their sum is 1, they are a one-hot if the one they point at is 1.
    """
    if z.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    known, index = _note(z)
    if index is not None or z.numel() < _MANY * z.shape[-1]:
        return index
    flat = z.detach().reshape(-1, classes)
    if not known and not _add_up(flat):
        return None
    place = (flat @ torch.arange(classes, dtype=flat.dtype)).long()
    if not known and not bool((flat.gather(1, place.unsqueeze(1)) == 1.0).all()):
        return None
    index = place.view(-1, groups) + torch.arange(0, groups * classes, classes)
    known_hots(z, index)  # a z is looked up by the core and by the heads
    return index


def known_hots(z: Tensor, index: Tensor | None = None) -> Tensor:
    """z itself, noted to be all one-hots: who drew it knows, and `index_of_hots` need not look,
    which takes as long as looking up; with their index, if that is known too. The note holds until
    z is written to."""
    if not (torch.compiler.is_compiling() or z.is_inference()):
        z.__dict__["_hots"] = stamp(z), index
    return z


def carry_hots(parts: Sequence[Tensor], whole: Tensor) -> None:
    """Note what is known of all `parts` of z [*, Z] with the whole they make, row after row."""
    note_hots([_note(part)[1] for part in parts], whole)


def note_hots(indices: Sequence[Tensor | None], whole: Tensor) -> None:
    """Note with a whole z the indices of its parts, row after row, where all are known."""
    found = [index for index in indices if index is not None]
    if found and len(found) == len(indices):
        known_hots(whole, torch.cat(found))


def swapped(x: Tensor) -> Tensor:
    """x [T, B, .] as [B, T, .], or back, with what is known of it if it is z."""
    found = x.transpose(0, 1)
    index = _note(x)[1]
    if index is not None:
        known_hots(found, index.view(*x.shape[:2], -1).transpose(0, 1).flatten(0, 1))
    return found


def _note(z: Tensor) -> tuple[bool, Tensor | None]:
    """Whether z is known to be one-hots, and their index if that is known too."""
    if torch.compiler.is_compiling() or z.is_inference() or "_hots" not in z.__dict__:
        return False, None
    mark, index = z.__dict__["_hots"]
    return (True, index) if mark == stamp(z) else (False, None)


def _add_up(flat: Tensor) -> bool:
    """Whether groups [N, C] are at least 0 and their sums 1."""
    at_least = bool(flat.amin() >= 0.0)
    return at_least and bool((flat @ flat.new_ones(flat.shape[1]) == 1.0).all())
