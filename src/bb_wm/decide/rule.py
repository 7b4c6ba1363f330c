"""The one positive rule of the gate, as a list of conditions: all of them, or nothing happens.

Every condition has a code, says in one sentence how it broke, and is tested by taking it away.
Comparisons are written so that a NaN fails them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence, number, numbers_of

if TYPE_CHECKING:
    from bb_wm.decide.gate import Gate

Force = Literal["ask", "skip"]


@dataclass(frozen=True, slots=True)
class Case:
    """Evidence under a gate at one moment, everything a float; what the rule reads."""

    gate: Gate
    evidence: Evidence
    now: float
    force: Force | None
    age: float
    limit: float
    horizon: float
    trusted: float

    @classmethod
    def of(cls, gate: Gate, evidence: Evidence, now: float, force: Force | None) -> Case:
        trusted = number(gate.max_horizon)
        if evidence.trusted_horizon is not None:
            trusted = _least(trusted, number(evidence.trusted_horizon))
        limit = number(gate.limit)
        if evidence.limit is not None:
            limit = _least(limit, number(evidence.limit))
        age = now - number(evidence.observed_at)
        return cls(gate, evidence, now, force, age, limit, number(evidence.horizon), trusted)

    def gain(self, candidate: CandidateEvidence) -> float:
        """Utility over holding, net of the candidate's cost."""
        over = number(candidate.utility) - number(self.evidence.hold_utility)
        return over - number(candidate.cost)

    def careful_gain(self, candidate: CandidateEvidence) -> float:
        return self.gain(candidate) - self.gate.caution * number(candidate.standard_error)

    def within(self, option: CandidateEvidence | AskEvidence) -> bool:
        return max(number(option.risk), number(option.risk_bound)) <= self.limit

    def wanted(self, ask: AskEvidence) -> bool:
        return min(number(ask.lower), number(ask.evsi)) > 0

    def blocked_asks(self) -> list[AskEvidence]:
        """Asks worth making that may not be made."""
        return [a for a in self.evidence.asks if self.wanted(a) and not self.within(a)]


def _least(a: float, b: float) -> float:
    """The smaller; NaN if either is."""
    return math.nan if math.isnan(a) or math.isnan(b) else min(a, b)


