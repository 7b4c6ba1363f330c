"""Several choices side by side, of possibly different numbers of classes, handled at once."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def hot_of_max(values: Tensor) -> Tensor:
    """One-hot [*, C] of the largest of values [*, C], the first among equals."""
    if values.device.type == "cpu":
        # argmax and one_hot are several times slower on a CPU than comparing with the maximum.
        hot = values == values.amax(-1, keepdim=True)
        if int(torch.count_nonzero(hot)) * values.shape[-1] == values.numel():
            return hot.to(values.dtype)
    return F.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


def hot_of_level(probs: Tensor, level: Tensor) -> Tensor:
    """One-hot [*, C] of the class in whose share of probs [*, C] the level [*, 1] lies."""
    below = probs.cumsum(-1) < level
    below[..., -1] = False
    hot = ~below
    hot[..., 1:] &= below[..., :-1]
    return hot.to(probs.dtype)


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


def softmax_slope(slope: Tensor, soft: Tensor) -> Tensor:
    """The gradient of logits [*, C] from the one of their softmax, by torch's own kernel."""
    found = torch.ops.aten._softmax_backward_data(slope, soft, -1, soft.dtype)
    return cast("Tensor", found)


def soften(choices: Choices, soft: Tensor, slope: Tensor) -> Tensor:
    """The gradient of flat logits from the one of their softmax, soft [*batch, V, C]."""
    return choices.collect(softmax_slope(choices.spread(slope, 0.0), soft))
