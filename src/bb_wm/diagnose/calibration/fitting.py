"""Fitting a RiskCalibration on held-out episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.calibration.conformal import EVERYTHING, Claims, ConformalBound
from bb_wm.diagnose.calibration.foresight import Foreseer, Foresight, foresee_episodes
from bb_wm.diagnose.calibration.isotonic import Isotonic
from bb_wm.diagnose.calibration.ood import OODScore
from bb_wm.diagnose.calibration.risk import RiskCalibration, watch
from bb_wm.diagnose.calibration.sealed import model_digest
from bb_wm.errors import BatchError, ConfigError, DataError
from bb_wm.model.stochastic import check_int
from bb_wm.rssm import WorldModel

if TYPE_CHECKING:
    from bb_wm.types import Episode

_FLOOR = 0.1  # least scale of a claim, in standard deviations of V_s to go


def calibrate(
    model: Foreseer,
    episodes: Sequence[Episode],
    horizons: Sequence[int] = (1, 5, 10),
    alpha: float = 0.05,
    groups: Sequence[str] | None = None,
    *,
    doubt: float = 0.05,
    event: float = 0.0,
    peak: bool = False,
    samples: int = 16,
    stride: int = 1,
    seed: int = 0,
) -> RiskCalibration:
    """Fit everything on held-out episodes that the deployed policy recorded.

    A third of the episodes (of every group) gives the tables and the sizes, the rest the bounds,
    so that a bound is never fitted on the rows its estimate was tuned on. `groups` names each
    episode's group (the tool, the class of risk); `stride` is every how many rows a decision is
    made; `alpha` the share of episodes that may break a bound and `doubt` the chance that this
    calibration is unlucky. What is short is said in `findings`; DataError where nothing can be
    fitted.
    """
    wanted = _check_horizons(horizons)
    check_int("samples", samples, low=1, high=100_000)
    check_int("stride", stride, low=1, high=10**9)
    if not math.isfinite(event):
        raise ConfigError("event", expected="a finite risk", actual=event)
    labels = [EVERYTHING] * len(episodes) if groups is None else list(groups)
    if len(labels) != len(episodes):
        raise BatchError("groups", expected=f"{len(episodes)} names", actual=len(labels))
    tuning, holding = _split(labels, seed)
    learnt = [episodes[n] for n in tuning]
    unit = _unit(learnt, event)

    def look(places: list[int], salt: int) -> Foresight:
        return foresee_episodes(
            model,
            [episodes[n] for n in places],
            wanted[-1],
            samples=samples,
            unit=unit,
            event=event,
            peak=peak,
            stride=stride,
            seed=2 * seed + salt,
        )

    fitted, held = look(tuning, 0), look(holding, 1)
    tables = {k: _table(fitted, k) for k in wanted}
    met = fitted.met[fitted.known[:, -1], -1]
    floor = max(_FLOOR * float(met.std()), 1e-3 * unit)
    bounds: dict[int, ConformalBound] = {}
    scores = np.zeros(0)
    for k in wanted:
        ids, scores = claims_of(held, k, floor).worst_excess()
        names = [labels[holding[int(n)]] for n in ids]
        bounds[k] = ConformalBound.fit(scores, names, alpha=alpha, doubt=doubt)
    return RiskCalibration(
        model=model_digest(model),
        horizons=wanted,
        event=event,
        unit=unit,
        peak=peak,
        floor=floor,
        samples=samples,
        tables=tables,
        bounds=bounds,
        drift=watch(scores),
        ood=_familiarity(model, episodes, seed),
        findings=_findings(learnt, event, tables, bounds),
    )


def claims_of(foresight: Foresight, k: int, floor: float) -> Claims:
    """The claims about V_s to go over k rows, where what came is known; scale = spread + floor."""
    known = foresight.known[:, k - 1]
    return Claims(
        estimate=foresight.foreseen.risk[known, k - 1],
        scale=foresight.foreseen.spread[known, k - 1] + floor,
        happened=foresight.met[known, k - 1],
        episode=foresight.episode[known],
    )


def _check_horizons(horizons: Sequence[int]) -> tuple[int, ...]:
    wanted = tuple(sorted(set(horizons)))
    if not wanted or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in wanted):
        raise ConfigError("horizons", expected="ints >= 1", actual=list(horizons))
    return wanted


def _split(labels: list[str], seed: int) -> tuple[list[int], list[int]]:
    """A third of every group's episodes to tune on, the rest to hold."""
    random = np.random.default_rng(seed)
    tuning: list[int] = []
    for name in sorted({*labels}):
        own = random.permutation([n for n, label in enumerate(labels) if label == name])
        tuning += [int(n) for n in own[: math.ceil(len(own) / 3)]]
    chosen = set(tuning)
    return sorted(tuning), [n for n in range(len(labels)) if n not in chosen]


def _unit(episodes: Sequence[Episode], event: float) -> float:
    """The mean risk of a hazardous row; 1 where there was none."""
    if not episodes:
        raise DataError("episodes", expected="held-out episodes to calibrate on", actual="none")
    risk = np.concatenate([np.asarray(e.safety[1:], np.float64) for e in episodes])
    harmful = risk[risk > event]
    return float(harmful.mean()) if harmful.size else 1.0


def _table(foresight: Foresight, k: int) -> Isotonic:
    known = foresight.known[:, k - 1]
    if not known.any():
        raise DataError(
            "horizons",
            expected=f"episodes with {k} rows after a decision",
            actual="none",
            hint="leave this horizon out, or record longer episodes.",
        )
    return Isotonic.fit(foresight.foreseen.hazard[known, k - 1], foresight.event[known, k - 1])


def _familiarity(model: Foreseer, episodes: Sequence[Episode], seed: int) -> OODScore | None:
    if not isinstance(model, WorldModel) or sum(len(e) > 1 for e in episodes) < 4:
        return None
    return OODScore.fit(model, episodes, seed=seed)


def _findings(
    episodes: Sequence[Episode],
    event: float,
    tables: Mapping[int, Isotonic],
    bounds: Mapping[int, ConformalBound],
) -> tuple[str, ...]:
    lines = []
    harmful = sum(int((np.asarray(e.safety[1:]) > event).sum()) for e in episodes)
    if harmful < 20:
        lines.append(f"Only {harmful} hazards in the rows the tables were fitted on.")
    lines += [
        f"At {k} rows the forecasts did not order what happened: every plan gets {t.levels[0]:.3g}."
        for k, t in tables.items()
        if t.flat
    ]
    longest = bounds[max(bounds)]
    lines += [
        f"Group {name!r}: {count} episodes of the {longest.needed} a bound needs; it is infinite."
        for name, count in longest.counts.items()
        if not math.isfinite(longest.margin(name))
    ]
    return tuple(lines)
