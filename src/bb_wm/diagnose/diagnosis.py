"""diagnose(model, data) -> Report: all of section 6 of the specification, and the smells of 7."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bb_wm.diagnose.actions import measure_actions
from bb_wm.diagnose.asking import measure_asking
from bb_wm.diagnose.beliefs import measure_beliefs
from bb_wm.diagnose.calibration_curves import check_imagined, check_reward, check_risk, filter_rows
from bb_wm.diagnose.effort import measure_effort
from bb_wm.diagnose.horizon import Yardstick, measure_drift
from bb_wm.diagnose.latency import measure_latency
from bb_wm.diagnose.open_loop import evaluate
from bb_wm.diagnose.report import Measured, Report
from bb_wm.diagnose.smells import (
    ActionMisalignment,
    Detector,
    PosteriorCollapse,
    RolloutDrift,
    SafetyBlindSpots,
    Smell,
    find_smells,
)
from bb_wm.diagnose.windows import cut_windows, plan_windows
from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.decide.ledger import Ledger
    from bb_wm.diagnose.effort import Simulator
    from bb_wm.diagnose.latency import Latency
    from bb_wm.diagnose.windows import Windows
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

LIVE: Final[tuple[Detector, ...]] = (
    PosteriorCollapse(),
    RolloutDrift(),
    SafetyBlindSpots(),
    ActionMisalignment(),
)
"""Detectors that need nothing but the model and held-out rows."""


def diagnose(
    model: WorldModel,
    data: Sequence[Episode],
    *,
    training: Sequence[Episode] | None = None,
    simulator: Simulator | None = None,
    ledger: str | os.PathLike[str] | Ledger | None = None,
    budget_ms: float | None = None,
    latency: bool = True,
    probe: bool = True,
    context: int = 10,
    horizons: Sequence[int] = (1, 5, 10, 15),
    windows: int = 300,
    rows: int = 20_000,
    seed: int = 0,
) -> Report:
    """What can be said of `model` on held-out episodes `data`, and which smells it has.

    training   the episodes it learnt from: fits the linear baseline, and the alignment probe asks
               them (`data` where they are not given)
    simulator  makes the environment, to replay plans in: reward hacking cannot be seen without
    ledger     a ledger, or its file, of decisions made with the model: EVSI against realised gains
    budget_ms  what one rollout of the longest horizon may take
    latency, probe  whether to time rollouts, and to ask the probe
    windows, rows   how much of `data` to look at

    Changes nothing in the model and draws from generators of its own. Raises DataError where `data`
    is empty or too short to imagine one row.
    """
    began = time.perf_counter()
    if not data:
        raise DataError("data", expected="at least one held-out episode", actual="none")
    evaluation = evaluate(
        model,
        data,
        training=training,
        context=context,
        horizons=horizons,
        windows=windows,
        seed=seed,
    )
    reach = evaluation.horizons[-1]
    cut = cut_windows(data, context=evaluation.context, reach=reach, count=windows, seed=seed)
    asked = (data if training is None else training) if probe else None
    measured = replace(
        _measure(model, data, cut, evaluation.headline, rows=rows, probed=asked, seed=seed),
        latency=_latency(model, cut, evaluation.horizons, budget_ms) if latency else None,
        effort=None if simulator is None else measure_effort(model, simulator, seed=seed),
        asking=None if ledger is None else measure_asking(ledger),
    )
    return Report(
        evaluation=evaluation,
        measured=measured,
        smells=find_smells(measured),
        updates=model.updates,
        seconds=time.perf_counter() - began,
    )


def glance(
    model: WorldModel, data: Sequence[Episode], *, windows: int = 100, rows: int = 2000
) -> tuple[Smell, ...]:
    """The smells that held-out rows alone can show, quickly: for a look while training.

    Those that need a simulator, a ledger, a clock or the probe are left out.
    """
    steps = (1, min(5, model.config.max_horizon))
    plan = plan_windows([len(e) for e in data], horizons=steps)
    cut = cut_windows(data, context=plan.context, reach=plan.reach, count=windows, seed=0)
    measured = _measure(model, data, cut, plan.reach, rows=rows, probed=None, seed=0)
    return find_smells(measured, LIVE)


def _measure(
    model: WorldModel,
    data: Sequence[Episode],
    cut: Windows,
    ahead: int,
    *,
    rows: int,
    probed: Sequence[Episode] | None,
    seed: int,
) -> Measured:
    """What held-out rows alone can tell."""
    yardstick = Yardstick(model.obs_spec, data)
    received = filter_rows(model, data, rows)
    imagined_reward, delta_risk = check_imagined(model, cut, ahead, seed=seed)
    return Measured(
        beliefs=measure_beliefs(model, cut, yardstick, seed=seed),
        drift=measure_drift(model, cut, yardstick, seed=seed),
        reward=check_reward(received),
        imagined_reward=imagined_reward,
        risk=check_risk(received),
        delta_risk=delta_risk,
        ahead=ahead,
        actions=measure_actions(model, cut, yardstick, rows=probed, seed=seed),
    )


def _latency(
    model: WorldModel, cut: Windows, horizons: Sequence[int], budget_ms: float | None
) -> Latency:
    """Timed up to the longest horizon the model agrees to, and at a third of it."""
    longest = model.config.max_horizon
    steps = sorted({*(k for k in horizons if k < longest), max(1, round(longest / 3)), longest})
    return measure_latency(model, cut, horizons=steps, budget_ms=budget_ms)
