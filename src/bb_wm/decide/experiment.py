"""Deciding on the record, and asking by lot now and then so that the worth of asking is measured.

EVSI calibrated only on the calls that were made is biased by their selection; a small share of
decisions is therefore drawn, and of those half ask and half do not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bb_wm.decide.evidence import Evidence, Fault, number
from bb_wm.decide.gate import Decision, Gate, Verdict
from bb_wm.decide.ledger import Ledger
from bb_wm.decide.rule import Force
from bb_wm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Experiment:
    """`share` of the decisions where asking is allowed are settled by lot: half ask, half do not.

    No condition of the gate but the worth of asking gives way. The lot depends on the seed and the
    decision's id alone.
    """

    share: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < number(self.share) <= 1:
            raise ConfigError("Experiment.share", expected="in (0, 1]", actual=self.share)

    def draw(self, decision_id: str) -> Force | None:
        """ "ask", "skip", or None: not drawn."""
        digest = hashlib.sha256(f"{self.seed}:{decision_id}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.share:
            return None
        return "ask" if digest[8] & 1 else "skip"


def decide_and_record(
    gate: Gate,
    ledger: Ledger,
    evidence: Evidence,
    *,
    context: Mapping[str, Any] | None = None,
    obs: Any = None,
    experiment: Experiment | None = None,
    now: float | None = None,
) -> Decision:
    """The gate's decision, recorded before it is given out; without a durable record, HOLD.

    Writing takes time: where the belief has become stale or the deadline has passed meanwhile, the
    record is withdrawn and the answer is HOLD. Never raises but for interrupts.
    """
    started = _clock(gate)
    moment = started if now is None else number(now)
    decision = _decide(gate, evidence, experiment, moment)
    share = None if experiment is None else experiment.share
    try:
        ledger.record(decision, context, obs=obs, gate=gate, share=share)
    except Exception as error:
        return _refused(decision, "no_record", f"the decision could not be recorded: {error}")
    if decision.verdict is Verdict.HOLD:
        return decision
    named = replace(evidence, decision_id=decision.decision_id)
    later = gate.decide(named, now=moment + (_clock(gate) - started), force=decision.forced)
    if (later.verdict, later.choice) == (decision.verdict, decision.choice):
        return decision
    why = f"it was in order before it was recorded, not after ({later.reason})"
    try:
        ledger.withdraw(decision.decision_id, why)
    except Exception as error:
        why += f"; the record could not be withdrawn: {Fault.of(error, 'record').error}"
    return _refused(decision, later.reasons[0] if later.reasons else "late", why)


def record_pair(
    gate: Gate,
    ledger: Ledger,
    evidence: Evidence,
    *,
    pair: str,
    context: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> tuple[Decision, Decision] | None:
    """One state decided twice, asking and not asking, for worlds that can be played twice.

    Gives (asked, skipped), both recorded under `pair`; None where asking is not allowed. Raises
    what Ledger.record raises: nothing outside happens in an experiment, so nothing has to hold.
    """
    asked = gate.decide(evidence, now=now, force="ask")
    skipped = gate.decide(replace(evidence, decision_id=""), now=now, force="skip")
    if asked.verdict is not Verdict.ASK:
        return None
    for decision in (asked, skipped):
        ledger.record(decision, context, gate=gate, pair=pair)
    return asked, skipped


def _decide(
    gate: Gate, evidence: Evidence, experiment: Experiment | None, moment: float
) -> Decision:
    decision = gate.decide(evidence, now=moment)
    force = None if experiment is None else experiment.draw(decision.decision_id)
    if force is None or not isinstance(evidence, Evidence):
        return decision
    named = replace(evidence, decision_id=decision.decision_id)
    asked = gate.decide(named, now=moment, force="ask")
    if asked.verdict is not Verdict.ASK:
        return decision  # both arms must be open, or the arms would differ by selection
    return asked if force == "ask" else gate.decide(named, now=moment, force="skip")


def _clock(gate: Gate) -> float:
    try:
        return number(gate.clock())
    except Exception:
        return math.nan


def _refused(decision: Decision, code: str, why: str) -> Decision:
    return replace(
        decision,
        verdict=Verdict.HOLD,
        choice=None,
        index=None,
        reasons=(code,),
        reason=f"Hold: {why}.",
    )
