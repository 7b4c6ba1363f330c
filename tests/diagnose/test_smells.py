"""Every detector at its threshold: found, clear, and too little evidence for either."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bb_wm.decide import AskEvidence, CandidateEvidence, Evidence, Gate, Ledger, record_pair
from bb_wm.decide.ledger_report import Watch
from bb_wm.diagnose.actions import Actions, Probe
from bb_wm.diagnose.asking import Asking, measure_asking
from bb_wm.diagnose.beliefs import Beliefs
from bb_wm.diagnose.calibration_curves import Curve, RiskCheck
from bb_wm.diagnose.effort import Effort, EffortRow
from bb_wm.diagnose.estimates import UNKNOWN, Estimate
from bb_wm.diagnose.horizon import Drift, Place
from bb_wm.diagnose.latency import Latency, Timing
from bb_wm.diagnose.report import Measured
from bb_wm.diagnose.smells import (
    DETECTORS,
    ActionMisalignment,
    HelplessOrHubris,
    LatencyCreep,
    PosteriorCollapse,
    RewardHacking,
    RolloutDrift,
    SafetyBlindSpots,
    find_smells,
)


def about(value: float, reach: float = 0.01, units: int = 30) -> Estimate:
    return Estimate(value, value - reach, value + reach, units)


CURVE = Curve(0, (), math.nan, UNKNOWN, math.nan, math.nan)
HEALTHY = Measured(
    beliefs=Beliefs((0.1,), (3.0,), (3.0,), (3.0,), about(3.0), about(0.9)),
    drift=Drift((0.1,) * 10, (1.0,) * 10, (1.0,) * 10, (about(0.1),) * 10, Place(3, 17), worst_k=5),
    reward=CURVE,
    imagined_reward=CURVE,
    risk=RiskCheck(CURVE, about(0.0), events=40, event_units=10, missed=Place(2, 5)),
    delta_risk=CURVE,
    ahead=10,
    actions=Actions(
        3,
        about(3.0),
        (3.0,) * 3,
        about(2.0),
        about(2.0),
        Place(1, 9),
        Probe("aligned", 0, (1.0, 0.1, 1.0), 20.0, 3000),
    ),
    latency=Latency((Timing(5, 64, 1.0, 1.0), Timing(15, 64, 3.0, 3.0)), about(0.9), 15, None),
    effort=Effort(
        (EffortRow("RandomShooting", 1, 0.0, 0.0), EffortRow("CEM", 512, 4.0, 3.6)),
        24,
        10,
        promise=about(4.0),
        undelivered=about(0.1),
        worst=7,
    ),
    asking=Asking(300, 200, 90, 200, 100, (), ()),
)


def test_health_is_clear_everywhere():
    assert {smell.status for smell in find_smells(HEALTHY)} == {"clear"}
    assert len({detector.name for detector in DETECTORS}) == 7


@pytest.mark.parametrize(
    ("use", "status"),
    [
        (about(0.05), "found"),
        (about(0.095), "clear"),  # it may be more than a tenth
        (about(0.05, units=7), "not enough evidence"),
        (UNKNOWN, "not enough evidence"),
    ],
)
def test_collapse_is_a_z_that_surely_tells_less_than_a_tenth(use, status):
    beliefs = replace(HEALTHY.beliefs, use=use)
    assert PosteriorCollapse().judge(replace(HEALTHY, beliefs=beliefs)).status == status


def drifting(*values: Estimate) -> Measured:
    return replace(HEALTHY, drift=replace(HEALTHY.drift, excess=values))


def test_drift_is_told_from_the_first_step_by_where_it_begins():
    good, bad = about(0.5), about(1.2)
    soon = RolloutDrift().judge(drifting(good, good, bad, bad, bad))
    assert (soon.status, soon.severity) == ("found", "serious")
    assert "3 steps ahead" in soon.evidence
    assert (soon.episode, soon.row) == (3, 17)
    later = RolloutDrift().judge(drifting(*[good] * 7, bad))
    assert (later.status, later.severity) == ("found", "warning")
    # one or two steps are too short to drift: a model may be coarser than 'nothing changes' there
    assert RolloutDrift().judge(drifting(bad, bad, good, good, good)).status == "clear"
    unsure = about(1.2, reach=0.2)
    assert RolloutDrift().judge(drifting(good, good, unsure, unsure, unsure)).status == "clear"
    assert RolloutDrift().judge(drifting(good, good)).status == "not enough evidence"
    few = about(1.2, units=5)
    assert RolloutDrift().judge(drifting(few, few, few)).status == "not enough evidence"


def test_hacking_needs_a_simulator_and_a_promise_that_is_no_chance():
    def judged(**changes):
        return RewardHacking().judge(replace(HEALTHY, effort=replace(HEALTHY.effort, **changes)))

    found = judged(undelivered=about(0.8))
    assert found.status == "found"
    assert found.numbers["gap_strong"] == pytest.approx(0.4)
    assert "seed 7" in found.evidence
    assert judged(undelivered=about(0.505)).status == "clear"
    assert judged(promise=about(0.005)).status == "not enough evidence"
    assert judged(promise=about(-1.0), undelivered=about(0.9)).status == "not enough evidence"
    without = RewardHacking().judge(replace(HEALTHY, effort=None))
    assert without.status == "not enough evidence"
    assert "simulator" in without.evidence


def test_blind_spots_need_events_before_they_are_called_or_cleared():
    def judged(**changes):
        return SafetyBlindSpots().judge(replace(HEALTHY, risk=replace(HEALTHY.risk, **changes)))

    found = judged(hidden=about(0.4))
    assert (found.status, found.episode, found.row) == ("found", 2, 5)
    assert judged(hidden=about(0.205)).status == "clear"
    assert judged(hidden=about(0.9), events=9).status == "not enough evidence"
    assert judged(hidden=about(0.9), event_units=4).status == "not enough evidence"
    assert judged(hidden=about(0.0), events=0).status == "not enough evidence"


def test_latency_creeps_by_growth_or_past_a_budget():
    def judged(**changes):
        return LatencyCreep().judge(replace(HEALTHY, latency=replace(HEALTHY.latency, **changes)))

    assert judged(growth=about(2.0)).status == "found"
    assert judged(growth=about(1.255)).status == "clear"
    assert judged(growth=UNKNOWN).status == "not enough evidence"
    over = judged(budget_ms=2.5)
    assert (over.status, over.severity) == ("found", "serious")
    assert judged(budget_ms=3.5).status == "clear"
    without = LatencyCreep().judge(replace(HEALTHY, latency=None))
    assert without.status == "not enough evidence"


def test_misalignment_by_the_model_by_the_rows_and_by_deafness():
    def judged(**changes):
        actions = replace(HEALTHY.actions, **changes)
        return ActionMisalignment().judge(replace(HEALTHY, actions=actions))

    early = judged(early=about(0.5))
    assert early.status == "found"
    assert "before" in early.evidence
    assert "after" in judged(late=about(0.5)).evidence
    assert judged(late=about(0.945)).status == "clear"
    rows = Probe("shifted", 1, (1.0, 0.9, 0.2), 12.0, 3000)
    assert "+1" in judged(probe=rows).evidence
    deaf = about(1.0)
    assert judged(shuffled=deaf).status == "found"
    dull = Probe("inconclusive", 0, (1.0, 0.99, 1.0), 1.0, 3000)
    assert judged(shuffled=deaf, probe=dull).status == "not enough evidence"
    assert judged(probe=None).status == "clear"
    unknown = judged(early=UNKNOWN, late=UNKNOWN, shuffled=UNKNOWN)
    assert unknown.status == "not enough evidence"


GATE = Gate(limit=1.0, max_age=1.0, clock=lambda: 0.0)


def evidence(evsi: float) -> Evidence:
    ask = AskEvidence("look", evsi, evsi - 0.01, evsi + 0.01, 0.0, 0.0, info=evsi, cost=0.0)
    return Evidence(
        candidates=[CandidateEvidence("do", 1.0, 0.0, 0.0)],
        hold_utility=0.0,
        horizon=3,
        observed_at=0.0,
        policy="p",
        asks=[ask],
    )


def ledger_of(path, *, own: int, evsi: float, pairs: int, gain: float) -> Asking:
    """`own` decisions of the gate; pairs of which asking brought `gain` more, give or take."""
    with Ledger(path, durable=False) as ledger:
        for _ in range(own):
            ledger.record(GATE.decide(evidence(evsi)))
        for number in range(pairs):
            asked, skipped = record_pair(GATE, ledger, evidence(evsi), pair=str(number))
            ledger.outcome(asked.decision_id, gain + (-1.0) ** number * 0.2)
            ledger.outcome(skipped.decision_id, 0.0)
        return measure_asking(ledger, watch=Watch())


@pytest.mark.parametrize(
    ("evsi", "gain", "pairs", "status", "word"),
    [
        (-0.5, 0.6, 40, "found", "hubris"),  # never asks, though it pays
        (-0.5, -0.4, 40, "clear", "asked in 0"),  # never asks, rightly
        (0.5, -0.4, 40, "found", "helpless"),  # always asks, though it costs
        (0.5, 0.6, 40, "clear", "asked in 130"),  # always asks, rightly
        (-0.5, 0.6, 0, "not enough evidence", "hubris?"),  # nobody can know
    ],
)
def test_asking_is_judged_by_what_it_brought(tmp_path, evsi, gain, pairs, status, word):
    asking = ledger_of(tmp_path / "l.sqlite", own=130, evsi=evsi, pairs=pairs, gain=gain)
    assert asking.open == 130
    smell = HelplessOrHubris().judge(replace(HEALTHY, asking=asking))
    assert smell.status == status
    assert word in smell.evidence


def test_a_short_ledger_or_none_tells_nothing(tmp_path):
    asking = ledger_of(tmp_path / "l.sqlite", own=110, evsi=-0.5, pairs=0, gain=0.0)
    short = HelplessOrHubris().judge(replace(HEALTHY, asking=asking))
    assert short.status == "not enough evidence"
    assert "125 are needed" in short.evidence
    none = HelplessOrHubris().judge(replace(HEALTHY, asking=None))
    assert none.status == "not enough evidence"


def test_found_ones_come_first_and_say_where_and_what_to_do():
    broken = replace(
        drifting(*[about(0.5)] * 7, about(1.2)),
        beliefs=replace(HEALTHY.beliefs, use=about(0.0)),
        asking=None,
    )
    smells = find_smells(broken)
    assert [smell.name for smell in smells[:3]] == [
        "posterior collapse",
        "rollout drift",
        "EVSI helplessness or hubris",
    ]
    said = smells[1].sentence()
    assert "rollout drift (warning)" in said
    assert "(episode 3, row 17)" in said
    assert said.endswith(RolloutDrift.advice)