# --- the rule -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """One conjunct: its code, when it holds, and the sentence for when it does not."""

    code: str
    holds: Callable[[Case, Any], bool]
    broken: Callable[[Case, Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """ACT: all of `state`, and of `act` for the candidate. ASK: all of `state`, and of `ask`."""

    state: tuple[Condition, ...]
    act: tuple[Condition, ...]
    ask: tuple[Condition, ...]

    def without(self, code: str) -> Rule:
        """The same rule less one condition: a wrong one, for tests that must notice."""
        state, act, ask = (
            tuple(c for c in part if c.code != code) for part in (self.state, self.act, self.ask)
        )
        return Rule(state, act, ask)

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(c.code for c in (*self.state, *self.act, *self.ask))


def _not_finite(options: Sequence[CandidateEvidence] | Sequence[AskEvidence]) -> list[str]:
    """Whose numbers are not finite, and which."""
    return [
        f"{option.name} has no finite {name.replace('_', ' ')} ({value})"
        for option in options
        for name, value in numbers_of(option).items()
        if not math.isfinite(value)
    ]


def _state_finite(case: Case, _: Any) -> bool:
    optional = (case.evidence.ood, case.evidence.deadline)
    given = [number(x) for x in optional if x is not None]
    return all(math.isfinite(x) for x in (number(case.evidence.hold_utility), *given))


def _settings_finite(case: Case, _: Any) -> bool:
    gate = case.gate
    given = [gate.limit, gate.min_gain, gate.caution, gate.max_age, gate.max_horizon, case.limit]
    given += [] if gate.max_ood is None else [gate.max_ood]
    return all(math.isfinite(number(x)) for x in given)


def _options(case: Case) -> list[CandidateEvidence | AskEvidence]:
    return [*case.evidence.candidates, *case.evidence.asks]


def _risks_possible(case: Case, _: Any) -> bool:
    return all(number(o.risk) >= 0 and number(o.risk_bound) >= 0 for o in _options(case))


def _errors_possible(case: Case, _: Any) -> bool:
    costs = [number(c.cost) for c in case.evidence.candidates]
    return all(x >= 0 for x in (*costs, *(number(o.standard_error) for o in _options(case))))


def _policy_known(case: Case, _: Any) -> bool:
    policy = case.evidence.policy
    return bool(policy) and (case.gate.policy is None or policy == case.gate.policy)


def _model_known(case: Case, _: Any) -> bool:
    return case.gate.model is None or case.evidence.model == case.gate.model


def _familiar(case: Case, _: Any) -> bool:
    if case.gate.max_ood is None:
        return True
    return case.evidence.ood is not None and number(case.evidence.ood) <= case.gate.max_ood


def _in_time(case: Case, _: Any) -> bool:
    return case.evidence.deadline is None or case.now <= number(case.evidence.deadline)


def _horizon_trusted(case: Case, _: Any) -> bool:
    return 1 <= case.horizon <= case.trusted and case.horizon.is_integer()


def _decided(case: Case, _: Any) -> bool:
    if case.gate.undecided == "act" or case.force == "skip":
        return True
    return all(number(a.upper) <= 0 or number(a.lower) > 0 for a in case.evidence.asks)


def _fault_sentence(case: Case, _: Any) -> str:
    fault = case.evidence.fault
    return "" if fault is None else f"stage {fault.stage!r} failed with {fault.error}"


RULE = Rule(
    state=(
        Condition("stage_failed", lambda c, _: c.evidence.fault is None, _fault_sentence),
        Condition(
            "setting_not_finite",
            _settings_finite,
            lambda c, _: "a threshold of the gate or the state's limit is not a finite number",
        ),
        Condition(
            "no_policy",
            _policy_known,
            lambda c, _: f"no known policy proposed the candidates ({c.evidence.policy!r})",
        ),
        Condition(
            "wrong_model",
            _model_known,
            lambda c, _: f"the model is {c.evidence.model!r}, not the one this gate is for",
        ),
        Condition(
            "no_candidates",
            lambda c, _: len(c.evidence.candidates) > 0,
            lambda c, _: "there is no candidate",
        ),
        Condition(
            "clock",
            lambda c, _: c.age >= 0,
            lambda c, _: f"the belief's age is {c.age:.3g} s: the clocks disagree",
        ),
        Condition(
            "stale",
            lambda c, _: c.age <= c.gate.max_age,
            lambda c, _: f"the belief is {c.age:.3g} s old, at most {c.gate.max_age:g} s allowed",
        ),
        Condition("late", _in_time, lambda c, _: "the deadline has passed"),
        Condition(
            "not_finite",
            _state_finite,
            lambda c, _: "the utility of holding, the strangeness or the deadline is not finite",
        ),
        Condition(
            "candidate_not_finite",
            lambda c, _: not _not_finite(c.evidence.candidates),
            lambda c, _: _not_finite(c.evidence.candidates)[0],
        ),
        Condition(
            "ask_not_finite",
            lambda c, _: not _not_finite(c.evidence.asks),
            lambda c, _: _not_finite(c.evidence.asks)[0],
        ),
        Condition(
            "negative_risk", _risks_possible, lambda c, _: "a risk is negative, which it cannot be"
        ),
        Condition(
            "negative_error",
            _errors_possible,
            lambda c, _: (
                "a standard error or the cost of a candidate is negative, which it cannot be"
            ),
        ),
        Condition(
            "horizon",
            _horizon_trusted,
            lambda c, _: f"{c.horizon:g} rows were imagined, {c.trusted:g} can be trusted",
        ),
        Condition(
            "strange",
            _familiar,
            lambda c, _: (
                f"the state is out of distribution ({c.evidence.ood}, limit {c.gate.max_ood})"
            ),
        ),
    ),
    act=(
        Condition(
            "risk",
            lambda c, o: number(o.risk) <= c.limit,
            lambda c, o: f"{o.name!r} has risk {number(o.risk):.3g}, over the limit {c.limit:.3g}",
        ),
        Condition(
            "risk_bound",
            lambda c, o: number(o.risk_bound) <= c.limit,
            lambda c, o: (
                f"{o.name!r} may have risk {number(o.risk_bound):.3g}, over the limit {c.limit:.3g}"
            ),
        ),
        Condition(
            "gain",
            lambda c, o: c.careful_gain(o) > c.gate.min_gain,
            lambda c, o: (
                f"{o.name!r} gains {c.careful_gain(o):.3g} over holding, more than "
                f"{c.gate.min_gain:g} is needed"
            ),
        ),
        Condition(
            "blocked_ask",
            lambda c, _: not c.blocked_asks(),
            lambda c, _: (
                f"asking {c.blocked_asks()[0].name!r} is worth it but over the limit; "
                "leave it out of the asks to act without it"
            ),
        ),
        Condition(
            "undecided", _decided, lambda c, _: "it is undecided whether asking first is worth it"
        ),
    ),
    ask=(
        Condition("ask_refused", lambda c, o: o.usable is True, lambda c, o: ""),
        Condition(
            "ask_worth", lambda c, o: c.force == "ask" or number(o.lower) > 0, lambda c, o: ""
        ),
        Condition("ask_evsi", lambda c, o: c.force == "ask" or number(o.evsi) > 0, lambda c, o: ""),
        Condition("ask_risk", lambda c, o: number(o.risk) <= c.limit, lambda c, o: ""),
        Condition("ask_risk_bound", lambda c, o: number(o.risk_bound) <= c.limit, lambda c, o: ""),
    ),
)
