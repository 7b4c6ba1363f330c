"""Families of the stochastic latent z: how parameters become samples, modes and divergences.

A family is a frozen setting with pure functions on a flat parameter tensor [*batch, P]; z is flat
too, [*batch, Z]. Noise is standard normal for every family, so that whoever draws it needs to know
only its size. A new family is one class here: implement the abstract members.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from bb_wm.errors import ConfigError
from bb_wm.model import native
from bb_wm.model.choices import hot_of_level, hot_of_max, mixed_kl, softmax_slope
from bb_wm.model.lookup import known_hots
from bb_wm.model.nets import share_gradient
from bb_wm.model.tape import pull_of, pull_through, sigmoid_slope

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.tape import Pull


class Stochastic(ABC):
    """A family of distributions for z."""

    __slots__ = ()

    @property
    @abstractmethod
    def size(self) -> int:
        """Z, the length of a flat z."""

    @property
    @abstractmethod
    def param_size(self) -> int:
        """P, the length of the flat parameters."""

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """N, how many standard normals one sample consumes."""

    @property
    @abstractmethod
    def variables(self) -> int:
        """How many independent variables z has, for divergences per variable."""

    @property
    def hots(self) -> tuple[int, int] | None:
        """(groups, classes) where every z is that many one-hots, so that layers may look it up."""
        return None

    @abstractmethod
    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """z [*batch, Z] from parameters and noise [*batch, N], differentiable in the parameters."""

    @abstractmethod
    def mode(self, params: Tensor) -> Tensor:
        """The most probable z, differentiable in the parameters."""

    @abstractmethod
    def moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z's numbers, [*batch, Z] each."""

    @abstractmethod
    def kl_per_variable(self, q: Tensor, p: Tensor) -> Tensor:
        """D_KL(q || p) >= 0 in nats per variable, [*batch, variables]."""

    def shared_kl(self, q: Tensor, p: Tensor, of_q: float, of_p: float) -> Tensor:
        """`kl_per_variable` with that share of its gradient for q, and for p."""
        return self.kl_per_variable(share_gradient(q, of_q), share_gradient(p, of_p))

    @abstractmethod
    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [*batch] (differential for continuous families)."""

    @abstractmethod
    def statistics(self, params: Tensor) -> Tensor:
        """Numbers [*batch, F] that say which distribution it is, smooth in the parameters."""

    def draw(
        self, params: Tensor, noise: Tensor | None, out: Tensor | None = None
    ) -> tuple[Tensor, Pull]:
        """A sample of z, or its mode without noise, in `out` if it can be written there; and what
        turns z's gradient into the parameters' own: the same as autograd's, for loops that walk
        without it."""
        if noise is None:
            z, pull = pull_through(self.mode, params)
        else:
            z, pull = pull_through(lambda p: self.sample(p, noise), params)
        return z, pull_of(lambda slope: pull(slope)[0])

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """D_KL(q || p) in nats, summed over the variables, [*batch]."""
        return self.kl_per_variable(q, p).sum(-1)


@dataclass(frozen=True, slots=True)
class Gaussian(Stochastic):
    """Diagonal Gaussian z of `width` variables; the standard deviation stays in [min_std, 2]."""

    width: int = 32
    min_std: float = 0.01

    def __post_init__(self) -> None:
        check_int("latent.width", self.width, low=1, high=4096)
        if not 0.0 < self.min_std < 1.0:
            raise ConfigError("latent.min_std", expected="between 0 and 1", actual=self.min_std)

    @property
    def size(self) -> int:
        return self.width

    @property
    def param_size(self) -> int:
        return 2 * self.width

    @property
    def noise_size(self) -> int:
        return self.width

    @property
    def variables(self) -> int:
        return self.width

    def moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = params.chunk(2, dim=-1)
        return mean, self.min_std + (2.0 - self.min_std) * torch.sigmoid(raw)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, std = self.moments(params)
        return torch.addcmul(mean, std, noise)

    def mode(self, params: Tensor) -> Tensor:
        return params[..., : self.width]

    def draw(
        self, params: Tensor, noise: Tensor | None, out: Tensor | None = None
    ) -> tuple[Tensor, Pull]:
        if _changed(self, Gaussian):
            return Stochastic.draw(self, params, noise)
        mean, raw = params.chunk(2, dim=-1)
        if noise is None:
            return mean, pull_of(lambda slope: F.pad(slope, (0, self.width)))
        opened = torch.sigmoid(raw)
        spread = noise * (2.0 - self.min_std)
        z = torch.addcmul(torch.add(mean, noise, alpha=self.min_std), spread, opened)

        def pull(slope: Tensor) -> Tensor:
            return torch.cat([slope, sigmoid_slope(slope * spread, opened)], dim=-1)

        return z, pull_of(pull)

    def kl_per_variable(self, q: Tensor, p: Tensor) -> Tensor:
        q_mean, q_std = self.moments(q)
        p_mean, p_std = self.moments(p)
        ratio = (q_std / p_std).square()
        return 0.5 * (((q_mean - p_mean) / p_std).square() + ratio - 1.0 - ratio.log())

    def entropy(self, params: Tensor) -> Tensor:
        _, std = self.moments(params)
        return (std.log() + 1.4189385332046727).sum(-1)

    def statistics(self, params: Tensor) -> Tensor:
        mean, std = self.moments(params)
        return torch.cat([mean, std.log()], dim=-1)


@dataclass(frozen=True, slots=True)
class Categorical(Stochastic):
    """`groups` one-hot variables of `classes` each, with straight-through gradients.

    `uniform` mixes that share of the uniform distribution in, so that no class ever has
    probability 0 and the KL stays finite (Hafner et al. 2021, 2023).
    """

    groups: int = 16
    classes: int = 32
    uniform: float = 0.01

    def __post_init__(self) -> None:
        check_int("latent.groups", self.groups, low=1, high=1024)
        check_int("latent.classes", self.classes, low=2, high=1024)
        if not 0.0 <= self.uniform < 1.0:
            raise ConfigError("latent.uniform", expected="in [0, 1)", actual=self.uniform)

    @property
    def size(self) -> int:
        return self.groups * self.classes

    @property
    def param_size(self) -> int:
        return self.size

    @property
    def noise_size(self) -> int:
        return self.groups

    @property
    def variables(self) -> int:
        return self.groups

    @property
    def hots(self) -> tuple[int, int] | None:
        return self.groups, self.classes

    def log_probs(self, params: Tensor) -> Tensor:
        """[*batch, groups, classes], the uniform share mixed in."""
        logits = self._groups(params)
        if self.uniform == 0.0:
            return F.log_softmax(logits, dim=-1)
        return self._mixed(logits.softmax(-1)).log()

    def probs(self, params: Tensor) -> Tensor:
        """[*batch, groups, classes], the uniform share mixed in."""
        return self._mixed(self._groups(params).softmax(-1))

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        if native.classes_fit(params, self.classes) and native.ready(params):
            return self._quickly(params, self._level(noise).reshape(-1, self.groups))
        probs = self.probs(params)
        hard = hot_of_level(probs.detach(), self._level(noise))
        return self._straight_through(hard, probs)

    def mode(self, params: Tensor) -> Tensor:
        if native.classes_fit(params, self.classes) and native.ready(params):
            return self._quickly(params, None)
        logits = self._groups(params)
        hard = hot_of_max(logits.detach())
        return self._straight_through(hard, logits.softmax(-1) if logits.requires_grad else hard)

    def moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        probs = self.probs(params).flatten(-2)
        return probs, (probs * (1.0 - probs)).clamp_min(0.0).sqrt()

    def draw(
        self, params: Tensor, noise: Tensor | None, out: Tensor | None = None
    ) -> tuple[Tensor, Pull]:
        if _changed(self, Categorical):
            return Stochastic.draw(self, params, noise)
        share = 1.0 if noise is None else 1.0 - self.uniform
        if native.classes_fit(params, self.classes):
            level = None if noise is None else self._level(noise).squeeze(-1)
            hot, index = native.draw(params, level, self.uniform, self.groups, out)

            def pull_native(
                slope: Tensor, later: Tensor, added: Tensor, out: Tensor | None = None
            ) -> Tensor:
                parts = slope, later, added, share, self.groups, out
                return native.draw_slope(params, *parts)

            return known_hots(hot, index), pull_native
        logits = self._groups(params)
        soft = logits.softmax(-1)
        if noise is None:
            hard = hot_of_max(logits)
        else:
            hard = hot_of_level(self._mixed(soft), self._level(noise))

        def pull(slope: Tensor) -> Tensor:
            wide = share * self._groups(slope)
            return softmax_slope(wide, soft).flatten(-2)

        return known_hots(hard.flatten(-2)), pull_of(pull)

    def _quickly(self, params: Tensor, level: Tensor | None) -> Tensor:
        """A draw by `bb_wm.model.native`, without autograd."""
        hot, index = native.draw(params.flatten(0, -2), level, self.uniform, self.groups)
        return known_hots(hot.view(params.shape), index)

    def _groups(self, params: Tensor) -> Tensor:
        return torch.unflatten(params, -1, (self.groups, self.classes))

    def _mixed(self, soft: Tensor) -> Tensor:
        return torch.lerp(soft, soft.new_full((), 1.0 / self.classes), self.uniform)

    def _level(self, noise: Tensor) -> Tensor:
        """One uniform number per variable, to invert the cumulative distribution at."""
        level: Tensor = torch.special.ndtr(noise)
        return level.unsqueeze(-1)

    def _straight_through(self, hard: Tensor, probs: Tensor) -> Tensor:
        if probs.requires_grad:
            return (hard + (probs - probs.detach())).flatten(-2)
        return known_hots(hard.flatten(-2))

    def shared_kl(self, q: Tensor, p: Tensor, of_q: float, of_p: float) -> Tensor:
        if self.uniform == 0.0 or type(self).kl_per_variable is not Categorical.kl_per_variable:
            return Stochastic.shared_kl(self, q, p, of_q, of_p)
        return mixed_kl(self._groups(q), self._groups(p), self.uniform, (of_q, of_p))

    def kl_per_variable(self, q: Tensor, p: Tensor) -> Tensor:
        if self.uniform > 0.0:
            return mixed_kl(self._groups(q), self._groups(p), self.uniform)
        log_q, log_p = self.log_probs(q), self.log_probs(p)
        return (log_q.exp() * (log_q - log_p)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        log_probs = self.log_probs(params)
        return -(log_probs.exp() * log_probs).sum((-1, -2))

    def statistics(self, params: Tensor) -> Tensor:
        return self.probs(params).flatten(-2)


def _changed(family: Stochastic, known: type[Stochastic]) -> bool:
    """Whether a subclass of a known family samples otherwise: then its draws must follow that."""
    mine = type(family)
    return mine is not known and (mine.sample is not known.sample or mine.mode is not known.mode)


def check_int(field: str, value: object, *, low: int, high: int) -> None:
    """ConfigError unless value is an int (not a bool) within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            field, expected=f"an int in {low}..{high}", actual=f"{type(value).__name__} {value!r}"
        )
    if not low <= value <= high:
        raise ConfigError(field, expected=f"an int in {low}..{high}", actual=value)
