"""What a ledger says: lines by hand and by theory, alarms that ring when they should, only then."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence
from bb_wm.decide.experiment import Experiment, record_pair
from bb_wm.decide.gate import Gate
from bb_wm.decide.ledger import Ledger
from bb_wm.decide.ledger_report import (
    Watch,
    alarms,
    lot_line,
    paired_line,
    read_ledger,
    share_bounds,
)
from bb_wm.errors import ConfigError, PathError

GATE = Gate(limit=0.2, max_age=5.0, clock=lambda: 100.0)


def _evidence(evsi: float, info: float = 0.5) -> Evidence:
    ask = AskEvidence("look", evsi, evsi - 0.01, evsi + 0.01, 0.0, 0.0, info=info)
    return Evidence(
        candidates=(CandidateEvidence("push", 2.0, 0.05, 0.1),),
        hold_utility=1.0,
        horizon=10,
        observed_at=99.5,
        policy="CEM",
        asks=(ask,),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", durable=False)


def test_a_paired_line_by_hand() -> None:
    """(0, 0), (1, 2), (2, 1): slope 1/2, intercept 1/2, R2 1/4, its error sqrt(1.5 / 1 / 2)."""
    line = paired_line(np.array([0.0, 1, 2]), np.array([0.0, 2, 1]))
    assert (line.slope, line.intercept, line.r2) == pytest.approx((0.5, 0.5, 0.25))
    assert line.slope_error == pytest.approx(math.sqrt(1.5 / 2))
    assert (line.mean_gain, line.mean_gain_error) == pytest.approx((1.0, 1 / math.sqrt(3)))


def test_a_lot_line_finds_a_true_gain_under_a_common_level() -> None:
    """Returns 5 + 3 evsi + noise, asking adds .2 + .7 evsi: 2,000 lots, within 4 errors."""
    draw = np.random.default_rng(0)
    evsi = draw.normal(size=2000)
    asked = draw.random(2000) < 0.5
    value = 5 + 3 * evsi + draw.normal(size=2000) + asked * (0.2 + 0.7 * evsi)
    line = lot_line(evsi, value, asked)
    assert line.slope == pytest.approx(0.7, abs=4 * line.slope_error)
    assert line.intercept == pytest.approx(0.2, abs=4 * line.slope_error)
    assert line.slope_error < 0.06
    assert line.mean_gain == pytest.approx(0.2, abs=4 * line.mean_gain_error)


def test_estimates_without_spread_have_no_slope() -> None:
    assert math.isnan(paired_line(np.ones(5), np.arange(5.0)).slope)


def test_wilsons_interval_by_hand() -> None:
    """0 of 100: upper z^2 / (n + z^2); 50 of 100: .4038 to .5962."""
    assert share_bounds(0, 100) == pytest.approx((0.0, 1.96**2 / (100 + 1.96**2)))
    assert share_bounds(50, 100) == pytest.approx((0.4038, 0.5962), abs=5e-5)


def test_calibration_reads_pairs_and_lots_apart_and_leaves_own_choices_out(ledger: Ledger) -> None:
    draw = np.random.default_rng(1)
    for place in range(60):
        evsi = float(draw.uniform(-0.5, 0.5))
        made = record_pair(GATE, ledger, _evidence(evsi), pair=f"p{place}", now=100.0)
        assert made is not None
        level = float(draw.normal())
        ledger.outcome(made[0].decision_id, level + 2 * evsi)
        ledger.outcome(made[1].decision_id, level)
        own = GATE.decide(_evidence(evsi))
        ledger.record(own)
        ledger.outcome(own.decision_id, 1000.0)  # would swamp every line it leaked into
    (paired,) = read_ledger(ledger).calibration
    assert (paired.method, paired.n) == ("paired", 60)
    assert (paired.slope, paired.intercept, paired.r2) == pytest.approx((2.0, 0.0, 1.0), abs=1e-9)
    for place in range(200):
        lot = ("ask", "skip")[place % 2]
        decision = GATE.decide(_evidence(0.1 + place / 1000), force=lot)  # type: ignore[arg-type]
        ledger.record(decision)
        ledger.outcome(decision.decision_id, 3.0 + (lot == "ask") * 0.4)
    lines = {line.method: line for line in read_ledger(ledger).calibration}
    assert lines["lot"].n == 200
    assert lines["lot"].mean_gain == pytest.approx(0.4)
    assert lines["paired"].n == 60
    assert [a.name for a in read_ledger(ledger).alarms] == ["miscalibrated", "miscalibrated"]


def test_withdrawn_and_unfinished_decisions_count_for_nothing(ledger: Ledger) -> None:
    for place in range(5):
        made = record_pair(GATE, ledger, _evidence(0.1 * place), pair=f"p{place}", now=100.0)
        assert made is not None
        ledger.outcome(made[0].decision_id, 1.0)
        if place:
            ledger.outcome(made[1].decision_id, 0.0)
        if place == 1:
            ledger.withdraw(made[1].decision_id, "stopped")
    (line,) = read_ledger(ledger).calibration
    assert line.n == 3


def _choices(ledger: Ledger, asks: int, acts: int, info: float = 0.5) -> None:
    for count, evsi in ((asks, 0.3), (acts, -0.3)):
        for _ in range(count):
            ledger.record(GATE.decide(_evidence(evsi, info)))


def _lots(ledger: Ledger, gain: float) -> None:
    noise = np.random.default_rng(2).normal(scale=0.1, size=60)
    for place, luck in enumerate(noise):
        lot = ("ask", "skip")[place % 2]
        decision = GATE.decide(_evidence(gain), force=lot)  # type: ignore[arg-type]
        ledger.record(decision)
        ledger.outcome(decision.decision_id, (lot == "ask") * gain + float(luck))


@pytest.mark.parametrize(
    ("asks", "acts", "names"),
    [
        (200, 0, ["helpless"]),
        (0, 200, ["hubris"]),
        (120, 80, []),
        (190, 10, []),
        (10, 190, []),
        (50, 0, []),  # too few to say
        (0, 50, []),
    ],
)
def test_helplessness_and_hubris(ledger: Ledger, asks: int, acts: int, names: list[str]) -> None:
    _choices(ledger, asks, acts)
    raised = alarms(ledger, Watch())
    assert [alarm.name for alarm in raised] == names
    assert all(alarm.confirmed is None for alarm in raised)


@pytest.mark.parametrize(("asks", "acts", "name"), [(200, 0, "helpless"), (0, 200, "hubris")])
def test_lots_confirm_or_lift_an_alarm(tmp_path: Path, asks: int, acts: int, name: str) -> None:
    against = 1.0 if name == "hubris" else -1.0
    for gain, expected in ((against, [True]), (-against, [])):
        ledger = Ledger(tmp_path / f"{gain}.sqlite", durable=False)
        _choices(ledger, asks, acts)
        _lots(ledger, gain)
        raised = [alarm for alarm in alarms(ledger, Watch()) if alarm.name == name]
        assert [alarm.confirmed for alarm in raised] == expected


def test_a_state_that_could_not_ask_is_no_hubris(ledger: Ledger) -> None:
    for _ in range(200):
        ledger.record(GATE.decide(replace(_evidence(0.3), observed_at=0.0)))
    assert alarms(ledger, Watch()) == ()


def test_a_collapsed_posterior_is_deaf(ledger: Ledger) -> None:
    _choices(ledger, 0, 150, info=0.0)
    assert [alarm.name for alarm in alarms(ledger, Watch())] == ["hubris", "deaf"]


def test_only_the_newest_decisions_are_watched(ledger: Ledger) -> None:
    _choices(ledger, 0, 150)
    _choices(ledger, 150, 150)
    assert [a.name for a in alarms(ledger, Watch(window=150))] == ["hubris"]
    assert alarms(ledger, Watch(window=300)) == ()


@pytest.mark.parametrize("setting", [{"least": 0}, {"least": 600}, {"hubris": 0.99}])
def test_thresholds_are_checked(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Watch(**setting)  # type: ignore[arg-type]


def test_the_text_tells_all_of_it(ledger: Ledger) -> None:
    _choices(ledger, 0, 150)
    _lots(ledger, 0.5)
    told = read_ledger(ledger.path, limit=3).text
    assert "ALARM hubris: it asked in 0 of 150 decisions, and asking by lot has paid" in told
    assert "EVSI lot, n 60" in told
    assert len(told.splitlines()[-3:]) == 3
    assert "HOLD" not in told
    assert read_ledger(ledger).counts == {"ACT": 180, "ASK": 30}


def test_names_from_outside_cannot_steer_the_terminal(ledger: Ledger) -> None:
    nasty = replace(_evidence(-0.3).candidates[0], name="\x1b[2Jgo\nACT")
    ledger.record(GATE.decide(replace(_evidence(-0.3), candidates=(nasty,))))
    told = read_ledger(ledger).text
    assert "\x1b" not in told
    assert told.splitlines()[-1].split()[2] == "?[2Jgo?ACT"


def test_no_ledger_no_report(tmp_path: Path) -> None:
    with pytest.raises(PathError):
        read_ledger(tmp_path / "none.sqlite")
    empty = read_ledger(Ledger(tmp_path / "new.sqlite"))
    assert empty.counts == {}
    assert "decisions: none" in empty.text
    assert Experiment().share == 0.02
