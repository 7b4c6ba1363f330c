"""Modalities: a way of seeing, both directions, with its likelihood.

`look` turns an observation into a flat *sight* in model units; the posterior reads sights, the
shortcut predicts sights, the decoder's head gives the parameters of p(o | h, z). A new modality is
one class here and one line in `modality_of`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.model.choices import Choices
from bb_wm.model.nets import RangedStatistics, RMSNorm, RunningScale, Statistics, split

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.types import ObsEntry


_PICTURES = 32  # of a batch, that the mean picture learns from


class Modality(nn.Module, ABC):
    """One key of the observation.

    The decoder's trunk (size `trunk`) becomes decoder parameters by `head`. Errors grow with the
    horizon, so running scales have rows: 0 for reconstruction, k for k steps open loop.
    """

    sight_size: int  # S, how many numbers the shortcut sees and predicts
    direct_size: int  # how many numbers of the direct net it takes to predict them
    noise_size: int  # M, how many standard normals one sampled observation consumes
    head: nn.Module
    by_sight: bool = True  # whether the likelihood can be read off the sight, without the obs
    mixes: bool = True  # whether a sight between two others is one

    @abstractmethod
    def look(self, obs: Tensor) -> Tensor:
        """Observation [*batch, *shape] in data units -> sight [*batch, S]."""

    @abstractmethod
    def show(self, sight: Tensor) -> Tensor | None:
        """The inverse of look, in data units; None where a sight cannot be shown (images)."""

    @abstractmethod
    def decode(self, params: Tensor, noise: Tensor | None = None) -> Tensor:
        """The most probable observation in data units, or a sample of p(o | h, z)."""

    @abstractmethod
    def error(self, params: Tensor, target: Tensor) -> Tensor:
        """What the likelihood is made of: squared errors per element, or -log p of the choices.
        The target is the sight of an observation if `by_sight`, else the observation itself."""

    @abstractmethod
    def advance(self, sight: Tensor, raw: Tensor) -> Tensor:
        """The shortcut's next sight, from this one and the direct net's output."""

    def settle(self, sight: Tensor) -> Tensor:
        """A foretold sight kept near what was ever seen; here: every sight is."""
        return sight

    @abstractmethod
    def advance_error(self, predicted: Tensor, raw: Tensor, target: Tensor) -> Tensor:
        """Per element like `error`, of the shortcut's prediction against the real next sight."""

    @abstractmethod
    def nll(self, error: Tensor, kind: str, first: int) -> Tensor:
        """-log p [*batch, K] from `error` [*batch, K, ...], K horizons by running-scale row.

        `kind` is "decode" (row 0 reconstruction, row k = k steps) or "direct" (row k - 1; the last
        row is one step without memory); the K axis begins at row `first`.
        """

    def observe(self, obs: Tensor, change: Tensor) -> None:
        """Merge real rows [N, *shape] and changes between neighbours into the statistics."""

    def track(self, error: Tensor, mask: Tensor, kind: str, first: int) -> None:
        """Merge errors [*, K, ...] into the running scales, where mask [*, K] is true."""


