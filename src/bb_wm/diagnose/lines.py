"""A report, a ledger and promotions as lines over what they depend on: rows, deciles, decisions.

What page and tables say in numbers, for a viewer that draws lines (TensorBoard). Every line is
name -> series -> [(step, value)]; series of one name belong into one chart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bb_wm.decide.ledger import Ledger

if TYPE_CHECKING:
    from bb_wm.diagnose.calibration_curves import Curve
    from bb_wm.diagnose.report import Report

Lines = dict[str, dict[str, list[tuple[int, float]]]]
MOST_DECISIONS: Final = 5000


def report_lines(report: Report) -> Lines:
    """Reconstruction and KL by row, error by rows ahead, reward, risk and Delta V_s by decile of
    what was predicted (`predicted` beside `real`)."""
    kept = report.measured
    lines: Lines = {
        "reconstruction_error_by_rows_read": {"model": _from_one(kept.beliefs.reconstruction)},
        "kl_by_rows_read": {"model": _from_one(kept.beliefs.kl_by_row)},
        "kl_by_rows_imagined": {"model": _from_one(kept.beliefs.kl_by_horizon)},
        "nrmse_by_rows_ahead": {p.name: _from_one(p.nrmse) for p in report.evaluation.paths},
        "reward_by_decile": _calibration(kept.reward),
        f"reward_{kept.ahead}_rows_ahead_by_decile": _calibration(kept.imagined_reward),
        "risk_V_s_by_decile": _calibration(kept.risk.curve),
        f"delta_risk_V_s_over_{kept.ahead}_rows_by_decile": _calibration(kept.delta_risk),
    }
    if report.trusted is not None:
        lines["rollout_trusted_rows_share"] = {"model": list(enumerate(report.trusted.shares))}
    return lines


def ledger_lines(path: str | os.PathLike[str] | Ledger) -> Lines:
    """EVSI against realised gain over the decisions settled by lot, as means so far (`estimated`
    beside `realised`), and every decision's EVSI. The newest `MOST_DECISIONS` are looked at."""
    if not isinstance(path, Ledger):
        with Ledger(path, create=False) as ledger:
            return ledger_lines(ledger)
    rows = [row for row in reversed(path.rows(MOST_DECISIONS)) if row["evsi"] is not None]
    rows = [row for row in rows if not row["withdrawn"]]
    pairs = _pairs(rows)
    by_lot = [row for row in rows if row["forced"] and not row["pair"] and _settled(row)]
    return {
        "evsi_of_each_decision": {"estimated": [(row["number"], row["evsi"]) for row in rows]},
        "evsi_mean_over_pairs": {
            "estimated": _means([estimate for estimate, _ in pairs]),
            "realised": _means([gain for _, gain in pairs]),
        },
        "evsi_mean_over_lots": {
            "estimated": _means([row["evsi"] for row in by_lot]),
            "realised": _arms(by_lot),
        },
    }


def promotion_lines(entries: Sequence[Mapping[str, Any]]) -> Lines:
    """The bound on Delta V_s of every recorded promotion beside what it had to stay below."""
    found: dict[str, list[tuple[int, float]]] = {"bound": [], "limit": []}
    for entry in entries:
        for check in entry.get("checks", ()):
            if check.get("code") == "delta_risk":
                for series, name in (("bound", "value"), ("limit", "limit")):
                    if isinstance(check.get(name), int | float):
                        found[series].append((int(entry["number"]), float(check[name])))
    return {"promotion_delta_risk_V_s": found}


def _from_one(values: Sequence[float]) -> list[tuple[int, float]]:
    return list(enumerate(values, start=1))


def _calibration(curve: Curve) -> dict[str, list[tuple[int, float]]]:
    return {
        "predicted": _from_one([one.predicted for one in curve.bins]),
        "real": _from_one([one.real for one in curve.bins]),
    }


def _settled(row: Mapping[str, Any]) -> bool:
    return row["realised_return"] is not None


def _pairs(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(estimate, gain) of every state that was played both ways, in order."""
    skipped = {row["pair"]: row for row in rows if row["pair"] and row["forced"] == "skip"}
    return [
        (row["evsi"], row["realised_return"] - skipped[row["pair"]]["realised_return"])
        for row in rows
        if row["forced"] == "ask" and row["pair"] in skipped
        if _settled(row) and _settled(skipped[row["pair"]])
    ]


def _means(values: Sequence[float]) -> list[tuple[int, float]]:
    """The mean of the first 1, 2, ... values."""
    total, found = 0.0, []
    for n, value in enumerate(values, start=1):
        total += value
        found.append((n, total / n))
    return found


def _arms(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Mean return of those that asked less that of those that did not, over the first n."""
    sums, counts, found = [0.0, 0.0], [0, 0], []
    for n, row in enumerate(rows, start=1):
        arm = int(row["forced"] == "ask")
        sums[arm] += row["realised_return"]
        counts[arm] += 1
        if min(counts):
            found.append((n, sums[1] / counts[1] - sums[0] / counts[0]))
    return found
