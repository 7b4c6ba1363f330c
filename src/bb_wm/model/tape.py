"""Layers that remember a time loop, so that its gradient is written by hand and its weights' last.

Backpropagation through time by autograd makes one product per weight and row, and one node per
operation. Here the loop runs without autograd; each layer keeps what its backward needs, walks back
row by row through what depends on time, and gives its weights' gradients as one product over all
rows afterwards. `walk` is the only door: it makes a whole loop one differentiable function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bb_wm.model.lookup import gathered, index_of_hots
from bb_wm.model.products import operand, times

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bb_wm.model.lookup import LatentLinear
    from bb_wm.model.nets import MLP

silu_slope = torch.ops.aten.silu_backward
sigmoid_slope = torch.ops.aten.sigmoid_backward
tanh_slope = torch.ops.aten.tanh_backward


class Pull(Protocol):
    """What turns z's gradient into that of the parameters it was drawn from."""

    def __call__(
        self, slope: Tensor, later: Tensor, added: Tensor, out: Tensor | None = None
    ) -> Tensor:
        """From z's, slope + later (as a product comes), and what is `added` to the parameters';
        in `out`, if it can be written there."""


def pull_of(function: Callable[[Tensor], Tensor]) -> Pull:
    """Of a function of z's whole gradient."""

    def pull(slope: Tensor, later: Tensor, added: Tensor, out: Tensor | None = None) -> Tensor:
        return function(slope + later) + added

    return pull


class Tape(ABC):
    """A layer inside a hand-written loop. `forward` is called row by row, then `rewind` once,
    `backward` row by row from the last, and `gradients` once, in the order of `parameters`."""

    parameters: list[Tensor]

    @abstractmethod
    def rewind(self) -> None:
        """Forget an earlier backward walk: gradients may be asked for again."""

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """Of the parameters, over all rows walked back."""


class Affine(Tape):
    """y = W x + (b or what is added); where something is added its owner has the bias in it."""

    def __init__(self, linear: nn.Linear, *, bias: bool) -> None:
        self.weight = linear.weight
        self.factor = operand(linear.weight)  # rounded once for all rows, where it is
        self.bias = linear.bias if bias else None
        self.parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        self.inputs: list[Tensor] = []
        self.slopes: list[Tensor] = []

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        x = x.to(self.factor.dtype)
        self.inputs.append(x)
        return times(x, self.factor.t(), self.bias if added is None else added)

    def product(self, x: Tensor) -> Tensor:
        """W x as it comes: in bfloat16 where W is narrowed."""
        x = x.to(self.factor.dtype)
        self.inputs.append(x)
        return x @ self.factor.t()

    def rewind(self) -> None:
        self.slopes = []

    def backward(self, slope: Tensor) -> Tensor:
        slope = slope.to(self.factor.dtype)
        self.slopes.append(slope)
        return times(slope, self.factor)

    def product_back(self, slope: Tensor) -> Tensor:
        """`backward` as the product comes."""
        slope = slope.to(self.factor.dtype)
        self.slopes.append(slope)
        return slope @ self.factor

    def gradients(self) -> list[Tensor]:
        if not self.inputs:
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        slopes = torch.cat(self.slopes[::-1])
        by_weight = times(slopes.t(), torch.cat(self.inputs))
        if self.bias is None:
            return [by_weight]
        return [by_weight, slopes.sum(0, dtype=self.bias.dtype)]


