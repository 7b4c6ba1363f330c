"""Do actions do in imagination what they did in the world? Shuffled, and shifted by one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.data import probe_alignment
from bb_wm.diagnose.estimates import UNKNOWN, Estimate, ratio, units_of
from bb_wm.diagnose.horizon import Place, Yardstick, future_of
from bb_wm.diagnose.open_loop import OpenLoopModel, imagine

if TYPE_CHECKING:
    from bb_wm.diagnose.windows import Windows
    from bb_wm.types import Episode

STEPS = 3  # rows imagined: enough for an action to show, too few for other errors to cover it


@dataclass(frozen=True, slots=True)
class Probe:
    """What the alignment probe says of the rows themselves (bb_wm.data.alignment)."""

    verdict: str
    best_shift: int
    losses: tuple[float, ...]
    z: float
    rows: int


@dataclass(frozen=True, slots=True)
class Actions:
    """Open-loop squared errors over the first `steps` rows, as ratios to those with real actions.

    shuffled  with another window's actions; 1: actions change nothing that is imagined
    by_step   the same for k = 1.. steps
    early     with the action of the row before; below 1 it fits better than the row's own
    late      with the action of the row after
    worst     the window where the better of the two shifts gains most
    """

    steps: int
    shuffled: Estimate
    by_step: tuple[float, ...]
    early: Estimate
    late: Estimate
    worst: Place | None
    probe: Probe | None


def measure_actions(
    model: OpenLoopModel,
    windows: Windows,
    yardstick: Yardstick,
    *,
    rows: Sequence[Episode] | None = None,
    seed: int = 0,
) -> Actions:
    """Imagine with real, shuffled and shifted actions; probe `rows` where they are given."""
    c = windows.context
    whole = windows.valid[:, : c + min(STEPS, windows.reach) + 1].all(axis=1)
    part = windows.take(np.flatnonzero(whole))
    steps = min(STEPS, windows.reach - 1)
    probe = None if rows is None else _probe(rows)
    if c < 2 or steps < 1 or len(part) < 2:
        return Actions(max(steps, 0), UNKNOWN, (), UNKNOWN, UNKNOWN, None, probe)
    order = np.random.default_rng(seed).permutation(len(part))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    done = part.future[:, :steps]
    errors = {
        name: _errors(model, part, yardstick, future)
        for name, future in (
            ("own", done),
            ("shuffled", done[other]),
            ("early", part.action[:, c - 2 : c - 2 + steps]),
            ("late", part.action[:, c : c + steps]),
        )
    }
    unit = units_of(part.episode, part.start)
    sums = {name: error.sum(axis=1) for name, error in errors.items()}
    found = {name: ratio(sums[name], sums["own"], unit) for name in ("shuffled", "early", "late")}
    better = min(("early", "late"), key=lambda name: found[name].value)
    at = int(np.argmax(sums["own"] - sums[better]))
    with np.errstate(divide="ignore", invalid="ignore"):
        by_step = errors["shuffled"].mean(axis=0) / errors["own"].mean(axis=0)
    worst = Place(int(part.episode[at]), int(part.start[at]) + c - 1)
    return Actions(steps, by_step=tuple(by_step.tolist()), worst=worst, probe=probe, **found)


def _errors(
    model: OpenLoopModel, windows: Windows, yardstick: Yardstick, future: np.ndarray
) -> np.ndarray:
    """Errors [W, steps] when `future` [W, steps, A] is done after the context."""
    c, steps = windows.context, future.shape[1]
    action = windows.action[:, : c + steps].copy()
    action[:, c - 1 : -1] = future
    cut = replace(
        windows,
        obs={key: value[:, : c + steps] for key, value in windows.obs.items()},
        action=action,
        reward=windows.reward[:, : c + steps],
        safety=windows.safety[:, : c + steps],
        terminated=windows.terminated[:, : c + steps],
        valid=windows.valid[:, : c + steps],
    )
    return yardstick(imagine(model, cut).forecast.obs, future_of(cut))


def _probe(rows: Sequence[Episode]) -> Probe:
    found = probe_alignment(rows)
    losses = tuple(float(found.losses[shift]) for shift in (-1, 0, 1))
    return Probe(found.verdict, found.best_shift, losses, found.z, found.rows)