class Vector(Modality):
    """Real numbers, standardised; Gaussian likelihood with one estimated scale per dimension."""

    def __init__(self, entry: ObsEntry, trunk: int, steps: int, *, fixed_scale: bool) -> None:
        super().__init__()
        size = entry.size
        self.shape = entry.shape
        self.sight_size = self.noise_size = size
        self.direct_size = 3 * size
        self.rows = RangedStatistics(size)
        # What never changed is predicted not to change, exactly.
        self.changes = Statistics(size, still=0.0)
        self.head = nn.Linear(trunk, size)
        self.decode_scale = RunningScale(steps + 1, size, fixed=fixed_scale)
        self.direct_scale = RunningScale(steps + 1, size, fixed=fixed_scale)

    def look(self, obs: Tensor) -> Tensor:
        flat = obs.flatten(-len(self.shape))
        return (flat - self.rows.centre) / self.rows.scale

    def show(self, sight: Tensor) -> Tensor:
        flat = torch.addcmul(self.rows.centre, sight, self.rows.scale)
        return flat.reshape(*flat.shape[:-1], *self.shape)

    def decode(self, params: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is not None:
            params = torch.addcmul(params, self.decode_scale.scale[0], noise)
        return self.show(params)

    def error(self, params: Tensor, target: Tensor) -> Tensor:
        return (params - target).square()

    def advance(self, sight: Tensor, raw: Tensor) -> Tensor:
        """A change where the past says more (positions), a value where the row itself does
        (distances that depend on them), mixed by a learned gate that begins at mostly change."""
        change, value, gate = raw.chunk(3, dim=-1)
        moved = torch.addcmul(sight, change, self.changes.scale / self.rows.scale)
        weight = torch.sigmoid(gate - 2.0) * (self.changes.scale > 0)
        return torch.lerp(moved, value, weight)

    def settle(self, sight: Tensor) -> Tensor:
        return self.rows.within(sight)

    def advance_error(self, predicted: Tensor, raw: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).square()

    def nll(self, error: Tensor, kind: str, first: int) -> Tensor:
        scale = self.decode_scale if kind == "decode" else self.direct_scale
        return scale.nll(error, first).sum(-1)

    @torch.no_grad()
    def observe(self, obs: Tensor, change: Tensor) -> None:
        self.rows.update(obs.flatten(1))
        self.changes.update(change.flatten(1))

    def track(self, error: Tensor, mask: Tensor, kind: str, first: int) -> None:
        scale = self.decode_scale if kind == "decode" else self.direct_scale
        scale.update(error, mask, first)


class Discrete(Modality):
    """One or several choices; categorical likelihood. A sight is the one-hots."""

    mixes = False

    def __init__(self, classes: tuple[int, ...], head: nn.Module) -> None:
        super().__init__()
        self.classes = classes
        self.choices = Choices(classes)
        self.sight_size = self.direct_size = sum(classes)
        self.noise_size = len(classes)
        self.head = head

    def look(self, obs: Tensor) -> Tensor:
        return self.choices.one_hot(obs)

    def show(self, sight: Tensor) -> Tensor:
        return self.choices.index_of(sight)

    def decode(self, params: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            return self.show(params)
        return self.choices.draw(params, torch.special.ndtr(noise))

    def error(self, params: Tensor, target: Tensor) -> Tensor:
        return self.choices.cross_entropy(params, target).unsqueeze(-1)

    def advance(self, sight: Tensor, raw: Tensor) -> Tensor:
        return self.choices.hard(raw)

    def advance_error(self, predicted: Tensor, raw: Tensor, target: Tensor) -> Tensor:
        return self.choices.cross_entropy(raw, target).unsqueeze(-1)

    def nll(self, error: Tensor, kind: str, first: int) -> Tensor:
        return error.sum(-1)


class DiscreteRun(Discrete):
    """Neighbouring discrete keys as one: their own heads, everything else done once for all."""

    def __init__(self, members: list[Discrete]) -> None:
        classes = tuple(n for one in members for n in one.classes)
        super().__init__(classes, JoinedHead([cast("nn.Linear", one.head) for one in members]))


class JoinedHead(nn.Module):
    """Several linear layers of the same input side by side, in one product."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.layers = layers  # a plain list: they belong to their owners

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([layer.weight for layer in self.layers])
        return F.linear(x, weight, torch.cat([layer.bias for layer in self.layers]))


class Image(Modality):
    """Pixels 0..255; convolutions both ways, Gaussian likelihood with one estimated scale.

    Pixels are told as differences from the mean picture, in units of one deviation for all: most of
    a picture never changes, and features of it whole would hardly differ. A sight is the encoder's
    features: pixels have no useful change from row to row, so the shortcut predicts features, and
    an image is shown by decoding the latent that reads them.
    """

    by_sight = False

    def __init__(
        self, entry: ObsEntry, trunk: int, steps: int, *, features: int, fixed_scale: bool
    ) -> None:
        super().__init__()
        shape = entry.shape
        self.shape = shape
        self.channels_first = entry.channels_first
        channels, *self.sides = shape if self.channels_first else (shape[2], *shape[:2])
        self.pixels = math.prod(shape)
        self.sight_size = self.direct_size = features
        self.noise_size = self.pixels
        depth = max(2, int(math.log2(min(self.sides) / 4)))
        widths = [channels] + [min(16 * 2**i, 128) for i in range(depth)]
        convolutions: list[nn.Module] = []
        for a, b in pairwise(widths):
            convolutions += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.small = tuple(-(-side // 2**depth) for side in self.sides)
        self.to_sight = nn.Linear(widths[-1] * math.prod(self.small), features)
        self.norm = RMSNorm(features, eps=1e-3)
        self.head = ImageHead(trunk, widths[::-1], self.small, tuple(self.sides))
        self.rows = Statistics(self.pixels, still=0.0)
        self.decode_scale = RunningScale(steps + 1, 1, fixed=fixed_scale)
        self.direct_scale = RunningScale(steps + 1, features, fixed=fixed_scale)

    @property
    def _unit(self) -> Tensor:
        """One deviation for all pixels, at least a level of 255."""
        return self.rows.scale.square().mean().sqrt().clamp_min(1.0)

    def _told(self, obs: Tensor) -> Tensor:
        """Pixels [*batch, *shape] -> differences from the mean picture [*batch, C, H, W]."""
        told = (obs.float() - self.rows.centre.reshape(self.shape)) / self._unit
        return told if self.channels_first else told.movedim(-1, -3)

    def look(self, obs: Tensor) -> Tensor:
        pixels = self._told(obs)
        maps = self.convolutions(pixels.flatten(0, -4) if pixels.ndim > 3 else pixels[None])
        sight = self.norm(self.to_sight(maps.flatten(1)))
        return cast("Tensor", sight.reshape(*obs.shape[:-3], self.sight_size))

    def show(self, sight: Tensor) -> Tensor | None:
        return None

    def decode(self, params: Tensor, noise: Tensor | None = None) -> Tensor:
        pixels = params
        if noise is not None:
            pixels = pixels + self.decode_scale.scale[0] * noise.reshape(params.shape)
        pixels = pixels if self.channels_first else pixels.movedim(-3, -1)
        return (self.rows.centre.reshape(self.shape) + self._unit * pixels).clamp(0.0, 255.0)

    def error(self, params: Tensor, target: Tensor) -> Tensor:
        gap = (params - self._told(target)).square()
        return gap.flatten(-3).mean(-1, keepdim=True)

    def advance(self, sight: Tensor, raw: Tensor) -> Tensor:
        return sight + raw

    def advance_error(self, predicted: Tensor, raw: Tensor, target: Tensor) -> Tensor:
        return (predicted - target.detach()).square()

    def nll(self, error: Tensor, kind: str, first: int) -> Tensor:
        if kind == "decode":
            return self.decode_scale.nll(error, first).sum(-1) * self.pixels
        return self.direct_scale.nll(error, first).sum(-1)

    @torch.no_grad()
    def observe(self, obs: Tensor, change: Tensor) -> None:
        # A few pictures of a batch tell the mean as well as all of them.
        few = obs[:: max(1, len(obs) // _PICTURES)]
        self.rows.update(few.flatten(1))

    def track(self, error: Tensor, mask: Tensor, kind: str, first: int) -> None:
        scale = self.decode_scale if kind == "decode" else self.direct_scale
        scale.update(error, mask, first)


class ImageHead(nn.Module):
    """Trunk -> maps of half the size each -> pixels, cut to the exact sides.

    A transposed convolution of 4 x 4 by steps of 2 gives each pixel the same number of weights, and
    costs a fifth of enlarging first and convolving then.
    """

    def __init__(
        self, trunk: int, widths: list[int], small: tuple[int, ...], sides: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.small, self.sides = small, sides
        self.start = nn.Linear(trunk, widths[0] * math.prod(small))
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )

    def forward(self, trunk: Tensor) -> Tensor:
        lead = trunk.shape[:-1]
        maps = self.start(trunk.reshape(-1, trunk.shape[-1])).unflatten(-1, (-1, *self.small))
        for convolution in self.convolutions:
            maps = convolution(F.silu(maps))
        high, wide = self.sides
        maps = maps[..., :high, :wide]
        return cast("Tensor", maps.reshape(*lead, *maps.shape[1:]))


def modality_of(
    entry: ObsEntry, trunk: int, steps: int, *, features: int, fixed_scale: bool
) -> Modality:
    """The modality for one key of the ObsSpec."""
    if entry.kind == "discrete":
        return Discrete(entry.classes, nn.Linear(trunk, sum(entry.classes)))
    if entry.kind == "image":
        return Image(entry, trunk, steps, features=features, fixed_scale=fixed_scale)
    return Vector(entry, trunk, steps, fixed_scale=fixed_scale)


@dataclass(frozen=True, slots=True)
class Run:
    """A modality with the keys it sees: one, or several neighbouring discrete ones."""

    modality: Modality
    keys: tuple[str, ...]
    widths: tuple[int, ...]  # of each key's variables, where there are several

    def pick(self, obs: Mapping[str, Tensor]) -> Tensor:
        """The run's part of an observation."""
        parts = [obs[key] for key in self.keys]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def by_key(self, obs: Tensor) -> dict[str, Tensor]:
        """The inverse of `pick`."""
        if len(self.keys) == 1:
            return {self.keys[0]: obs}
        return dict(zip(self.keys, split(obs, self.widths), strict=True))


def runs_of(keys: tuple[str, ...], modalities: list[Modality]) -> list[Run]:
    """Neighbouring discrete keys joined, every other key by itself."""
    runs: list[Run] = []
    for discrete, group in groupby(zip(keys, modalities, strict=True), _is_discrete):
        pairs = list(group)
        if discrete and len(pairs) > 1:
            members = [cast("Discrete", one) for _, one in pairs]
            widths = tuple(one.noise_size for one in members)
            runs.append(Run(DiscreteRun(members), tuple(key for key, _ in pairs), widths))
        else:
            runs += [Run(one, (key,), (one.noise_size,)) for key, one in pairs]
    return runs


def _is_discrete(pair: tuple[str, Modality]) -> bool:
    return isinstance(pair[1], Discrete)
