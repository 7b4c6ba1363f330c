"""Does a trusted horizon keep its promise? Fitted on half of the held-out episodes, judged on the
other half; a part of `python -m benchmarks worlds`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bb_wm.diagnose.calibration.trust import TrustedHorizon, cases_of
from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.tables import Table
from bb_wm.rssm import WorldModel
from bb_wm.types import Episode

BOUNDS = (0.1, 0.2, 0.5)  # root mean square over the observation, in its standard deviations
HEADLINE = 10  # rows


def judge(model: WorldModel, held: Sequence[Episode], context: int, seed: int) -> dict[str, Any]:
    """Per bound: rows trusted, and how often the error was larger within them, and without them."""
    reach = model.config.max_horizon
    half = len(held) // 2
    cases = cases_of(model, held[half:], reach, context=context, count=2000, seed=seed + 1)
    far = cases.real[:, HEADLINE - 1]
    found: dict[str, Any] = {"reach": reach, "bounds": {}}
    if far.sum() > 2:
        gap, error = (part[far, HEADLINE - 1] for part in (cases.gap, cases.error))
        found["spearman"] = _rank_correlation(gap, error)
    for bound in BOUNDS:
        trust = TrustedHorizon.fit(model, held[:half], bound=bound, context=context, seed=seed)
        rows = trust.rows_of(cases.gap)
        some = rows > 0
        wrong = cases.error[some, rows[some] - 1] > bound
        found["bounds"][str(bound)] = {
            "rows": float(rows.mean()),
            "miss": float(wrong.mean()) if some.any() else 0.0,
            "miss_anyway": float((cases.error[far, HEADLINE - 1] > bound).mean()),
        }
    return found


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    first, second = (values.argsort().argsort() for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def table(results: Sequence[dict[str, Any]]) -> Table:
    """Means over seeds, a row per world."""
    rows = []
    for world in dict.fromkeys(r["world"] for r in results):
        mine = [r["trust"] for r in results if r["world"] == world]
        cells = [_mean([t["spearman"] for t in mine if "spearman" in t])]
        for bound in BOUNDS:
            told = [t["bounds"][str(bound)] for t in mine]
            trusted = f"{np.mean([one['rows'] for one in told]):.1f} of {mine[0]['reach']}"
            within, anyway = ([one[key] for one in told] for key in ("miss", "miss_anyway"))
            missed = f"{_mean(within)}, {number(max(within))} at worst ({_mean(anyway)})"
            cells.append(f"{trusted}; {missed}")
        rows.append((world, *cells))
    title = (
        "Trusted horizon: rank correlation of gap and error after ten rows; then for each bound "
        "the mean rows trusted, and how often the error was larger within them, mean and worst "
        "seed (in brackets: within ten rows, trusted or not). Promised: at most 0.1"
    )
    return Table(title, ("world", "Spearman", *(f"bound {b}" for b in BOUNDS)), tuple(rows))


def _mean(values: Sequence[float]) -> str:
    return number(float(np.mean(values))) if len(values) else "-"
