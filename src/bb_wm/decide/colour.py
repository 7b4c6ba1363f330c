"""Coloured noise along the steps of a plan: candidates that lean one way instead of trembling."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_PERIOD = 8  # the process is defined on a circle this many horizons long, then cut: no wrap-around


@functools.lru_cache(maxsize=64)
def colour_matrix(horizon: int, exponent: float) -> Tensor:
    """L [H, H] with x = L n of unit variance and power spectrum f^-exponent, for white n.

    The covariance is that of the stationary process, c(t) = sum_f S(f) cos(2 pi f t) / sum S, and
    L its Cholesky factor; exponent 0 gives the identity. Idea: Pinneri et al. 2020 (iCEM), after
    Timmer & König 1995.
    """
    if exponent == 0:
        return torch.eye(horizon, dtype=torch.float64)
    period = max(_PERIOD * horizon, 64)
    frequencies = torch.arange(1, period // 2 + 1, dtype=torch.float64) / period
    power = frequencies ** (-exponent)
    lags = torch.arange(horizon, dtype=torch.float64)
    waves = torch.cos(2 * math.pi * lags[:, None] * frequencies[None])
    covariance = (waves * power).sum(-1) / power.sum()
    index = (lags[:, None] - lags[None]).abs().long()
    jitter = 1e-9 * torch.eye(horizon, dtype=torch.float64)
    factor: Tensor = torch.linalg.cholesky(covariance[index] + jitter)
    return factor / factor.square().sum(-1, keepdim=True).sqrt()


def coloured(noise: Tensor, exponent: float) -> Tensor:
    """White noise [..., H, A] -> coloured along H, of unit variance at every step."""
    if exponent == 0:
        return noise
    factor = colour_matrix(int(noise.shape[-2]), float(exponent)).to(noise)
    return torch.einsum("ij,...ja->...ia", factor, noise)
