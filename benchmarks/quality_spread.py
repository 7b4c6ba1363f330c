"""Are sampled rollouts as wide as they are wrong? Coverage and CRPS of 16 samples per window.

The interval of 16 samples is from the smallest to the largest. If the truth is one more draw of
the same law it lies inside with probability (16 - 1) / (16 + 1) = 0.882: that is what a calibrated
model scores, and the closest to 0.9 that order statistics of 16 samples offer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bb_wm.diagnose.scores import Variances, masked_mean

SAMPLES = 16
NOMINAL = (SAMPLES - 1) / (SAMPLES + 1)


def coverage(samples: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Whether min <= truth <= max: samples [W, S, K, D], real [W, K, D] -> 0 or 1, [W, K, D]."""
    inside = (samples.min(axis=1) <= real) & (real <= samples.max(axis=1))
    return np.asarray(inside, np.float64)


def crps(samples: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score E|X - y| - E|X - X'| / 2, [W, K, D], in data units.

    The second mean is over pairs of different samples, so the score does not favour many or few
    samples (Ferro 2014). 0 is perfect; of a single certain guess it is the absolute error.
    """
    count = samples.shape[1]
    ordered = np.sort(samples, axis=1)
    weight = (2 * np.arange(1, count + 1) - count - 1).reshape(1, -1, 1, 1)
    between = 2 * (weight * ordered).sum(axis=1) / (count * (count - 1))
    return np.asarray(np.abs(samples - real[:, None]).mean(axis=1) - between / 2)


def judge(
    samples: np.ndarray,
    real: np.ndarray,
    valid: np.ndarray,
    variances: Variances,
    horizons: Sequence[int],
) -> dict[str, Any]:
    """Coverage and CRPS (in deviations of the held-out rows) at each horizon, mean over dimensions.

    `outside` tells under which share of windows the truth is below and above all samples, so that
    a bias shows apart from a wrong width; `width` is the interval's mean in deviations.
    """
    used = variances.used
    samples, real = samples[..., used].astype(np.float64), real[..., used]
    std = np.sqrt(variances.variance[used])
    inside = masked_mean(coverage(samples, real), valid)
    score = masked_mean(crps(samples, real), valid) / std
    width = masked_mean(samples.max(axis=1) - samples.min(axis=1), valid) / std
    below = masked_mean((real < samples.min(axis=1)).astype(np.float64), valid)
    above = masked_mean((real > samples.max(axis=1)).astype(np.float64), valid)
    return {
        str(k): {
            "coverage": float(inside[k - 1].mean()),
            "by_dimension": inside[k - 1].tolist(),
            "outside": [float(below[k - 1].mean()), float(above[k - 1].mean())],
            "width": float(width[k - 1].mean()),
            "crps": float(score[k - 1].mean()),
        }
        for k in horizons
    }
