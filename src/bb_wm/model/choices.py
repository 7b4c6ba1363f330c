"""Several choices side by side, of possibly different numbers of classes, handled at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bb_wm.model import native

if TYPE_CHECKING:
    from torch import Tensor

# Numbers whose half a dozen companions fit into the cache of one core.
_BLOCK = 2**17
# Ones that float32 adds up without an error.
_COUNTABLE = 2**24


def hot_of_max(values: Tensor) -> Tensor:
    """One-hot [*, C] of the largest of values [*, C], the first among equals."""
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        # argmax and one_hot are ten times slower on a CPU than comparing with the maximum, and
        # answers of the same type as what is compared several times faster than true and false.
        hot = torch.eq(values, values.amax(-1, keepdim=True), out=torch.empty_like(values))
        count = values.numel() // values.shape[-1]
        if count <= _COUNTABLE and float(hot.sum()) == count:
            return hot
    return F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


def hot_of_level(probs: Tensor, level: Tensor) -> Tensor:
    """One-hot [*, C] of the class in whose share of probs [*, C] the level [*, 1] lies."""
    if torch.compiler.is_compiling():
        return F.one_hot((probs.cumsum(-1) < level)[..., :-1].sum(-1), probs.shape[-1]).to(probs)
    # 1 up to and with the class's lower edge, then 0: answers of the numbers' own type, see above.
    edge = probs.new_ones(*probs.shape[:-1], probs.shape[-1] + 1)
    torch.lt(probs.cumsum(-1), level, out=edge[..., 1:])
    edge[..., -1] = 0.0
    return edge[..., :-1] - edge[..., 1:]


class Choices:
    """V choices of `classes[v]` classes each; flat tensors are [*batch, sum of classes].

    Choices of unequal size are padded to the largest, so that every function is one pass over
    [*batch, V, C] whatever V is.
    """

    def __init__(self, classes: tuple[int, ...]) -> None:
        self.classes = classes
        self.width = max(classes)
        self.size = sum(classes)
        self.even = len(set(classes)) == 1
        self._places: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where each padded place reads from (`size`: nowhere), and each flat one."""
        if device not in self._places:
            starts = [0, *accumulate(self.classes)]
            into, back = [], []
            for v, count in enumerate(self.classes):
                into += [starts[v] + c if c < count else self.size for c in range(self.width)]
                back += [v * self.width + c for c in range(count)]
            self._places[device] = (
                torch.tensor(into, device=device),
                torch.tensor(back, device=device),
            )
        return self._places[device]

    def spread(self, flat: Tensor, fill: float) -> Tensor:
        """Flat -> [*batch, V, C], `fill` where a choice has fewer classes."""
        if not self.even:
            into, _ = self._indices(flat.device)
            flat = F.pad(flat, (0, 1), value=fill).index_select(-1, into)
        return torch.unflatten(flat, -1, (len(self.classes), self.width))

    def collect(self, spread: Tensor) -> Tensor:
        """The inverse of `spread`."""
        flat = spread.flatten(-2)
        return flat if self.even else flat.index_select(-1, self._indices(flat.device)[1])

    def one_hot(self, index: Tensor) -> Tensor:
        """Indices [*batch, V] -> flat one-hots."""
        classes = torch.arange(self.width, device=index.device)
        return self.collect((index.unsqueeze(-1) == classes).float())

    def index_of(self, flat: Tensor) -> Tensor:
        """The largest class of every choice, [*batch, V]."""
        return self.spread(flat, -torch.inf).argmax(-1)

    def draw(self, logits: Tensor, level: Tensor) -> Tensor:
        """Indices [*batch, V] drawn by uniform levels [*batch, V]."""
        probs = self.spread(logits, -torch.inf).softmax(-1)
        passed = (probs.cumsum(-1) < level.unsqueeze(-1)).sum(-1)
        last = torch.tensor(self.classes, device=logits.device) - 1
        return torch.minimum(passed, last)

    def hard(self, logits: Tensor) -> Tensor:
        """One-hots of the largest classes, with the softmax's gradient (straight through)."""
        return cast("Tensor", _Hard.apply(logits, self))  # type: ignore[no-untyped-call]

    def cross_entropy(self, logits: Tensor, hots: Tensor) -> Tensor:
        """-log p [*batch] of one-hots under logits, summed over the choices."""
        found = _CrossEntropy.apply(logits, hots, self)  # type: ignore[no-untyped-call]
        return cast("Tensor", found)


