"""How matrices are multiplied: the one place that decides in what precision.

`torch.set_float32_matmul_precision("medium")` allows bfloat16 inside float32 products. On a GPU
torch does the rest; on a CPU it knows only AMX, so products as wide as `_WIDE` are narrowed here
where the processor multiplies bfloat16 (AVX-512): operands and result keep 8 bits, twice as fast.
Sums, states, weights, gradients and narrow products, the predictions themselves among them, stay
float32. "highest", torch's own default, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The smaller side of a weight worth the rounding: below it the products are not what takes time,
# and what is predicted is read off such products.
_WIDE = 192
# A single row waits for the weight to be read once, and rounding it reads it twice.
_FEW_ROWS = 16


class Linear(nn.Linear):
    """A linear layer whose product may be narrowed."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b of x [*, I], W [O, I] and b [O], differentiable."""
    factor = operand(weight) if x.numel() >= _FEW_ROWS * x.shape[-1] else weight
    if factor is weight:
        return F.linear(x, weight, bias)
    return times(x.flatten(0, -2), factor.t(), bias).reshape(*x.shape[:-1], -1)


def operand(weight: Tensor) -> Tensor:
    """The weight as it is multiplied: rounded once for many products, or itself."""
    if torch.compiler.is_compiling():  # the compiler chooses the products itself
        return weight
    allowed = weight.dtype == torch.float32 and min(weight.shape) >= _WIDE
    if allowed and torch.get_float32_matmul_precision() == "medium" and _narrow(weight.device.type):
        return kept(weight, "rounded", Tensor.bfloat16)
    return weight


def kept(
    weight: Tensor, name: str, prepare: Callable[[Tensor], Tensor], beside: Sequence[Tensor] = ()
) -> Tensor:
    """`prepare(weight)`, kept with the weight until that, or what it is made of `beside`, changes:
    a plan multiplies by the same weights a hundred times. While gradients are recorded it is made
    afresh.

    What is kept is no part of the model's state.
    """
    if torch.is_grad_enabled() or weight.is_inference():
        return prepare(weight)
    state = tuple(stamp(one) for one in (weight, *beside))
    store: dict[str, tuple[object, Tensor]] = weight.__dict__.setdefault("_prepared", {})
    if name not in store or store[name][0] != state:
        store[name] = state, prepare(weight.detach())
    return store[name][1]


def stamp(tensor: Tensor) -> tuple[object, ...]:
    """What is another after the tensor was written to; writes through `.data` go around it. No
    inference tensor has one."""
    return tensor._version, tensor.data_ptr(), tensor.dtype


def joined(weights: Sequence[Tensor]) -> Tensor:
    """The weights one below the other, kept with the first of them."""
    first, *others = weights
    return kept(first, f"joined {len(others)}", lambda one: torch.cat([one, *others]), others)


def times(left: Tensor, right: Tensor, added: Tensor | None = None) -> Tensor:
    """left @ right (+ added) in float32. Where one is an `operand` in bfloat16 so is the other;
    what is added may be bfloat16 then, and is used up: the sum is rounded once."""
    if left.dtype == right.dtype != torch.bfloat16:
        return left @ right if added is None else torch.addmm(added, left, right)
    left, right = left.bfloat16(), right.bfloat16()
    if added is not None and added.dtype == torch.bfloat16:
        return added.addmm_(left, right).float()
    found = (left @ right).float()
    return found if added is None else found.add_(added)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T of x [N, I] and W [O, I] as it comes: in bfloat16 where W is narrowed."""
    factor = operand(weight) if len(x) >= _FEW_ROWS else weight
    return x.to(factor.dtype) @ factor.t()


@cache
def _narrow(device: str) -> bool:
    """Whether narrowing is ours to do, and pays."""
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
