"""The gate: ACT, ASK or HOLD, by one positive rule that stands in one place (`decide/rule.py`).

It acts only if every condition of the rule holds; whatever is missing, not finite, stale, late,
strange, too risky or not worth it holds, and says why. Nothing in it is learned, nothing in it
raises on bad numbers, and it imports no torch. The gate is advisory: not a safety function in the
sense of ISO 13849 / IEC 61508; it needs an independent stop.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, overload

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence, Fault, number
from bb_wm.decide.rule import RULE, Case, Force, Rule
from bb_wm.errors import ConfigError


class Verdict(StrEnum):
    """What to do now."""

    ACT = "ACT"
    ASK = "ASK"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with every number it was made from. NaN: there was no such number.

    choice          name of the candidate to do (ACT) or of the tool to call (ASK); None for HOLD
    index           its place among the candidates or asks
    utility, gain   of the chosen candidate, for HOLD and ASK of the best one; gain is counted from
                    holding and net of the candidate's own cost
    evsi            of the best ask, net of its cost
    standard_error  of the number that decided: evsi for ASK, utility otherwise
    risk, risk_bound, limit   of what is chosen; larger is worse
    age             of the belief in seconds
    reasons         codes; for HOLD those of the conditions that failed
    forced          the verdict is an experiment's: the ask was made or left out by lot
    best_ask        the ask behind `evsi`, whatever the verdict
    """

    verdict: Verdict
    choice: str | None
    index: int | None
    utility: float
    gain: float
    evsi: float
    standard_error: float
    risk: float
    risk_bound: float
    limit: float
    horizon: int
    age: float
    reasons: tuple[str, ...]
    reason: str
    forced: Force | None = None
    best_ask: AskEvidence | None = None
    decision_id: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers that are not finite become null."""
        plain: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                value = None
            plain[name] = list(value) if isinstance(value, tuple) else value
        plain["verdict"] = self.verdict.value
        plain["best_ask"] = None if self.best_ask is None else self.best_ask.name
        return plain


@dataclass(frozen=True, slots=True)
class Gate:
    """Settings of the gate; `decide` applies the rule to evidence.

    limit        largest risk bound (V_s to go) that may be accepted, for actions and asks alike
    max_age      seconds after its observation at which a belief is stale
    min_gain     how much utility over holding is needed, more than this; costs of acting go here
                 or into the candidates
    caution      standard errors taken off a gain before it is compared
    max_horizon  rows that imagination is trusted for; a state's own trusted horizon may be less
    max_ood      largest out-of-distribution score; None: the score is not asked for
    undecided    what to do where asking is neither clearly worth it nor clearly not: "act" as if it
                 were not, or "hold" where stakes are high
    policy, model  names or digests that the evidence must carry; None takes any policy, any model
    clock        monotonic seconds, read where `decide` is not told `now`
    """

    limit: float
    max_age: float
    min_gain: float = 0.0
    caution: float = 0.0
    max_horizon: int = 15
    max_ood: float | None = None
    undecided: Literal["act", "hold"] = "act"
    policy: str | None = None
    model: str | None = None
    clock: Callable[[], float] = field(default=time.monotonic, compare=False, repr=False)

    def __post_init__(self) -> None:
        at_least_zero = ("limit", "max_age", "caution")
        for name in (*at_least_zero, "min_gain", "max_horizon", "max_ood"):
            given = getattr(self, name)
            if name == "max_ood" and given is None:
                continue
            value = number(given)
            if not math.isfinite(value) or (name in at_least_zero and value < 0):
                wanted = "a finite number" + (" >= 0" if name in at_least_zero else "")
                raise ConfigError(f"Gate.{name}", expected=wanted, actual=repr(given))
            if type(given) not in (int, float):  # of numpy or torch: a record is plain JSON
                whole = name == "max_horizon" and value == int(value)
                object.__setattr__(self, name, int(value) if whole else value)
        if isinstance(self.max_horizon, bool) or self.max_horizon != int(self.max_horizon):
            raise ConfigError("Gate.max_horizon", expected="an int", actual=self.max_horizon)
        if self.max_horizon < 1:
            raise ConfigError("Gate.max_horizon", expected="at least 1", actual=self.max_horizon)
        if self.undecided not in ("act", "hold"):
            raise ConfigError("Gate.undecided", expected="'act' or 'hold'", actual=self.undecided)

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, so that a record says which gate decided."""
        names = [name for name in self.__dataclass_fields__ if name != "clock"]
        text = json.dumps({name: getattr(self, name) for name in names}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @overload
    def decide(
        self, evidence: Evidence, *, now: float | None = None, force: Force | None = None
    ) -> Decision: ...

    @overload
    def decide(
        self, evidence: Sequence[Evidence], *, now: float | None = None, force: Force | None = None
    ) -> list[Decision]: ...

    def decide(
        self,
        evidence: Evidence | Sequence[Evidence],
        *,
        now: float | None = None,
        force: Force | None = None,
    ) -> Decision | list[Decision]:
        """ACT, ASK or HOLD for one state, or for each of several as if it were alone.

        `now` is a moment of the clock that `Evidence.observed_at` was read from. `force` is for
        experiments: "ask" makes the best allowed ask though it may not be worth it, "skip" decides
        as if there were nothing to ask; no other condition gives way. Never raises.
        """
        if isinstance(evidence, list | tuple):
            return [self.decide(one, now=now, force=force) for one in evidence]
        return decide_by(RULE, self, evidence, now=now, force=force)

    def guard(
        self, make_evidence: Callable[..., Evidence], *, name: str = ""
    ) -> Callable[..., Decision]:
        """A function that makes the evidence and decides; any exception in it becomes HOLD.

        The stage named in the reason is the innermost `with stage("..."):` that was left by the
        exception, else `name`, else the function's own name.
        """
        outer = name or getattr(make_evidence, "__name__", "evidence")

        def decide(*args: Any, **kwargs: Any) -> Decision:
            try:
                evidence = make_evidence(*args, **kwargs)
            except Exception as error:
                return self.decide(Evidence.failed(Fault.of(error, outer)))
            return self.decide(evidence)

        return decide


def decide_by(
    rule: Rule,
    gate: Gate,
    evidence: Any,
    *,
    now: float | None = None,
    force: Force | None = None,
) -> Decision:
    """One decision under any rule; `Gate.decide` passes RULE. Any exception inside is HOLD."""
    try:
        if not isinstance(evidence, Evidence):
            fault = Fault("evidence", "InputTypeError", f"got {type(evidence).__name__}")
            evidence = Evidence.failed(fault)
        moment = number(gate.clock() if now is None else now)
        return _apply(rule, Case.of(gate, evidence, moment, force))
    except Exception as error:
        return _failed(Fault.of(error, "gate"))


def _apply(rule: Rule, case: Case) -> Decision:
    broken = [(c.code, c.broken(case, None)) for c in rule.state if not c.holds(case, None)]
    if broken:
        return _hold(case, broken)
    candidates, asks = case.evidence.candidates, case.evidence.asks
    allowed = [i for i, ask in enumerate(asks) if all(c.holds(case, ask) for c in rule.ask)]
    if allowed and case.force != "skip":
        return _ask(case, max(allowed, key=lambda i: (number(asks[i].evsi), -i)))
    able = [i for i, one in enumerate(candidates) if all(c.holds(case, one) for c in rule.act)]
    if able:
        return _act(case, max(able, key=lambda i: (case.gain(candidates[i]), -i)))
    best = _best(case)
    return _hold(
        case, [(c.code, c.broken(case, best)) for c in rule.act if not c.holds(case, best)]
    )


def _act(case: Case, index: int) -> Decision:
    chosen = case.evidence.candidates[index]
    ask = _best_ask(case)
    open_question = ask is not None and number(ask.lower) <= 0 < number(ask.upper)
    reason = (
        f"Do {chosen.name!r}: it gains {case.gain(chosen):.3g} over holding, its risk bound "
        f"{number(chosen.risk_bound):.3g} is within {case.limit:.3g}, the belief is "
        f"{case.age:.3g} s old."
    )
    if open_question:
        reason += " Whether asking first is worth it stayed undecided."
    codes = ("gain_over_cost", "evsi_undecided") if open_question else ("gain_over_cost",)
    return _decision(
        case,
        Verdict.ACT,
        codes,
        reason,
        choice=chosen.name,
        index=index,
        risk=number(chosen.risk),
        risk_bound=number(chosen.risk_bound),
        utility=number(chosen.utility),
        gain=case.gain(chosen),
        standard_error=number(chosen.standard_error),
    )


def _ask(case: Case, index: int) -> Decision:
    ask = case.evidence.asks[index]
    by_lot = case.force == "ask" and not case.wanted(ask)
    why = "by lot, for an experiment" if by_lot else "first"
    return _decision(
        case,
        Verdict.ASK,
        ("asked_by_lot",) if by_lot else ("evsi_positive",),
        f"Ask {ask.name!r} {why}: net of its cost the answer is worth {number(ask.evsi):.3g} "
        f"(at least {number(ask.lower):.3g}), its risk bound {number(ask.risk_bound):.3g} is "
        f"within {case.limit:.3g}.",
        choice=ask.name,
        index=index,
        risk=number(ask.risk),
        risk_bound=number(ask.risk_bound),
        standard_error=number(ask.standard_error),
        best_ask=ask,
    )


def _hold(case: Case, broken: list[tuple[str, str]]) -> Decision:
    first = next((sentence for _, sentence in broken if sentence), "nothing is worth doing")
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    codes = tuple(code for code, _ in broken) or ("nothing_worth_doing",)
    return _decision(case, Verdict.HOLD, codes, f"Hold: {first}{more}.")


def _decision(
    case: Case, verdict: Verdict, reasons: tuple[str, ...], reason: str, **chosen: Any
) -> Decision:
    """The verdict with the numbers of what was chosen, or of the best candidate."""
    best = _best(case)
    ask = chosen.pop("best_ask", _best_ask(case))
    numbers: dict[str, Any] = {
        "choice": None,
        "index": None,
        "utility": math.nan if best is None else number(best.utility),
        "gain": math.nan if best is None else case.gain(best),
        "standard_error": math.nan if best is None else number(best.standard_error),
        "risk": math.nan if best is None else number(best.risk),
        "risk_bound": math.nan if best is None else number(best.risk_bound),
    }
    numbers.update(chosen)
    return Decision(
        verdict=verdict,
        evsi=math.nan if ask is None else number(ask.evsi),
        limit=case.limit,
        horizon=int(case.horizon) if math.isfinite(case.horizon) else 0,
        age=case.age,
        reasons=reasons,
        reason=reason,
        forced=case.force,
        best_ask=ask,
        decision_id=case.evidence.decision_id or uuid.uuid4().hex,
        **numbers,
    )


def _failed(fault: Fault) -> Decision:
    """HOLD without looking at anything again: looking is what failed."""
    nan = math.nan
    return Decision(
        verdict=Verdict.HOLD,
        choice=None,
        index=None,
        utility=nan,
        gain=nan,
        evsi=nan,
        standard_error=nan,
        risk=nan,
        risk_bound=nan,
        limit=nan,
        horizon=0,
        age=nan,
        reasons=("stage_failed",),
        reason=f"Hold: stage {fault.stage!r} failed with {fault.error}.",
    )


def _best(case: Case) -> CandidateEvidence | None:
    """The candidate of the largest finite gain, else the first."""
    able = [c for c in case.evidence.candidates if math.isfinite(case.gain(c))]
    return max(able, key=case.gain) if able else next(iter(case.evidence.candidates), None)


def _best_ask(case: Case) -> AskEvidence | None:
    able = [a for a in case.evidence.asks if math.isfinite(number(a.evsi))]
    return max(able, key=lambda a: number(a.evsi)) if able else None
