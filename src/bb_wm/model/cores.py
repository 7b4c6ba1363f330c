"""Cores: the f of h_t = f(h_{t-1}, z_{t-1}, a_{t-1}).

A core setting (`GRU`, `Transformer`) is a frozen dataclass whose `build` gives the module. Modules
take the projected action, so that a filter can hoist the projection out of its time loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.errors import ConfigError
from bb_wm.model import native
from bb_wm.model.lookup import LatentLinear, product_of_latent
from bb_wm.model.nets import RMSNorm, inverse_rms, tanh
from bb_wm.model.products import Linear, operand
from bb_wm.model.stochastic import check_int
from bb_wm.model.tape import Affine, LatentAffine, Tape, sigmoid_slope, silu_slope, tanh_slope

if TYPE_CHECKING:
    from torch import Tensor


class CoreModule(nn.Module, ABC):
    """The built core."""

    size: int
    window: int
    memory_size: int

    @abstractmethod
    def project(self, action: Tensor) -> Tensor:
        """The action's part of the input, [*batch, A] -> [*batch, U]; independent of time."""

    @abstractmethod
    def forward(
        self, h: Tensor, z: Tensor, memory: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(h, memory) of the next row, from the last row's h, z, memory and projected action."""

    def tape(self) -> CoreTape | None:
        """The core with its gradient through time by hand; None: autograd walks it."""
        return None


class CoreTape(Tape):
    """A core without memory inside a hand-written loop (`bb_wm.model.recurrence`)."""

    size: int

    @abstractmethod
    def enter(self, projected: Tensor) -> Tensor:
        """What of the projected action [*batch, U] can be done for all rows before the loop."""

    @abstractmethod
    def forward(self, h: Tensor, z: Tensor, entered: Tensor, out: Tensor | None = None) -> Tensor:
        """The next row's h [N, D]; in `out`, if the core can write there."""

    @abstractmethod
    def backward(self, row: int, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the row's inputs h, z (as a product comes) and entered from its h's."""


class Core(ABC):
    """A core's settings."""

    __slots__ = ()
    size: int

    @abstractmethod
    def build(self, z_size: int, action_size: int) -> CoreModule:
        """The module for these sizes."""


@dataclass(frozen=True, slots=True)
class GRU(Core):
    """Gated recurrent unit of `size` with normalised gates and the update gate biased to keep."""

    size: int = 128

    def __post_init__(self) -> None:
        check_int("core.size", self.size, low=8, high=8192)

    def build(self, z_size: int, action_size: int) -> CoreModule:
        return GRUModule(self, z_size, action_size)


class GRUModule(CoreModule):
    """r, c, u = norm(W [x, h]); h' = u * tanh(r * c) + (1 - u) * h, with u biased by -1."""

    def __init__(self, settings: GRU, z_size: int, action_size: int) -> None:
        super().__init__()
        size = self.size = settings.size
        self.window, self.memory_size = 0, 0
        self.from_z = LatentLinear(z_size, size)
        self.from_action = nn.Linear(action_size, size, bias=False)
        self.gates = Linear(2 * size, 3 * size, bias=False)
        self.norm = RMSNorm(3 * size, eps=1e-3)
        self.bias = nn.Parameter(torch.cat([torch.zeros(2 * size), -torch.ones(size)]))

    def project(self, action: Tensor) -> Tensor:
        return cast("Tensor", self.from_action(action))

    def forward(
        self, h: Tensor, z: Tensor, memory: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        if native.ready(h, self.size) and z.shape[:-1] == h.shape[:-1]:
            return self._quickly(h, z, projected), memory
        x = F.silu(self.from_z(z) + projected)
        gates = self.gates(torch.cat([x, h], dim=-1))
        signal = torch.addcmul(self.bias, gates * inverse_rms(gates), self.norm.weight)
        reset, candidate, update = signal.chunk(3, dim=-1)
        candidate = tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(h, candidate, torch.sigmoid(update)), memory

    def _quickly(self, h: Tensor, z: Tensor, projected: Tensor) -> Tensor:
        """The next h by `bb_wm.model.native`, without autograd."""
        rows, entered = h.flatten(0, -2), projected + self.from_z.bias
        entered = entered.expand(*h.shape[:-1], self.size).flatten(0, -2)
        factor = operand(self.gates.weight)
        entry = rows.new_empty(len(rows), 2 * self.size, dtype=factor.dtype)
        told = product_of_latent(rows[:, :0], z, self.from_z.weight, self.from_z.hots)
        native.silu(told, entered, entry[:, : self.size])
        entry[:, self.size :] = rows
        return native.gru(entry @ factor.t(), self.norm.weight, self.bias, rows).view_as(h)

    def tape(self) -> CoreTape | None:
        quick = native.fits(self.bias, self.size)
        return NativeGRUTape(self) if quick else GRUTape(self)


class GRUTape(CoreTape):
    """`GRUModule.forward` row by row, and backwards."""

    def __init__(self, module: GRUModule) -> None:
        self.size = module.size
        self.entry_bias = module.from_z.bias
        self.from_z = LatentAffine(module.from_z)
        self.gates = Affine(module.gates, bias=False)
        self.weight, self.bias = module.norm.weight, module.bias
        self.parameters = [self.from_z.weight, self.gates.weight, self.weight, self.bias]
        self.rows: list[tuple[Tensor, ...]] = []
        self.slopes: list[Tensor] = []

    def enter(self, projected: Tensor) -> Tensor:
        return projected + self.entry_bias

    def forward(self, h: Tensor, z: Tensor, entered: Tensor, out: Tensor | None = None) -> Tensor:
        before = self.from_z.forward(z, entered)
        gates = self.gates.forward(torch.cat([F.silu(before), h], dim=-1))
        inverse = inverse_rms(gates)
        normal = gates * inverse
        signal = torch.addcmul(self.bias, normal, self.weight)
        opened = torch.sigmoid(signal)
        reset, _, update = opened.chunk(3, dim=-1)
        middle = signal[:, self.size : 2 * self.size]
        candidate = tanh(reset * middle)
        self.rows.append((h, before, inverse, normal, middle, reset, update, candidate))
        return torch.lerp(h, candidate, update)

    def rewind(self) -> None:
        self.slopes = []
        self.from_z.rewind()
        self.gates.rewind()

    def backward(self, row: int, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, before, inverse, normal, middle, reset, update, candidate = self.rows[row]
        through = slope * update
        inner = tanh_slope(through, candidate)
        by_signal = torch.cat(
            [
                sigmoid_slope(inner * middle, reset),
                inner * reset,
                sigmoid_slope(slope * (candidate - h), update),
            ],
            dim=-1,
        )
        self.slopes.append(by_signal)
        by_normal = by_signal * self.weight
        along = (by_normal * normal).mean(-1, keepdim=True)
        by_gates = torch.addcmul(by_normal, normal, along, value=-1.0) * inverse
        by_x, by_h = self.gates.backward(by_gates).tensor_split([self.size], dim=-1)
        by_entered = silu_slope(by_x, before)
        return by_h + (slope - through), self.from_z.backward(by_entered), by_entered

    def gradients(self) -> list[Tensor]:
        slopes = torch.cat(self.slopes[::-1])
        normals = torch.cat([row[3] for row in self.rows])
        by_norm = [(slopes * normals).sum(0), slopes.sum(0)]
        return [*self.from_z.gradients(), *self.gates.gradients(), *by_norm]


class NativeGRUTape(GRUTape):
    """The same by `bb_wm.model.native`, which makes a row's gates anew on the way back."""

    def forward(self, h: Tensor, z: Tensor, entered: Tensor, out: Tensor | None = None) -> Tensor:
        entry = h.new_empty(len(h), 2 * self.size, dtype=self.gates.factor.dtype)
        told = self.from_z.product(z)
        before = native.silu_kept(told, entered, entry[:, : self.size])
        entry[:, self.size :] = h
        gates = self.gates.product(entry)
        self.rows.append((h, before, gates))
        return native.gru(gates, self.weight, self.bias, h, out)

    def backward(self, row: int, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, before, gates = self.rows[row]
        by_gates, rest, sums = native.gru_slope(gates, self.weight, self.bias, h, slope)
        self.slopes.append(sums)
        product = self.gates.product_back(by_gates)
        by_entered, by_h = native.gru_entry_slope(product, before, rest)
        return by_h, self.from_z.product_back(by_entered), by_entered

    def gradients(self) -> list[Tensor]:
        by_norm = torch.cat(self.slopes).sum(0).unbind()
        return [*self.from_z.gradients(), *self.gates.gradients(), *by_norm]


@dataclass(frozen=True, slots=True)
class Transformer(Core):
    """Causal Transformer of `size`; attends over the last `window` rows through a cache."""

    size: int = 128
    layers: int = 2
    heads: int = 4
    window: int = 16

    def __post_init__(self) -> None:
        check_int("core.size", self.size, low=8, high=8192)
        check_int("core.layers", self.layers, low=1, high=32)
        check_int("core.heads", self.heads, low=1, high=64)
        check_int("core.window", self.window, low=1, high=1024)
        if self.size % self.heads:
            raise ConfigError(
                "core.size",
                expected=f"a multiple of core.heads = {self.heads}",
                actual=self.size,
            )

    def build(self, z_size: int, action_size: int) -> CoreModule:
        return TransformerModule(self, z_size, action_size)


class TransformerModule(CoreModule):
    """Pre-norm attention over the window's rows with a learned bias per distance.

    `memory` [*batch, window, layers * 2 * size + 1] holds keys and values of past rows, the newest
    last, and in its last column 1 where a slot is used: a zeroed memory is an empty past.
    """

    def __init__(self, settings: Transformer, z_size: int, action_size: int) -> None:
        super().__init__()
        size = self.size = settings.size
        self.heads = settings.heads
        self.window = settings.window
        self.memory_size = settings.layers * 2 * size + 1
        self.from_z = LatentLinear(z_size, size)
        self.from_action = nn.Linear(action_size, size, bias=False)
        self.blocks = nn.ModuleList(
            Block(size, settings.heads, settings.window) for _ in range(settings.layers)
        )
        self.norm = RMSNorm(size, eps=1e-3)

    def project(self, action: Tensor) -> Tensor:
        return cast("Tensor", self.from_action(action))

    def forward(
        self, h: Tensor, z: Tensor, memory: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        # h of the last row is a function of the memory; z and the action are what is new.
        x = self.from_z(z) + projected
        past, used = memory[..., :-1], memory[..., -1]
        caches = past.chunk(len(self.blocks), dim=-1)
        fresh: list[Tensor] = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, keys_values = block(x, cache, used)
            fresh.append(keys_values)
        newest = torch.cat([*fresh, torch.ones_like(used[..., :1])], dim=-1).unsqueeze(-2)
        return self.norm(x), torch.cat([memory[..., 1:, :], newest], dim=-2)


class Block(nn.Module):
    """One row of attention over its window (itself included) and a perceptron."""

    def __init__(self, size: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend_norm = RMSNorm(size, eps=1e-3)
        self.qkv = Linear(size, 3 * size, bias=False)
        self.distance = nn.Parameter(torch.zeros(heads, window + 1))
        self.out = Linear(size, size, bias=False)
        self.mlp_norm = RMSNorm(size, eps=1e-3)
        self.up = Linear(size, 2 * size)
        self.down = Linear(2 * size, size)

    def forward(self, x: Tensor, cache: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        query, key_value = self.qkv(self.attend_norm(x)).tensor_split([x.shape[-1]], dim=-1)
        rows = torch.cat([cache, key_value.unsqueeze(-2)], dim=-2)
        keys, values = (
            part.reshape(*part.shape[:-1], self.heads, -1) for part in rows.chunk(2, dim=-1)
        )
        query = query.reshape(*query.shape[:-1], self.heads, -1)
        scores = torch.einsum("...hd,...lhd->...hl", query, keys) * query.shape[-1] ** -0.5
        scores = scores + self.distance
        blocked = torch.cat([used, torch.ones_like(used[..., :1])], dim=-1) < 0.5
        scores = scores.masked_fill(blocked.unsqueeze(-2), -torch.inf)
        mixed = torch.einsum("...hl,...lhd->...hd", scores.softmax(-1), values)
        x = x + self.out(mixed.flatten(-2))
        x = x + self.down(F.silu(self.up(self.mlp_norm(x))))
        return x, key_value
