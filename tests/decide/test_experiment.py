"""Deciding on the record: no record, no act; lots that are fair and break no condition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence
from bb_wm.decide.experiment import Experiment, decide_and_record, record_pair
from bb_wm.decide.gate import Gate, Verdict
from bb_wm.decide.ledger import Ledger
from bb_wm.errors import ConfigError, SaveError

LOOK = AskEvidence("look", -0.2, -0.3, -0.1, 0.0, 0.0)
GOOD = Evidence(
    candidates=(CandidateEvidence("push", 2.0, 0.05, 0.1),),
    hold_utility=1.0,
    horizon=10,
    observed_at=99.5,
    policy="CEM",
    asks=(LOOK,),
    deadline=101.0,
)


def _gate(clock: Callable[[], float] = lambda: 100.0) -> Gate:
    return Gate(limit=0.2, max_age=5.0, clock=clock)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


class Ticking:
    """A clock that shows these moments one after the other, then the last for ever."""

    def __init__(self, *moments: float) -> None:
        self.moments = list(moments)

    def __call__(self) -> float:
        return self.moments.pop(0) if len(self.moments) > 1 else self.moments[0]


def test_the_record_is_there_before_the_answer(ledger: Ledger) -> None:
    decision = decide_and_record(_gate(), ledger, GOOD, context={"k": 1}, obs=[1.0, 2.0])
    assert decision.verdict is Verdict.ACT
    assert ledger.rows()[0]["id"] == decision.decision_id


def test_without_a_durable_record_nothing_acts(tmp_path: Path) -> None:
    class Full(Ledger):
        def record(self, *args: object, **kwargs: object) -> str:
            raise SaveError("ledger.record", expected="space", actual="none")

    for broken in (Full(tmp_path / "f.sqlite"), None):
        decision = decide_and_record(_gate(), broken, GOOD)  # type: ignore[arg-type]
        assert decision.verdict is Verdict.HOLD
        assert decision.reasons == ("no_record",)
    filled = Ledger(tmp_path / "g.sqlite")
    pages = filled.select("PRAGMA page_count")[0][0]
    filled.select(f"PRAGMA max_page_count = {pages}")
    decisions = [
        decide_and_record(_gate(), filled, GOOD, context={"x": "a" * 3000}) for _ in range(20)
    ]
    acted = [d for d in decisions if d.verdict is Verdict.ACT]
    assert len(acted) == len(filled)
    assert decisions[-1].reasons == ("no_record",)
    assert "full" in decisions[-1].reason


def test_a_context_that_cannot_be_written_holds(ledger: Ledger) -> None:
    decision = decide_and_record(_gate(), ledger, GOOD, context={"x": math.nan})
    assert decision.verdict is Verdict.HOLD
    assert len(ledger) == 0


@pytest.mark.parametrize("now", [None, 100.0])
def test_a_deadline_that_passes_while_recording_withdraws(
    ledger: Ledger, now: float | None
) -> None:
    slow = _gate(Ticking(100.0, 101.5))
    decision = decide_and_record(slow, ledger, GOOD, now=now)
    assert decision.verdict is Verdict.HOLD
    assert decision.reasons == ("late",)
    row = ledger.rows()[0]
    assert row["verdict"] == "ACT"
    assert "deadline" in row["withdrawn"]


def test_a_clock_that_fails_holds(ledger: Ledger) -> None:
    def clock() -> float:
        raise OSError

    assert decide_and_record(_gate(clock), ledger, GOOD).verdict is Verdict.HOLD
    assert decide_and_record(_gate(clock), ledger, GOOD, now=100.0).verdict is Verdict.HOLD


def test_what_is_not_evidence_holds_on_the_record(ledger: Ledger) -> None:
    decision = decide_and_record(
        _gate(),
        ledger,
        None,  # type: ignore[arg-type]
        experiment=Experiment(share=1.0),
    )
    assert decision.verdict is Verdict.HOLD
    assert len(ledger) == 1


def test_lots_are_fair_rare_and_repeatable() -> None:
    """20,000 ids at 10 %: 4.5 sigma around 2000 drawn, around half of them asking."""
    lots = [Experiment(share=0.1).draw(f"id{i}") for i in range(20_000)]
    drawn = [lot for lot in lots if lot is not None]
    assert abs(len(drawn) - 2000) < 4.5 * math.sqrt(1800)
    assert abs(drawn.count("ask") - len(drawn) / 2) < 4.5 * math.sqrt(len(drawn)) / 2
    assert lots == [Experiment(share=0.1).draw(f"id{i}") for i in range(20_000)]
    assert lots != [Experiment(share=0.1, seed=1).draw(f"id{i}") for i in range(20_000)]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan, True])
def test_shares_are_checked(share: float) -> None:
    with pytest.raises(ConfigError):
        Experiment(share=share)


def test_lots_settle_asking_and_nothing_else(ledger: Ledger) -> None:
    every = Experiment(share=1.0)
    gate = _gate()
    decisions = [decide_and_record(gate, ledger, GOOD, experiment=every) for _ in range(40)]
    assert {(d.verdict, d.forced) for d in decisions} == {
        (Verdict.ASK, "ask"),
        (Verdict.ACT, "skip"),
    }
    assert all(every.draw(d.decision_id) == d.forced for d in decisions)
    stale = replace(GOOD, observed_at=90.0)
    risky = replace(GOOD, asks=(replace(LOOK, risk_bound=0.9),))
    for _ in range(20):
        assert decide_and_record(gate, ledger, stale, experiment=every).verdict is Verdict.HOLD
        barred = decide_and_record(gate, ledger, risky, experiment=every)
        assert (barred.verdict, barred.forced) == (Verdict.ACT, None)


def test_pairs_are_recorded_together_or_not_at_all(ledger: Ledger) -> None:
    made = record_pair(_gate(), ledger, GOOD, pair="p1", now=100.0)
    assert made is not None
    asked, skipped = made
    assert (asked.verdict, skipped.verdict) == (Verdict.ASK, Verdict.ACT)
    assert {row["pair"] for row in ledger.rows()} == {"p1"}
    barred = replace(GOOD, asks=(replace(LOOK, risk=0.9),))
    assert record_pair(_gate(), ledger, barred, pair="p2", now=100.0) is None
    assert len(ledger) == 2
