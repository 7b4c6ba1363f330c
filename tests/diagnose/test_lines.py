"""The lines say what page, table and ledger report say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.diagnose.test_page import full  # noqa: F401

from bb_wm.decide import Evidence, Gate, Ledger, read_ledger
from bb_wm.decide.evidence import AskEvidence, CandidateEvidence
from bb_wm.diagnose.lines import ledger_lines, promotion_lines, report_lines

PUSH = Evidence(
    candidates=(CandidateEvidence("push", 2.0, 0.05, 0.1),),
    hold_utility=1.0,
    horizon=10,
    observed_at=99.5,
    policy="CEM",
)


def fill(path: Path, *, pairs: int = 12, lots: int = 30) -> Path:
    """A ledger of decisions settled by lot, some both ways, with outcomes."""
    gate = Gate(limit=0.2, max_age=5.0, clock=lambda: 100.0)
    draw = np.random.default_rng(0)
    with Ledger(path, durable=False) as ledger:
        for n in range(pairs + lots):
            gain = float(draw.uniform(0.1, 1.0))
            ask = AskEvidence("look", gain, gain - 0.01, gain + 0.01, 0.0, 0.0, info=0.5)
            decision = gate.decide(replace(PUSH, asks=(ask,)))
            paired = n < pairs
            for forced in ("ask", "skip") if paired else (str(draw.choice(["ask", "skip"])),):
                one = replace(decision, decision_id=f"{n}{forced}", forced=forced)
                ledger.record(one, pair=str(n) if paired else None)
                value = 1.0 + gain * (forced == "ask") + 0.1 * float(draw.standard_normal())
                ledger.outcome(one.decision_id, value)
    return path


def test_means_of_gains_end_where_the_ledger_report_ends(tmp_path):
    path = fill(tmp_path / "ledger.sqlite")
    lines = ledger_lines(path)
    said = {one.method: one for one in read_ledger(path).calibration}
    assert set(said) == {"paired", "lot"}
    for name, method in (("evsi_mean_over_pairs", "paired"), ("evsi_mean_over_lots", "lot")):
        last = {series: line[-1] for series, line in lines[name].items()}
        assert last["estimated"] == (said[method].n, pytest.approx(said[method].mean_estimate))
        assert last["realised"] == (said[method].n, pytest.approx(said[method].mean_gain))
    every = lines["evsi_of_each_decision"]["estimated"]
    assert len(every) == 12 * 2 + 30
    assert [n for n, _ in every] == sorted(n for n, _ in every)


def test_an_empty_ledger_has_no_lines(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        lines = ledger_lines(ledger)
    assert not any(line for series in lines.values() for line in series.values())


def test_a_report_is_drawn_in_its_own_numbers(full):  # noqa: F811
    report = full.report
    lines = report_lines(report)
    assert lines["nrmse_by_rows_ahead"].keys() == {p.name for p in report.evaluation.paths}
    assert lines["nrmse_by_rows_ahead"]["mode"][9] == (10, report.evaluation.paths[0].nrmse[9])
    drawn = lines["kl_by_rows_read"]["model"]
    assert [value for _, value in drawn] == list(report.measured.beliefs.kl_by_row)
    drawn = lines[f"delta_risk_V_s_over_{report.measured.ahead}_rows_by_decile"]
    bins = report.measured.delta_risk.bins
    assert drawn["predicted"] == [(i, b.predicted) for i, b in enumerate(bins, start=1)]
    assert drawn["real"] == [(i, b.real) for i, b in enumerate(bins, start=1)]
    assert lines["rollout_trusted_rows_share"]["model"][-1] == (15, 0.5)
    assert "rollout_trusted_rows_share" not in report_lines(replace(report, trusted=None))


def test_promotions_show_the_bound_beside_its_limit():
    check = {"code": "delta_risk", "value": -0.1, "limit": 0.0}
    entries = [
        {"number": 3, "checks": [{"code": "blind", "value": 9.0, "limit": 0.1}, check]},
        {"number": 4, "checks": [{**check, "value": None}]},  # could not be measured
        {"number": 5, "checks": [{**check, "value": 0.2}]},
    ]
    found = promotion_lines(entries)["promotion_delta_risk_V_s"]
    assert found["bound"] == [(3, -0.1), (5, 0.2)]
    assert found["limit"] == [(3, 0.0), (4, 0.0), (5, 0.0)]
    assert not math.isnan(found["bound"][0][1])
