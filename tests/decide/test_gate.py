"""The gate: what it decides, that it fails closed, and that each condition is needed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence, Fault, stage
from bb_wm.decide.gate import Decision, Gate, Verdict, decide_by
from bb_wm.decide.rule import RULE
from bb_wm.errors import BatchError, ConfigError

NAN, INF = math.nan, math.inf
NOW = 100.0
GATE = Gate(limit=0.2, max_age=1.0, min_gain=0.1, max_horizon=15, max_ood=3.0, model="m1")
PUSH = CandidateEvidence("push", utility=2.0, risk=0.05, risk_bound=0.1, standard_error=0.1)
PULL = CandidateEvidence("pull", utility=1.5, risk=0.01, risk_bound=0.05, standard_error=0.1)
LOOK = AskEvidence("look", 0.3, 0.2, 0.4, risk=0.0, risk_bound=0.01, standard_error=0.05, info=0.4)
IDLE = replace(LOOK, evsi=-0.3, lower=-0.4, upper=-0.2)
ACTING = Evidence(
    candidates=(PUSH, PULL),
    hold_utility=1.0,
    horizon=10,
    observed_at=NOW - 0.5,
    policy="CEM",
    asks=(IDLE,),
    trusted_horizon=12,
    ood=1.0,
    deadline=NOW + 1,
    model="m1",
)
ASKING = replace(ACTING, asks=(LOOK,))


def test_acts_on_the_best_allowed_candidate_by_hand() -> None:
    decision = GATE.decide(ACTING, now=NOW)
    assert (decision.verdict, decision.choice, decision.index) == (Verdict.ACT, "push", 0)
    assert (decision.utility, decision.gain, decision.evsi) == (2.0, 1.0, -0.3)
    assert (decision.risk, decision.risk_bound, decision.limit) == (0.05, 0.1, 0.2)
    assert (decision.standard_error, decision.horizon, decision.age) == (0.1, 10, 0.5)
    assert decision.reasons == ("gain_over_cost",)
    assert decision.reason.startswith("Do 'push': it gains 1 over holding")


def test_asks_when_the_lower_bound_is_above_zero() -> None:
    decision = GATE.decide(ASKING, now=NOW)
    assert (decision.verdict, decision.choice, decision.index) == (Verdict.ASK, "look", 0)
    assert (decision.evsi, decision.standard_error, decision.risk_bound) == (0.3, 0.05, 0.01)
    assert decision.utility == 2.0  # of the best candidate, to compare with
    assert decision.reason.startswith("Ask 'look' first")


def test_a_risky_favourite_gives_way_to_a_safe_candidate() -> None:
    risky = replace(ACTING, candidates=(replace(PUSH, risk_bound=0.21), PULL))
    assert GATE.decide(risky, now=NOW).choice == "pull"


def test_the_limit_binds_the_smaller_of_gate_and_state() -> None:
    tight = GATE.decide(replace(ACTING, limit=0.07), now=NOW)
    assert (tight.choice, tight.limit) == ("pull", 0.07)
    assert GATE.decide(replace(ACTING, limit=5.0), now=NOW).limit == 0.2


def test_own_cost_and_caution_count_against_a_candidate() -> None:
    dear = replace(ACTING, candidates=(replace(PUSH, cost=0.8), PULL))
    assert GATE.decide(dear, now=NOW).choice == "pull"  # 0.5 net against 0.2
    careful = replace(GATE, caution=6.0)  # 1.0 - 0.6 > 0.1; 0.5 - 0.6 is not
    assert careful.decide(ACTING, now=NOW).choice == "push"
    assert replace(GATE, caution=9.0).decide(ACTING, now=NOW).reasons == ("gain",)


def test_gain_must_exceed_the_minimum_and_not_only_reach_it() -> None:
    at_most = replace(ACTING, candidates=(replace(PUSH, utility=1.5),))
    assert replace(GATE, min_gain=0.5).decide(at_most, now=NOW).verdict is Verdict.HOLD
    assert replace(GATE, min_gain=0.49).decide(at_most, now=NOW).verdict is Verdict.ACT


def test_of_several_asks_the_best_allowed_one() -> None:
    better = replace(LOOK, name="ring", evsi=0.9, lower=0.8, upper=1.0, risk_bound=0.3)
    both = replace(ACTING, asks=(better, LOOK))
    assert GATE.decide(both, now=NOW).choice == "look"
    assert replace(GATE, limit=0.4).decide(both, now=NOW).choice == "ring"


def test_a_wanted_but_forbidden_ask_holds_and_says_what_to_do() -> None:
    decision = GATE.decide(replace(ACTING, asks=(replace(LOOK, risk=0.5),)), now=NOW)
    assert decision.verdict is Verdict.HOLD
    assert decision.reasons == ("blocked_ask",)
    assert "leave it out" in decision.reason


def test_undecided_asks_act_flagged_or_hold() -> None:
    open_question = replace(ACTING, asks=(replace(LOOK, evsi=0.1, lower=-0.1),))
    flagged = GATE.decide(open_question, now=NOW)
    assert flagged.reasons == ("gain_over_cost", "evsi_undecided")
    held = replace(GATE, undecided="hold").decide(open_question, now=NOW)
    assert held.reasons == ("undecided",)


def test_forced_experiments_bend_only_the_worth_of_asking() -> None:
    asked = GATE.decide(ACTING, now=NOW, force="ask")
    assert (asked.verdict, asked.forced, asked.reasons) == (Verdict.ASK, "ask", ("asked_by_lot",))
    skipped = GATE.decide(ASKING, now=NOW, force="skip")
    assert (skipped.verdict, skipped.choice, skipped.forced) == (Verdict.ACT, "push", "skip")
    assert skipped.evsi == 0.3  # what was left out stays on record
    dangerous = replace(ACTING, asks=(replace(IDLE, risk_bound=0.5),))
    assert GATE.decide(dangerous, now=NOW, force="ask").verdict is Verdict.ACT
    assert GATE.decide(ASKING, now=NOW + 60, force="ask").verdict is Verdict.HOLD


# --- the fault matrix: 0 ACT, 0 ASK --------------------------------------------------------------


def _broken_setting(name: str, value: Any) -> Gate:
    """A gate whose settings went bad after its door was passed."""
    gate = replace(GATE)
    object.__setattr__(gate, name, value)
    return gate


def _first(**change: Any) -> Evidence:
    return replace(ACTING, candidates=(replace(PUSH, **change), PULL))


def _second(**change: Any) -> Evidence:
    return replace(ACTING, candidates=(PUSH, replace(PULL, **change)))


def _ask(base: AskEvidence = LOOK, **change: Any) -> Evidence:
    return replace(
        ACTING, candidates=(replace(PUSH, utility=0.0),), asks=(replace(base, **change),)
    )


def _state(**change: Any) -> Evidence:
    return replace(ACTING, **change)


FAULTS: dict[str, tuple[Gate, Any, float]] = {
    "stage failed": (GATE, _state(fault=Fault("plan", "RuntimeError", "boom")), NOW),
    "nothing at all": (GATE, None, NOW),
    "missing policy": (GATE, _state(policy=None), NOW),
    "empty policy": (GATE, _state(policy=""), NOW),
    "another policy": (replace(GATE, policy="MPPI"), ACTING, NOW),
    "another model": (GATE, _state(model="m0"), NOW),
    "no model named": (GATE, _state(model=None), NOW),
    "zero candidates": (GATE, _state(candidates=()), NOW),
    "zero candidates, worthwhile ask": (GATE, replace(ASKING, candidates=()), NOW),
    "candidates missing": (GATE, _state(candidates=None), NOW),
    "stale belief": (GATE, ACTING, NOW + 0.6),
    "belief from the future": (GATE, _state(observed_at=NOW + 0.1), NOW),
    "clock jumped back": (GATE, ACTING, NOW - 3600),
    "clock not a number": (GATE, ACTING, NAN),
    "clock infinite": (GATE, ACTING, INF),
    "age not a number": (GATE, _state(observed_at=NAN), NOW),
    "age infinitely small": (GATE, _state(observed_at=INF), NOW),
    "deadline passed": (GATE, _state(deadline=NOW - 1e-9), NOW),
    "deadline not a number": (GATE, _state(deadline=NAN), NOW),
    "deadline never": (GATE, _state(deadline=INF), NOW),
    "holding not a number": (GATE, _state(hold_utility=NAN), NOW),
    "holding infinitely bad": (GATE, _state(hold_utility=-INF), NOW),
    "strangeness over the limit": (GATE, _state(ood=3.1), NOW),
    "strangeness missing": (GATE, _state(ood=None), NOW),
    "strangeness not a number": (GATE, _state(ood=NAN), NOW),
    "strangeness infinitely small": (GATE, _state(ood=-INF), NOW),
    "horizon over the trusted one": (GATE, _state(horizon=13), NOW),
    "horizon over the gate's": (GATE, _state(horizon=16, trusted_horizon=99), NOW),
    "horizon zero": (GATE, _state(horizon=0), NOW),
    "horizon not a number": (GATE, _state(horizon=NAN), NOW),
    "horizon not whole": (GATE, _state(horizon=2.5), NOW),
    "trusted horizon not a number": (GATE, _state(trusted_horizon=NAN), NOW),
    "state limit not a number": (GATE, _state(limit=NAN), NOW),
    "state limit minus infinity": (GATE, _state(limit=-INF), NOW),
    "limit not a number": (_broken_setting("limit", NAN), ACTING, NOW),
    "limit infinite": (_broken_setting("limit", INF), ACTING, NOW),
    "limit missing": (_broken_setting("limit", None), ACTING, NOW),
    "least gain minus infinity": (_broken_setting("min_gain", -INF), ACTING, NOW),
    "largest age infinite": (_broken_setting("max_age", INF), ACTING, NOW),
    "caution not a number": (_broken_setting("caution", NAN), ACTING, NOW),
    "strangeness limit infinite": (_broken_setting("max_ood", INF), ACTING, NOW),
    "a number that is text": (GATE, _first(utility="3.0"), NOW),
    "a risk that is True": (GATE, _first(risk=True), NOW),
    "a risk that is missing": (GATE, _first(risk=None), NOW),
    "risk over the limit": (
        GATE,
        _state(candidates=(replace(PUSH, risk=0.3), replace(PULL, risk=0.21))),
        NOW,
    ),
    "risk over, its bound not": (GATE, _state(candidates=(replace(PUSH, risk=0.21),)), NOW),
    "bound over, its risk not": (GATE, _state(candidates=(replace(PUSH, risk_bound=0.21),)), NOW),
    "no gain": (GATE, _state(candidates=(replace(PUSH, utility=1.05),)), NOW),
    "gain eaten by cost": (GATE, _state(candidates=(replace(PUSH, cost=0.95),)), NOW),
    "negative risk": (GATE, _first(risk=-0.01), NOW),
    "negative bound": (GATE, _second(risk_bound=-0.01), NOW),
    "negative error": (GATE, _first(standard_error=-1.0), NOW),
    "negative cost": (GATE, _first(cost=-1.0), NOW),
    "negative risk of an ask": (GATE, _ask(risk=-0.5), NOW),
    "wanted ask over the limit": (
        GATE,
        replace(ACTING, asks=(replace(LOOK, risk_bound=0.3),)),
        NOW,
    ),
    "undecided where stakes are high": (
        replace(GATE, undecided="hold"),
        _state(asks=(replace(LOOK, evsi=0.1, lower=-0.1),)),
        NOW,
    ),
    "estimate refused": (GATE, _ask(usable=False), NOW),
    "ask not worth it": (GATE, _ask(lower=-0.1), NOW),
    "ask bounds contradict": (GATE, _ask(evsi=-0.1), NOW),
    "ask risk over, its bound not": (GATE, _ask(risk=0.3), NOW),
    "ask bound over, its risk not": (GATE, _ask(risk_bound=0.3), NOW),
}
for _field in ("utility", "risk", "risk_bound", "standard_error", "cost"):
    for _name, _value in (("NaN", NAN), ("Inf", INF), ("-Inf", -INF)):
        FAULTS[f"{_field} {_name}"] = (GATE, _first(**{_field: _value}), NOW)
        FAULTS[f"other {_field} {_name}"] = (GATE, _second(**{_field: _value}), NOW)
for _field in ("evsi", "lower", "upper", "risk", "risk_bound", "standard_error", "info", "effect"):
    for _name, _value in (("NaN", NAN), ("Inf", INF)):
        FAULTS[f"ask {_field} {_name}"] = (GATE, _ask(**{_field: _value}), NOW)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_holds_with_a_reason(name: str) -> None:
    gate, evidence, now = FAULTS[name]
    decision = gate.decide(evidence, now=now)
    assert decision.verdict is Verdict.HOLD
    assert decision.choice is None
    assert decision.index is None
    assert decision.reasons
    assert decision.reason.startswith("Hold: ")
    assert len(decision.reason) > 15


def test_the_faults_are_the_only_thing_wrong() -> None:
    """Unbroken, the bases of the matrix act and ask: otherwise it would prove nothing."""
    assert GATE.decide(ACTING, now=NOW).verdict is Verdict.ACT
    assert GATE.decide(ASKING, now=NOW).verdict is Verdict.ASK
    assert GATE.decide(_ask(), now=NOW).verdict is Verdict.ASK
    assert len(FAULTS) >= 80


@pytest.mark.parametrize("code", RULE.codes)
def test_removing_any_condition_of_the_rule_is_noticed(code: str) -> None:
    """The rule less one condition lets at least one fault of the matrix through."""
    wrong = RULE.without(code)
    assert len(wrong.codes) == len(RULE.codes) - 1
    passed = [
        name
        for name, (gate, evidence, now) in FAULTS.items()
        if decide_by(wrong, gate, evidence, now=now).verdict is not Verdict.HOLD
    ]
    assert passed, f"no fault of the matrix needs the condition {code!r}"


def test_codes_are_unique() -> None:
    assert len(set(RULE.codes)) == len(RULE.codes)


# --- exceptions and broken numbers on the way to the evidence -------------------------------------

STAGES = ("encode", "imagine", "plan", "calibrate", "ask")


def _pipeline(
    obs: np.ndarray, spoil: Callable[[str, np.ndarray], np.ndarray] = lambda name, x: x
) -> Evidence:
    """A linear world model in four lines: every number comes out of the one before."""
    with stage("encode"):
        latent = spoil("encode", np.tanh(spoil("obs", obs)))
    with stage("imagine"):
        ahead = latent[None, :] + np.asarray([[0.5], [1.0]])
        reward = spoil("imagine", ahead.clip(-9, 9).sum(axis=1))
        risk = spoil("risk", np.abs(ahead).mean(axis=1) * 0.01)
    with stage("plan"):
        utilities = spoil("plan", reward - risk)
    with stage("calibrate"):
        bounds = spoil("calibrate", risk + 0.02)
    with stage("ask"):
        evsi = float(spoil("ask", np.asarray([-0.1]))[0])
    return Evidence.of_arrays(
        utilities=utilities,
        risks=risk,
        risk_bounds=bounds,
        names=("half", "full"),
        hold_utility=0.0,
        horizon=5,
        observed_at=NOW,
        policy="grid",
        asks=(AskEvidence("look", evsi, evsi, evsi, 0.0, 0.0),),
    )


CLOCKED = Gate(limit=0.2, max_age=1.0, clock=lambda: NOW)


def test_the_whole_pipeline_acts_when_nothing_is_wrong() -> None:
    decision = CLOCKED.guard(_pipeline)(np.asarray([0.1, 0.2]))
    assert (decision.verdict, decision.choice) == (Verdict.ACT, "full")


@pytest.mark.parametrize("place", ["obs", "encode", "imagine", "risk", "plan", "calibrate", "ask"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_number_anywhere_in_the_pipeline_holds(place: str, value: float) -> None:
    if place == "obs" and math.isinf(value):
        value = NAN  # tanh makes an infinite observation finite: encoders must check, not the gate

    def spoil(name: str, x: np.ndarray) -> np.ndarray:
        return np.where(np.arange(x.size) == 0, value, x) if name == place else x

    assert CLOCKED.guard(_pipeline)(np.asarray([0.1, 0.2]), spoil).verdict is Verdict.HOLD


@pytest.mark.parametrize("place", STAGES)
@pytest.mark.parametrize(
    "error", [RuntimeError("x"), MemoryError(), RecursionError(), KeyError("k"), AssertionError()]
)
def test_an_exception_in_any_stage_holds_and_names_it(place: str, error: Exception) -> None:
    def spoil(name: str, x: np.ndarray) -> np.ndarray:
        if name == place:
            raise error
        return x

    decision = CLOCKED.guard(_pipeline)(np.asarray([0.1, 0.2]), spoil)
    assert decision.verdict is Verdict.HOLD
    assert decision.reasons[0] == "stage_failed"
    assert repr(place) in decision.reason
    assert type(error).__name__ in decision.reason


def test_a_stage_without_a_name_is_the_function_and_interrupts_pass() -> None:
    def broken() -> Evidence:
        raise ZeroDivisionError

    assert "'broken'" in CLOCKED.guard(broken).__call__().reason
    assert "'model'" in CLOCKED.guard(broken, name="model")().reason

    def interrupted() -> Evidence:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CLOCKED.guard(interrupted)()


@pytest.mark.parametrize("made", [None, 3, "ACT", {"verdict": "ACT"}, ACTING.candidates[0]])
def test_what_is_not_evidence_holds(made: Any) -> None:
    assert CLOCKED.guard(lambda: made)().verdict is Verdict.HOLD


def test_a_broken_clock_holds() -> None:
    def clock() -> float:
        raise OSError("no clock")

    decision = replace(GATE, clock=clock).decide(ACTING)
    assert decision.verdict is Verdict.HOLD
    assert "'gate'" in decision.reason


# --- batches, forms, door ------------------------------------------------------------------------


def test_same_answer_alone_or_in_any_batch() -> None:
    cases = [evidence for _, evidence, _ in FAULTS.values()] + [ACTING, ASKING]
    alone = [GATE.decide(one, now=NOW) for one in cases]
    assert repr(GATE.decide(cases, now=NOW)) != ""
    order = np.random.default_rng(0).permutation(len(cases))
    shuffled = GATE.decide([cases[i] for i in order], now=NOW)
    for place, i in enumerate(order):
        assert _comparable(shuffled[place]) == _comparable(alone[i])
    assert GATE.decide([], now=NOW) == []


def _comparable(decision: Decision) -> dict[str, Any]:
    plain = decision.to_json()
    plain.pop("decision_id")
    return plain


def test_every_decision_has_an_id_of_its_own_or_the_given_one() -> None:
    ids = {GATE.decide(ACTING, now=NOW).decision_id for _ in range(100)}
    assert len(ids) == 100
    assert GATE.decide(replace(ACTING, decision_id="d7"), now=NOW).decision_id == "d7"


def test_numpy_and_torch_numbers_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    made = Evidence.of_arrays(
        utilities=torch.tensor([0.5, 2.0]),
        risks=np.asarray([0.0, 0.01], np.float32),
        risk_bounds=[0.0, torch.tensor(0.02)],
        hold_utility=np.float64(0.0),
        horizon=np.int64(3),
        observed_at=NOW,
        policy="p",
    )
    assert CLOCKED.decide(made).choice == "1"


def test_columns_of_different_lengths_are_the_callers_mistake() -> None:
    with pytest.raises(BatchError) as caught:
        Evidence.of_arrays(utilities=[1, 2], risks=[0], risk_bounds=[0, 0])
    assert caught.value.field == "candidates"


@pytest.mark.parametrize(
    "setting",
    [
        {"limit": NAN},
        {"limit": INF},
        {"limit": -1.0},
        {"limit": "0.1"},
        {"limit": True},
        {"max_age": -1.0},
        {"max_age": NAN},
        {"min_gain": NAN},
        {"caution": -1.0},
        {"max_horizon": 0},
        {"max_horizon": 2.5},
        {"max_ood": NAN},
        {"undecided": "maybe"},
    ],
)
def test_settings_are_checked_at_the_door(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Gate(**{"limit": 0.1, "max_age": 1.0, **setting})
    assert caught.value.field == f"Gate.{next(iter(setting))}"


def test_the_reason_names_the_number_that_is_not_finite() -> None:
    spoilt = CandidateEvidence("git_reset", utility=1.0, risk=0.0, risk_bound=INF)
    found = GATE.decide(_state(candidates=(spoilt,)), now=NOW)
    assert found.verdict is Verdict.HOLD
    assert "git_reset has no finite risk bound (inf)" in found.reason


def test_the_digest_tells_gates_apart_and_nothing_else() -> None:
    assert GATE.digest == replace(GATE, clock=lambda: 0.0).digest
    assert GATE.digest != replace(GATE, limit=0.21).digest


def test_json_holds_no_number_that_is_not_finite() -> None:
    plain = GATE.decide(_state(candidates=()), now=NOW).to_json()
    assert plain["utility"] is None
    assert plain["verdict"] == "HOLD"


def test_the_gate_loads_without_torch() -> None:
    code = "import sys, bb_wm.decide as d; d.Gate, d.Evidence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- monotone: what makes things worse never opens the gate ---------------------------------------

numbers = st.floats(-3, 3, allow_nan=False)
risks = st.floats(0, 1, allow_nan=False)
candidates = st.builds(
    CandidateEvidence,
    st.sampled_from("abc"),
    numbers,
    risks,
    risks,
    st.floats(0, 1),
    st.floats(0, 0.5),
)
asks = st.builds(
    lambda name, evsi, half, risk, bound: AskEvidence(
        name, evsi, evsi - half, evsi + half, risk, bound
    ),
    st.sampled_from("xyz"),
    st.floats(-1, 1),
    st.floats(0, 0.5),
    risks,
    risks,
)
states = st.builds(
    Evidence,
    candidates=st.lists(candidates, max_size=4).map(tuple),
    hold_utility=numbers,
    horizon=st.integers(0, 20),
    observed_at=st.floats(NOW - 2, NOW + 0.2),
    policy=st.just("p"),
    asks=st.lists(asks, max_size=3).map(tuple),
    trusted_horizon=st.none() | st.integers(0, 20),
    ood=st.none() | st.floats(0, 5),
    deadline=st.none() | st.floats(NOW - 0.2, NOW + 2),
    limit=st.none() | risks,
)
gates = st.builds(
    Gate,
    limit=risks,
    max_age=st.floats(0, 2),
    min_gain=st.floats(-1, 1),
    caution=st.floats(0, 2),
    max_ood=st.none() | st.floats(0, 5),
    undecided=st.sampled_from(("act", "hold")),
)


def _worse(
    gate: Gate, evidence: Evidence, way: int, by: float, seat: int
) -> tuple[Gate, Any, float]:
    """One thing made worse by `by`: a risk or bound up, a limit down, age or strangeness up, ..."""
    options = list(evidence.candidates if way % 2 else evidence.asks)
    kind = "candidates" if way % 2 else "asks"
    now = NOW
    if way < 4 and options:
        name = ("risk", "risk_bound")[way // 2]
        at = seat % len(options)
        options[at] = replace(options[at], **{name: getattr(options[at], name) + by})
        evidence = replace(evidence, **{kind: tuple(options)})
    elif way == 4:
        gate = replace(gate, limit=max(0.0, gate.limit - by))
    elif way == 5:
        evidence = replace(evidence, limit=(evidence.limit if evidence.limit else 0.0) - by)
    elif way == 6:
        evidence = replace(evidence, observed_at=min(evidence.observed_at, NOW) - by)
    elif way == 7 and evidence.ood is not None:
        evidence = replace(evidence, ood=evidence.ood + by)
    elif way == 8:
        gate = replace(gate, min_gain=gate.min_gain + by)
    elif way == 9:
        evidence = replace(evidence, horizon=max(1, evidence.horizon) + seat)
    elif way == 10:
        gate = replace(gate, max_age=max(0.0, gate.max_age - by))
    return gate, evidence, now


def _check_monotone(gate: Gate, evidence: Evidence, way: int, by: float, seat: int) -> None:
    if (way == 6 and evidence.observed_at > NOW) or (way == 9 and evidence.horizon < 1):
        return  # a broken clock or horizon is not made worse by mending it
    before = gate.decide(evidence, now=NOW).verdict
    worse_gate, worse, now = _worse(gate, evidence, way, by, seat)
    after = worse_gate.decide(worse, now=now).verdict
    if before is not Verdict.ACT:
        assert after is not Verdict.ACT
    if before is Verdict.HOLD:
        assert after is Verdict.HOLD


WORSE = (gates, states, st.integers(0, 10), st.floats(0, 2), st.integers(0, 5))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(*WORSE)
def test_worse_never_opens_the_gate(
    gate: Gate, evidence: Evidence, way: int, by: float, seat: int
) -> None:
    _check_monotone(gate, evidence, way, by, seat)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(*WORSE)
def test_worse_never_opens_the_gate_in_ten_thousand_cases(
    gate: Gate, evidence: Evidence, way: int, by: float, seat: int
) -> None:
    _check_monotone(gate, evidence, way, by, seat)


def test_settings_of_numpy_are_kept_as_plain_numbers() -> None:
    """A record is JSON: a gate that could not be written down would hold for ever."""
    mine = replace(GATE, limit=np.float64(0.2), max_age=np.float32(1.0), max_horizon=np.int64(15))
    assert mine.digest == GATE.digest
    assert type(mine.max_horizon) is int


def test_risks_given_as_tensors_hold_with_their_own_reason() -> None:
    torch = pytest.importorskip("torch")
    worse = replace(PUSH, risk=torch.tensor([0.5]), risk_bound=torch.tensor([0.5]))
    decision = GATE.decide(replace(ACTING, candidates=(worse,)), now=NOW)
    assert decision.reasons[:1] == ("risk",)
    assert "has risk 0.5, over the limit 0.2" in decision.reason
