"""Measures of risk over sampled rollouts: mean, conditional value at risk, worst case."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class RiskMeasure(abc.ABC):
    """rho(V) of risks V over rollouts, written as a mean of contributions so it has a spread."""

    __slots__ = ()

    @abc.abstractmethod
    def contributions(self, risks: Tensor, weights: Tensor) -> Tensor:
        """c [*batch, N] with rho = sum_i w_i c_i, for risks and weights [*batch, N]."""

    def __call__(self, risks: Tensor, weights: Tensor | None = None) -> Tensor:
        """rho [*batch] of risks [*batch, N]; equal weights when None. Larger is worse."""
        weights = rollout_weights(risks, None) if weights is None else weights
        return (weights * self.contributions(risks, weights)).sum(-1)


@dataclass(frozen=True, slots=True)
class Mean(RiskMeasure):
    """E[V]: the expected risk."""

    def contributions(self, risks: Tensor, weights: Tensor) -> Tensor:
        return risks


@dataclass(frozen=True, slots=True)
class CVaR(RiskMeasure):
    """The mean of the worst `tail` share of the rollouts; tail = 1 is the mean.

    CVaR = q + E[max(V - q, 0)] / tail with q the (1 - tail) quantile (Rockafellar & Uryasev 2000).
    """

    tail: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.tail <= 1:
            raise ConfigError("CVaR.tail", expected="within (0, 1]", actual=self.tail)

    def contributions(self, risks: Tensor, weights: Tensor) -> Tensor:
        order = risks.argsort(dim=-1, descending=True, stable=True)
        ordered = risks.gather(-1, order)
        mass = weights.gather(-1, order).cumsum(-1)
        # The first rollout from the worst down at which the mass reaches the tail holds q.
        short = (mass < self.tail * (1 - 1e-6)).sum(-1, keepdim=True)
        quantile = ordered.gather(-1, short.clamp_max(risks.shape[-1] - 1))
        return quantile + (risks - quantile).clamp_min(0) / self.tail


@dataclass(frozen=True, slots=True)
class Worst(RiskMeasure):
    """max V over the rollouts that have any weight."""

    def contributions(self, risks: Tensor, weights: Tensor) -> Tensor:
        counted = risks.masked_fill(weights == 0, -torch.inf)
        return counted.amax(-1, keepdim=True).expand_as(risks)


def rollout_weights(like: Tensor, log_weights: Tensor | None) -> Tensor:
    """Weights shaped like `like` [*batch, N] that sum to 1; equal when log_weights is None."""
    if log_weights is None:
        return torch.full_like(like, 1.0 / like.shape[-1])
    try:
        wide = log_weights.to(like.dtype).expand_as(like)
    except RuntimeError:
        raise BatchError(
            "log_weights", expected=list(like.shape), actual=list(log_weights.shape)
        ) from None
    return wide.softmax(-1)