class LatentAffine(Affine):
    """y = W z + what is added, of a z that may be one-hots: these are looked up, and what they gave
    is gathered (`bb_wm.model.lookup`)."""

    def __init__(self, linear: LatentLinear) -> None:
        super().__init__(linear, bias=False)
        self.hots = linear.hots
        self.table: Tensor | None = None
        self.rows: list[Tensor | None] = []  # what was looked up, None where it was multiplied

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        found = self._look_up(x)
        if found is None:
            return super().forward(x, added)
        found = found.to(x.dtype)
        return found if added is None else found.add_(added)

    def product(self, x: Tensor) -> Tensor:
        found = self._look_up(x)
        return super().product(x) if found is None else found

    def _look_up(self, x: Tensor) -> Tensor | None:
        index = None if self.hots is None else index_of_hots(x, *self.hots)
        self.rows.append(index)
        if index is None:
            return None
        if self.table is None:
            self.table = self.factor.t().contiguous()
        return F.embedding_bag(index, self.table, mode="sum")

    def gradients(self) -> list[Tensor]:
        pairs = list(zip(self.rows, self.slopes[::-1], strict=True))
        hot = [(row, slope) for row, slope in pairs if row is not None]
        if not hot:
            return super().gradients()
        index, slopes = (torch.cat(column) for column in zip(*hot, strict=True))
        by_weight = gathered(index, slopes, self.weight.shape[1]).t()
        if self.inputs:
            cold = torch.cat([slope for row, slope in pairs if row is None])
            by_weight = by_weight + times(cold.t(), torch.cat(self.inputs))
        return [by_weight]


class Perceptron(Tape):
    """`nets.MLP` in a loop; `held`, its parameters get no gradient: they learn elsewhere."""

    def __init__(self, net: MLP, *, held: bool = False) -> None:
        self.hidden = [Affine(cast("nn.Linear", layer), bias=True) for layer in net.hidden]
        self.output = Affine(net.output, bias=True)
        self.linear = None if net.linear is None else Affine(net.linear, bias=False)
        self.layers = [*self.hidden, self.output]
        if self.linear is not None:
            self.layers.append(self.linear)
        self.learning = [] if held else self.layers
        self.parameters = [p for layer in self.learning for p in layer.parameters]
        self.before: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        y, before = x, []
        for layer in self.hidden:
            before.append(layer.forward(y))
            y = F.silu(before[-1])
        self.before.append(before)
        told = self.output.forward(y)
        return told if self.linear is None else self.linear.forward(x, told)

    def rewind(self) -> None:
        for layer in self.layers:
            layer.rewind()

    def backward(self, row: int, slope: Tensor) -> Tensor:
        by_y = self.output.backward(slope)
        for layer, before in zip(self.hidden[::-1], self.before[row][::-1], strict=True):
            by_y = layer.backward(silu_slope(by_y, before))
        return by_y if self.linear is None else by_y + self.linear.backward(slope)

    def gradients(self) -> list[Tensor]:
        return [g for layer in self.learning for g in layer.gradients()]


class Loop(ABC):
    """A time loop over tapes: `forward` and `backward` see tensors without autograd."""

    tapes: Sequence[Tape]

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, every row of them."""

    @abstractmethod
    def backward(self, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The inputs' gradients from the outputs'."""


def walk(loop: Loop, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The loop's outputs, differentiable once in its inputs and in its tapes' parameters."""
    parameters = [p for tape in loop.tapes for p in tape.parameters]
    found = _Walk.apply(loop, len(inputs), *inputs, *parameters)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, ...]", found)


class _Walk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: Loop, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.loop = loop
        return loop.forward(*tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        for tape in ctx.loop.tapes:
            tape.rewind()
        by_inputs = ctx.loop.backward(*slopes)
        by_parameters = [g for tape in ctx.loop.tapes for g in tape.gradients()]
        return (None, None, *by_inputs, *by_parameters)


def pull_through(
    function: Callable[..., Tensor], *inputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """A parameter-free function's value, and its vector-Jacobian product by a small graph of its
    own: for what a family or modality does row by row and nobody wrote backwards by hand."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        value = function(*leaves)

    def pull(slope: Tensor) -> tuple[Tensor, ...]:
        if not value.requires_grad:  # it looks at none of them
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        found = torch.autograd.grad(
            value, leaves, slope, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return tuple(found)

    return value.detach(), pull
