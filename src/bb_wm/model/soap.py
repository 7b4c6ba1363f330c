"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

For gradients G of a matrix, running means of G G^T and G^T G have eigenvectors in which the entries
of G hardly move together; dividing each by its own size, as Adam does, is there close to dividing
by all of the second moments (Shampoo, Gupta et al. 2018, arXiv 1802.09568). It suits regressions on
few numbers: what is left to learn lies along directions that gradients as they come hardly show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_DECAY = 0.95  # of all running means; the paper's
_EVERY = 10  # steps between two turns of a basis; the paper's
_EARLY = (1, 2, 4, 8)  # a basis begins as the identity, and should not stay so for long
_WIDEST = 512  # a longer side keeps the identity: its basis would cost more than its products
_EPS = 1e-8
# Of the largest: float32 leaves rounding where a basis is free to be anything, and rounding divided
# by its own size would be a step as long as any.
_ROUNDING = 1e-5


class Side:
    """One side of a matrix: the running mean of its gradients' products, and their eigenbasis."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.factor = like.new_zeros(size, size)
        self.basis = torch.eye(size, dtype=like.dtype, device=like.device)

    def see(self, product: Tensor, weight: float) -> None:
        self.factor.lerp_(product, weight)

    def turn(self) -> Tensor:
        """One orthogonal iteration towards the eigenvectors, the largest first; how the columns
        were put in order. (Decomposing anew would cost twice as much, and may fail.)"""
        held = self.factor @ self.basis
        order = (self.basis * held).sum(0).argsort(descending=True, stable=True)
        self.basis.copy_(torch.linalg.qr(held[:, order])[0])
        return order


class Soap:
    """Steps the named parameters, whose moments `first` and `second` the caller keeps.

    `first` is in the parameter's own coordinates, `second` in those of its bases. Vectors, and
    sides that are too long, have no basis: there it is Adam.
    """

    def __init__(
        self, named: Mapping[str, Tensor], first: Sequence[Tensor], second: Sequence[Tensor]
    ) -> None:
        self.parameters = list(named.values())
        self.first, self.second = list(first), list(second)
        self.sides: list[list[Side | None]] = [
            [Side(n, p) if n <= _WIDEST else None for n in p.shape] if p.ndim == 2 else []
            for p in (parameter.detach() for parameter in self.parameters)
        ]
        self.names = list(named)

    @torch.no_grad()
    def step(
        self, gradients: Mapping[int, Tensor], steps: int, *, rate: float, weight_decay: float
    ) -> None:
        """Step number `steps`, from 1 on, of the parameters that have a gradient, by index."""
        for i, gradient in gradients.items():
            self._see(i, gradient, steps)
            first, second = self.first[i], self.second[i]
            first.lerp_(gradient, 1.0 - _DECAY)
            turned = self._into(i, gradient)
            second.lerp_(turned.square(), 1.0 - _DECAY)
            unbiased = 1.0 - _DECAY**steps
            size = (second / unbiased).sqrt_()
            size.add_(_ROUNDING * size.max() + _EPS)
            move = self._back(i, (self._into(i, first) / unbiased).div_(size))
            self.parameters[i].mul_(1.0 - rate * weight_decay).sub_(move, alpha=rate)

    def _see(self, i: int, gradient: Tensor, steps: int) -> None:
        """Learn the products of a gradient, and turn the bases where it is time."""
        weight = max(1.0 - _DECAY, 1.0 / steps)
        for axis, side in enumerate(self.sides[i]):
            if side is None:
                continue
            side.see(gradient @ gradient.T if axis == 0 else gradient.T @ gradient, weight)
            if steps in _EARLY or steps % _EVERY == 0:
                self.second[i].copy_(self.second[i].index_select(axis, side.turn()))

    def _into(self, i: int, tensor: Tensor) -> Tensor:
        """A tensor in the coordinates of its parameter's bases."""
        for axis, side in enumerate(self.sides[i]):
            if side is not None:
                tensor = side.basis.T @ tensor if axis == 0 else tensor @ side.basis
        return tensor

    def _back(self, i: int, tensor: Tensor) -> Tensor:
        """The inverse of `_into`."""
        for axis, side in enumerate(self.sides[i]):
            if side is not None:
                tensor = side.basis @ tensor if axis == 0 else tensor @ side.basis.T
        return tensor

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on beside parameters and moments, by name."""
        found: dict[str, Tensor] = {}
        for name, sides in zip(self.names, self.sides, strict=True):
            for axis, side in enumerate(sides):
                if side is not None:
                    found[f"factor/{axis}/{name}"] = side.factor
                    found[f"basis/{axis}/{name}"] = side.basis
        return found
