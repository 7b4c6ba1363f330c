"""A belief: weighted latents, moved by actions, reweighted by real answers, resampled in time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import BatchError, ConfigError, LatentError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Dynamics, Observer
    from bb_wm.types import Latent


@dataclass(frozen=True, slots=True)
class Belief:
    """N weighted particles per batch row: latents [*batch, N], log_weights [*batch, N].

    The weights are normalised: logsumexp is 0. A row of NaN weights is a belief that no particle
    survived (an answer impossible under all of them): everything computed from it is NaN, so
    that whoever decides on it finds it unusable instead of trusting what is left.
    """

    latents: Latent
    log_weights: Tensor

    def __post_init__(self) -> None:
        shape = self.latents.batch_shape
        if not shape or tuple(self.log_weights.shape) != shape:
            raise LatentError(
                "Belief",
                expected="latents and log_weights on the same axes [*batch, N]",
                actual=f"{list(shape)} and {list(self.log_weights.shape)}",
            )

    @classmethod
    def of(cls, latents: Latent, log_weights: Tensor | None = None) -> Belief:
        """From particles [*batch, N], with any (unnormalised) log weights or equal ones."""
        if log_weights is None:
            shape = latents.batch_shape
            log_weights = latents.h.new_full(shape, -math.log(max(shape[-1], 1)) if shape else 0.0)
        return cls(latents, normalise(log_weights))

    @classmethod
    def around(
        cls, model: Observer, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor
    ) -> Belief:
        """Particles z_i ~ q(z | h, obs) of one latent per row [*batch]; noise [*batch, N, ...]."""
        count = int(noise.shape[-2])
        wide = {key: _widen(value, len(latent.batch_shape), count) for key, value in obs.items()}
        return cls.of(model.condition(latent.expand(count), wide, noise))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.latents.batch_shape[:-1]

    @property
    def particles(self) -> int:
        return self.latents.batch_shape[-1]

    @property
    def weights(self) -> Tensor:
        """w [*batch, N], summing to 1."""
        return self.log_weights.exp()

    @property
    def effective_size(self) -> Tensor:
        """1 / sum_i w_i^2, [*batch], between 1 and N: how many equal particles it is worth."""
        return 1.0 / self.weights.square().sum(-1)

    @property
    def alive(self) -> Tensor:
        """[*batch] False where no particle survived the answers."""
        return torch.isfinite(self.log_weights.logsumexp(-1))

    def mean(self, values: Tensor) -> Tensor:
        """E_b[values] for values [*batch, N, ...]."""
        extra = values.dim() - self.log_weights.dim()
        weights = self.weights.reshape(*self.weights.shape, *([1] * extra))
        return (weights * values).sum(len(self.batch_shape))

    def step(self, model: Dynamics, action: Tensor, noise: Tensor | None) -> Belief:
        """All particles under one action [*batch, A]; noise [*batch, N, noise_size]."""
        wide = action[..., None, :].expand(*self.latents.batch_shape, action.shape[-1])
        return replace(self, latents=model.step(self.latents, wide, noise))

    def read(
        self, model: Observer, obs: Mapping[str, Tensor], redraw: Tensor | None = None
    ) -> Belief:
        """Reweighted by an answer obs (keys [*batch, ...]): w_i proportional to w_i p(obs | s_i).

        A particle with a non-finite likelihood counts as impossible. With `redraw` noise
        [*batch, N, ...] every z is then drawn anew from q(z | h_i, obs): less depletion, right as
        far as q is the model's true posterior.
        """
        wide = {
            key: _widen(value, len(self.batch_shape), self.particles) for key, value in obs.items()
        }
        likelihood = model.log_likelihood(self.latents, wide)
        possible = torch.isfinite(likelihood)
        likelihood = torch.where(possible, likelihood, torch.full_like(likelihood, -torch.inf))
        latents = self.latents if redraw is None else model.condition(self.latents, wide, redraw)
        return Belief(latents, normalise(self.log_weights + likelihood))

    def resample(self, uniform: Tensor, *, below: float = 0.5) -> Belief:
        """Systematic resampling of the rows whose effective size is under `below` x N.

        uniform [*batch] in [0, 1). Particle i appears floor or ceil of N w_i times, N w_i on
        average; the other rows stay as they are.
        """
        if not 0 <= below <= 1:
            raise ConfigError("below", expected="a share of N within [0, 1]", actual=below)
        if tuple(uniform.shape) != self.batch_shape:
            raise BatchError("uniform", expected=list(self.batch_shape), actual=list(uniform.shape))
        due = self.alive & (self.effective_size < below * self.particles)
        stay = torch.arange(self.particles, device=uniform.device).expand(self.log_weights.shape)
        index = torch.where(due[..., None], systematic(self.weights, uniform), stay)
        equal = torch.full_like(self.log_weights, -math.log(self.particles))
        return Belief(
            self.latents.map(lambda t: _take(t, index)),
            torch.where(due[..., None], equal, self.log_weights),
        )


def systematic(weights: Tensor, uniform: Tensor) -> Tensor:
    """Ancestors [*batch, N]: where (i + u) / N falls in the cumulated weights."""
    count = weights.shape[-1]
    marks = torch.arange(count, dtype=weights.dtype, device=weights.device)
    marks = (marks + uniform[..., None].to(weights.dtype)) / count
    edges = weights.cumsum(-1)
    # Rounding must neither leave a mark behind the last edge nor land on a weight of 0.
    edges = edges / edges[..., -1:].clamp_min(torch.finfo(weights.dtype).tiny)
    index = torch.searchsorted(edges.contiguous(), marks.contiguous(), right=True)
    last = count - 1 - (weights.flip(-1) > 0).to(torch.int8).argmax(-1, keepdim=True)
    return torch.minimum(index, last)


def normalise(log_weights: Tensor) -> Tensor:
    """Log weights whose exponentials sum to 1; NaN where all are -inf or any is NaN."""
    return log_weights - log_weights.logsumexp(-1, keepdim=True)


def _widen(value: Tensor, lead: int, count: int) -> Tensor:
    """[*batch, ...] -> [*batch, N, ...]."""
    shape = (*value.shape[:lead], count, *value.shape[lead:])
    return value.unsqueeze(lead).expand(shape)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values [*batch, N, ...] at index [*batch, N]."""
    axis = index.dim() - 1
    extra = values.dim() - index.dim()
    wide = index.reshape(*index.shape, *([1] * extra)).expand(
        *index.shape, *values.shape[axis + 1 :]
    )
    return values.gather(axis, wide)
