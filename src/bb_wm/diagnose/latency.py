"""What imagining costs: milliseconds by horizon and batch, and whether a step's price grows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bb_wm.diagnose.estimates import UNKNOWN, Estimate
from bb_wm.diagnose.open_loop import OpenLoopModel, context_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bb_wm.diagnose.windows import Windows
    from bb_wm.types import Latent

ROUNDS = 15
BATCHES = (1, 64)


@dataclass(frozen=True, slots=True)
class Timing:
    """One rollout of `horizon` rows from `batch` beliefs: the fastest and the median of rounds."""

    horizon: int
    batch: int
    fastest_ms: float
    median_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """`growth`: a step's price at the longest horizon over that at a third of it, largest batch.

    1 is right (imagination is a chain of equal steps); a core that looks back over all of it pays
    nearly 3 at three times the horizon. It is measured in processor time on a CPU, where a busy
    machine interrupts long rollouts and spares short ones, and by the clock on a GPU. What is left
    of other work only adds time: the fastest rounds are compared, and the interval's ends hold the
    fastest of one horizon against the fastest quarter of the other. `timings` are by the clock.
    `budget_ms` is what one rollout may take, None: nobody said.
    """

    timings: tuple[Timing, ...]
    growth: Estimate
    longest: int
    budget_ms: float | None


def measure_latency(
    model: OpenLoopModel,
    windows: Windows,
    *,
    horizons: Sequence[int] = (1, 5, 10, 15),
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    budget_ms: float | None = None,
) -> Latency:
    """Time rollouts in turn, so that what else the machine does falls on all horizons alike."""
    with torch.no_grad():
        start = model.filter(context_batch(model, windows.take(slice(0, 1))))[0, -1]
        cells = [(horizon, batch) for batch in batches for horizon in horizons]
        spent = np.zeros((rounds, len(cells), 2))
        for horizon, batch in cells:
            _once(model, start, horizon, batch)  # the first is never like the others
        for turn in range(rounds):
            for place, (horizon, batch) in enumerate(cells):
                spent[turn, place] = _once(model, start, horizon, batch)
    timings = tuple(
        Timing(horizon, batch, float(spent[:, i, 0].min()), float(np.median(spent[:, i, 0])))
        for i, (horizon, batch) in enumerate(cells)
    )
    longest = max(horizons)
    short = min(horizons, key=lambda horizon: abs(horizon - longest / 3))
    growth = UNKNOWN
    if longest >= 2 * short and rounds >= 8:
        clock = int(not start.h.is_cuda)
        far = spent[:, cells.index((longest, max(batches))), clock] / longest
        near = spent[:, cells.index((short, max(batches))), clock] / short
        quick = (float(near.min()), float(far.min()))
        slower = (float(np.quantile(near, 0.25)), float(np.quantile(far, 0.25)))
        growth = Estimate(quick[1] / quick[0], quick[1] / slower[0], slower[1] / quick[0], rounds)
    return Latency(timings, growth, longest, budget_ms)


def _once(model: OpenLoopModel, start: Latent, horizon: int, batch: int) -> tuple[float, float]:
    """Milliseconds by the clock and of the processor for one rollout under zero actions."""
    latent = start.expand(batch)
    action = latent.h.new_zeros(batch, horizon, model.action_spec.size)
    for part, place in model.action_spec.slices():
        if part.kind == "discrete":
            action[..., place.start] = 1.0  # of choices the first
    _wait(latent)
    began, worked = time.perf_counter(), time.process_time()
    _wait(model.rollout(latent, action, horizon, mode="mode").latents)
    return (time.perf_counter() - began) * 1e3, (time.process_time() - worked) * 1e3


def _wait(latent: Latent) -> None:
    if latent.h.is_cuda:
        torch.cuda.synchronize(latent.h.device)
