"""What the belief holds: reconstruction, KL(posterior || prior), and whether z tells anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bb_wm.diagnose.estimates import Estimate, flipped, mean, ratio, units_of
from bb_wm.diagnose.horizon import Yardstick
from bb_wm.diagnose.open_loop import OpenLoopModel, _numpy, context_batch
from bb_wm.types import Latent

if TYPE_CHECKING:
    from bb_wm.diagnose.windows import Windows


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Reconstruction and raw KL, in nats, over the rows that were read.

    reconstruction  squared error of decoding the belief in its own row, by row read; 1: a constant
    kl_by_row       KL(q || p) by row read; the first row tells what was unknown before anything
    kl_by_variable  the same per variable of z, over all rows but the first
    kl_by_horizon   KL(q_{t+k} || p_{t+k|t}), k = 1..K, p having imagined k rows; () where the
                    model cannot tell
    first_kl        the first row's KL
    use             share of what is seen in the first row that z tells: 1 - error / error with
                    another window's z. Nothing else can know that row, so 0 means z is not used
    """

    reconstruction: tuple[float, ...]
    kl_by_row: tuple[float, ...]
    kl_by_variable: tuple[float, ...]
    kl_by_horizon: tuple[float, ...]
    first_kl: Estimate
    use: Estimate


def measure_beliefs(
    model: OpenLoopModel, windows: Windows, yardstick: Yardstick, *, seed: int = 0
) -> Beliefs:
    """Filter the context of every window and look at what was believed."""
    c, unit = windows.context, units_of(windows.episode, windows.start)
    real = {key: value[:, :c] for key, value in windows.obs.items()}
    with torch.no_grad():
        batch = context_batch(model, windows)
        latent = model.filter(batch)
        decoded = {key: _numpy(value) for key, value in model.imagine_obs(latent).items()}
        own = yardstick(decoded, real)
        first = latent[:, :1]
        swapped = Latent(first.h, first.z[_others(windows, seed)], first.memory, first.sight)
        other = {key: _numpy(value) for key, value in model.imagine_obs(swapped).items()}
        foreign = yardstick(other, {key: value[:, :1] for key, value in real.items()})
        tell = getattr(model, "kl", None)
        kl = np.zeros((len(windows), c, 0)) if tell is None else _numpy(tell(batch))
    row_kl = kl.sum(axis=-1) if kl.shape[-1] else np.full(kl.shape[:2], math.nan)
    later = kl[:, 1:] if c > 1 else kl
    return Beliefs(
        reconstruction=tuple(own.mean(axis=0).tolist()),
        kl_by_row=tuple(row_kl.mean(axis=0).tolist()),
        kl_by_variable=tuple(later.mean(axis=(0, 1)).tolist()),
        kl_by_horizon=_by_horizon(model, windows),
        first_kl=mean(row_kl[:, 0], unit),
        use=flipped(ratio(own[:, 0], foreign[:, 0], unit)),
    )


def _others(windows: Windows, seed: int) -> torch.Tensor:
    """Another window for each, by a random cycle through all of them: never its own."""
    order = np.random.default_rng(seed).permutation(len(windows))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return torch.from_numpy(other)


def _by_horizon(model: OpenLoopModel, windows: Windows) -> tuple[float, ...]:
    from bb_wm.rssm import WorldModel
    from bb_wm.rssm.divergence import kl_by_horizon

    if not isinstance(model, WorldModel):
        return ()
    rows = windows.reward.shape[1]
    first = np.zeros((len(windows), rows), bool)
    first[:, 0] = True
    raw = {
        "obs": dict(windows.obs),
        "action": windows.action,
        "reward": windows.reward,
        "safety": windows.safety,
        "terminated": windows.terminated,
        "is_first": first,
        "valid": windows.valid,
    }
    kl, valid = _numpy(kl_by_horizon(model, raw, windows.context)), windows.target_valid
    return tuple(
        float(kl[valid[:, k], k].mean()) if valid[:, k].any() else math.nan
        for k in range(windows.reach)
    )