class _Hard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, choices: Choices) -> Tensor:
        spread = choices.spread(logits, -torch.inf)
        if ctx.needs_input_grad[0]:
            ctx.choices, ctx.soft = choices, spread.softmax(-1)
        return choices.collect(hot_of_max(spread))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return soften(ctx.choices, ctx.soft, slope), None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, hots: Tensor, choices: Choices) -> Tensor:
        logs = choices.collect(choices.spread(logits, -torch.inf).log_softmax(-1))
        ctx.logs, ctx.hots = logs, hots
        return -(hots * logs).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return (ctx.logs.exp() - ctx.hots) * slope.unsqueeze(-1), None, None


def mixed_kl(
    q: Tensor, p: Tensor, uniform: float, shares: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """D_KL [*batch, V] of the softmaxes of logits q and p [*batch, V, C], both with a share
    `uniform` in (0, 1) of the uniform distribution mixed in; with these `shares` of its gradients.

    Its gradients are made with it, block by block in the processor's cache: autograd's passes
    through memory took as long as a third of a wide update's products.
    """
    quick = native.classes_fit(q, q.shape[-1])
    function = _NativeMixedKL if quick else _MixedKL
    return cast("Tensor", function.apply(q, p, uniform, shares))  # type: ignore[no-untyped-call]


class _MixedKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, p: Tensor, uniform: float, shares: tuple[float, float]
    ) -> Tensor:
        ctx.shares = shares
        rows = max(1, _BLOCK // q.shape[-1]) if q.device.type == "cpu" else q.numel()
        pairs = zip(*(torch.split(x.reshape(-1, x.shape[-1]), rows) for x in (q, p)), strict=True)
        blocks = [_kl_block(left, right, uniform, ctx.needs_input_grad) for left, right in pairs]
        found, *slopes = zip(*blocks, strict=True)
        ctx.slopes = [None if part[0] is None else torch.cat(part).view_as(q) for part in slopes]
        return torch.cat(found).view(q.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.slopes, ctx.shares, strict=True)
        wide = slope.unsqueeze(-1)
        found = (None if own is None else own * (share * wide) for own, share in pairs)
        return (*found, None, None)


class _NativeMixedKL(torch.autograd.Function):
    """Gradients are made on the way back, where their scale is known: nothing is kept till then."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, p: Tensor, uniform: float, shares: tuple[float, float]
    ) -> Tensor:
        q, p = q.contiguous(), p.contiguous()
        ctx.uniform, ctx.shares = uniform, shares
        ctx.save_for_backward(q, p)
        return native.mixed_kl(q, p, uniform)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        q, p = ctx.saved_tensors
        asked = ctx.needs_input_grad[:2]
        return (*native.mixed_kl_slope(q, p, ctx.uniform, slope, ctx.shares, asked), None, None)


def _kl_block(
    q: Tensor, p: Tensor, uniform: float, needed: Sequence[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The divergences [N] of logits [N, C], and of their sum the logits' gradients if needed."""
    share = 1.0 - uniform
    soft_q, soft_p = q.softmax(-1), p.softmax(-1)
    mixed_q, mixed_p = (soft.mul(share).add_(uniform / q.shape[-1]) for soft in (soft_q, soft_p))
    ratio = mixed_q / mixed_p
    log = ratio.log()
    found = mixed_q.mul_(log).sum(-1)
    by_q = softmax_slope(log.mul_(share), soft_q) if needed[0] else None
    by_p = softmax_slope(ratio.mul_(-share), soft_p) if needed[1] else None
    return found, by_q, by_p


def softmax_slope(slope: Tensor, soft: Tensor) -> Tensor:
    """The gradient of logits [*, C] from the one of their softmax, by torch's own kernel."""
    found = torch.ops.aten._softmax_backward_data(slope, soft, -1, soft.dtype)
    return cast("Tensor", found)


def soften(choices: Choices, soft: Tensor, slope: Tensor) -> Tensor:
    """The gradient of flat logits from the one of their softmax, soft [*batch, V, C]."""
    return choices.collect(softmax_slope(choices.spread(slope, 0.0), soft))
