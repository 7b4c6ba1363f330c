"""Small building blocks: the perceptron with a linear path, running statistics, running scales."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model import native
from bb_wm.model.lookup import LatentLinear
from bb_wm.model.products import Linear, linear, operand, product

if TYPE_CHECKING:
    from torch import Tensor


class MLP(nn.Module):
    """y = W f(x) + V x: hidden SiLU layers beside a linear path.

    The linear path lets nearly linear worlds be learnt in a few updates; without `bypass` there is
    none. `zero` starts the output at exactly 0, so that whatever it corrects starts as it is.
    `hots` where x ends in a z that is one-hots (`bb_wm.model.lookup`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        layers: int,
        zero: bool = False,
        bypass: bool = True,
        hots: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * layers
        self.widths = sizes[1:]
        first = LatentLinear(sizes[0], sizes[1])
        later = [Linear(a, b) for a, b in pairwise(sizes[1:])]
        self.hidden = nn.ModuleList([first, *later])
        self.output = Linear(sizes[-1], outputs)
        self.linear = LatentLinear(inputs, outputs, bias=False) if bypass else None
        entries = [first] if self.linear is None else [first, self.linear]
        for entry in entries:
            entry.hots = hots
        if zero:
            for weight in (self.output.weight, self.output.bias, *(e.weight for e in entries[1:])):
                nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        outer = None if self.linear is None else self.linear(x)
        if native.ready(x, *self.widths):
            told = product(x.flatten(0, -2), cast("nn.Linear", self.hidden[0]).weight)
            return self.leave_product(told, outer).view(*x.shape[:-1], -1)
        return self.leave(self.hidden[0](x), outer)

    def leave(self, inner: Tensor, outer: Tensor | None) -> Tensor:
        """y from what multiplies x itself: the first hidden layer before its SiLU, and V x."""
        y = F.silu(inner)
        for layer in self.hidden[1:]:
            y = F.silu(layer(y))
        told: Tensor = self.output(y)
        return told if outer is None else told + outer

    def leave_product(self, told: Tensor, outer: Tensor | None) -> Tensor:
        """`leave` of the first layer's product as it comes, without its bias, as rows; by
        `bb_wm.model.native`, without autograd."""
        layers = [cast("nn.Linear", layer) for layer in (*self.hidden, self.output)]
        for layer, later in pairwise(layers):
            factor = operand(later.weight)
            after = told.new_empty(told.shape, dtype=factor.dtype)
            native.silu(told, layer.bias, after)
            told = after @ factor.t()
        if native.fits(self.output.bias, told.shape[1]):
            found = native.add(told, self.output.bias)
        else:
            found = told.float().add_(self.output.bias)
        return found if outer is None else found.add_(outer.flatten(0, -2))

    def held(self, x: Tensor) -> Tensor:
        """The same value and gradient of x, but none of the parameters: they learn elsewhere."""
        y = x
        for layer in self.hidden:
            y = F.silu(linear(y, layer.weight.detach(), layer.bias.detach()))  # type: ignore[operator]
        y = linear(y, self.output.weight.detach(), self.output.bias.detach())
        return y if self.linear is None else y + linear(x, self.linear.weight.detach())


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight. Torch's own kernel is ten times slower than these four on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * inverse_rms(x) * self.weight


def inverse_rms(x: Tensor, eps: float = 1e-3) -> Tensor:
    """1 / sqrt(mean of squares over the last axis + eps), the axis kept."""
    return (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def tanh(x: Tensor) -> Tensor:
    """tanh(x), for many numbers as 2 sigmoid(2 x) - 1: torch's own takes thrice that on a CPU."""
    return torch.tanh(x) if x.numel() < 8192 else 2.0 * torch.sigmoid(2.0 * x) - 1.0


class Statistics(nn.Module):
    """Running mean and scale per dimension over all rows ever seen, in float64 (Chan et al. 1979).

    `centre` and `scale` (the standard deviation, `still` where a dimension never varied) are what
    the network reads, in float32. Nothing is learnt here: the numbers are part of the checkpoint so
    that a model means the same wherever it is loaded.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, size: int, *, still: float = 1.0) -> None:
        super().__init__()
        self.still = still
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Merge rows [N, size]."""
        if rows.shape[0] == 0:
            return
        values = rows.double()
        n = float(rows.shape[0])
        mean = values.mean(0)
        total = self.count + n
        gap = mean - self.mean
        self.squares += (values - mean).square().sum(0) + gap.square() * (self.count * n / total)
        self.mean += gap * (n / total)
        self.count.copy_(total)
        deviation = (self.squares / total).sqrt()
        # Below a part in 1e6 of its size a dimension is constant up to float32 rounding.
        varies = deviation > 1e-6 * self.mean.abs().clamp_min(1e-3)
        self.centre.copy_(self.mean)
        self.scale.copy_(torch.where(varies, deviation, self.still))


class RangedStatistics(Statistics):
    """Also the least and the largest value per dimension. What is foretold stays within them and
    `SLACK` of their distance more: a net that is read and fed back beyond all it ever saw goes on
    outwards, row by row by a factor.
    """

    SLACK = 0.25

    low: Tensor
    high: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, size: int, *, still: float = 1.0) -> None:
        super().__init__(size, still=still)
        largest = torch.finfo(torch.float32).max
        self.register_buffer("low", torch.full((size,), largest, dtype=torch.float64))
        self.register_buffer("high", torch.full((size,), -largest, dtype=torch.float64))
        self.register_buffer("least", torch.full((size,), -largest))
        self.register_buffer("most", torch.full((size,), largest))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        rows = rows.double()  # once: of float64, the sums' own is the same tensor
        super().update(rows)
        if rows.shape[0] == 0:
            return
        low, high = rows.aminmax(dim=0)
        self.low.copy_(torch.minimum(self.low, low))
        self.high.copy_(torch.maximum(self.high, high))
        slack = self.SLACK * (self.high - self.low)
        self.least.copy_((self.low - slack - self.centre) / self.scale)
        self.most.copy_((self.high + slack - self.centre) / self.scale)

    def within(self, standardised: Tensor) -> Tensor:
        """(x - centre) / scale [*batch, size], no further out than x was ever seen, and a bit."""
        return torch.clamp(standardised, self.least, self.most)


class RunningScale(nn.Module):
    """The standard deviation of a Gaussian likelihood, estimated instead of descended to.

    For a Gaussian with one scale per dimension the likelihood is maximal at scale^2 = mean squared
    error, so the running mean of that error is the maximum likelihood estimate itself (sigma-VAE,
    Rybkin et al. 2021); it balances every dimension and horizon by its own predictability. `floor`
    is in units of the dimension's standard deviation. With `fixed` the scale stays 1: plain MSE.
    """

    variance: Tensor
    seen: Tensor

    def __init__(
        self, horizons: int, size: int, *, floor: float = 1e-3, fixed: bool = False
    ) -> None:
        super().__init__()
        self.floor = floor
        self.fixed = fixed
        self.register_buffer("variance", torch.ones(horizons, size))
        self.register_buffer("seen", torch.zeros(horizons, 1))

    @torch.no_grad()
    def update(self, squared_error: Tensor, mask: Tensor, first: int) -> None:
        """Merge errors [*, K, size] of horizons first..first+K-1 where mask [*, K] is true."""
        if self.fixed:
            return
        weight = mask.unsqueeze(-1).to(squared_error.dtype)
        axes = tuple(range(squared_error.ndim - 2))
        total = weight.sum(axes)
        mean = (squared_error * weight).sum(axes) / total.clamp_min(1.0)
        rows = slice(first, first + mean.shape[0])
        self.seen[rows] += (total > 0).to(self.seen.dtype)
        rate = torch.where(total > 0, recent(self.seen[rows]), 0.0)
        self.variance[rows] += rate * (mean - self.variance[rows])

    def nll(self, squared_error: Tensor, first: int) -> Tensor:
        """-log p per element of errors [*, K, size] of horizons first..first+K-1."""
        variance = self.variance[first : first + squared_error.shape[-2]]
        variance = variance.clamp_min(self.floor**2)
        return 0.5 * (squared_error / variance + variance.log() + 1.8378770664093453)

    @property
    def scale(self) -> Tensor:
        return self.variance.clamp_min(self.floor**2).sqrt()


class RunningShare(nn.Module):
    """How much of what is added to a prediction comes true, per dimension in [0, 1].

    The least-squares share of `added` in what was `missing`, <missing, added> / <added, added> over
    about the last 50 batches: 1 where all of it is signal, 0 where all of it is noise, and 1 where
    nothing is added or `free` is false.
    """

    gained: Tensor
    power: Tensor
    seen: Tensor
    value: Tensor
    free: Tensor

    def __init__(self, free: Tensor) -> None:
        super().__init__()
        for name in ("gained", "power"):
            self.register_buffer(name, torch.zeros(free.shape))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("value", torch.ones(free.shape))
        self.register_buffer("free", free, persistent=False)

    @torch.no_grad()
    def update(self, missing: Tensor, added: Tensor, mask: Tensor) -> None:
        """Merge rows [*, size] where mask [*] is true."""
        rows = mask.sum()
        if not rows:
            return
        added = added * mask.unsqueeze(-1)
        axes = tuple(range(added.ndim - 1))
        self.seen += 1.0
        rate = recent(self.seen)
        self.gained.lerp_((missing * added).sum(axes) / rows, rate)
        self.power.lerp_((added * added).sum(axes) / rows, rate)
        share = (self.gained / self.power).clamp(0.0, 1.0)
        self.value.copy_(torch.where(self.free & (self.power > 0.0), share, 1.0))


def recent(seen: Tensor) -> Tensor:
    """The newest batch's weight in a running mean after `seen` of them: a plain average at first,
    an exponential one of about 50 batches later."""
    return (1.0 / seen.clamp_min(1.0)).clamp_min(0.02)


def split(tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The last axis cut into pieces of the given sizes."""
    return list(torch.split(tensor, list(sizes), dim=-1))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries where mask is true; 0 when there are none."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def share_gradient(x: Tensor, share: float | Tensor) -> Tensor:
    """x itself, with that share of its gradient."""
    return cast("Tensor", _Share.apply(x, share))  # type: ignore[no-untyped-call]


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float | Tensor) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope * ctx.share, None
