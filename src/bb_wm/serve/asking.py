"""What may be asked before a call is judged: a harmless tool, or a person."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bb_wm.decide import AskEvidence, CandidateEvidence
from bb_wm.serve.calls import ToolCall

PERSON: Final = "a person"


@dataclass(frozen=True, slots=True)
class LookUp:
    """A cheap, harmless call that may be made first for what it reveals; `cost` in utility."""

    call: ToolCall
    cost: float = 0.01

    @property
    def name(self) -> str:
        return self.call.shown


def person_evidence(one: CandidateEvidence, limit: float, harm: float, price: float) -> AskEvidence:
    """Asking a person who knows: with p = risk / harm the chance that they refuse, and u >= 0 the
    utility of the call, the answer is worth (1 - p) u - [bound <= limit] u - price."""
    refuse = min(one.risk / harm, 1.0) if harm > 0 else 1.0
    utility = max(one.utility, 0.0)
    info = (1.0 - refuse) * utility - (utility if one.risk_bound <= limit else 0.0)
    net = info - price
    return AskEvidence(PERSON, net, net, net, risk=0.0, risk_bound=0.0, info=info, cost=price)


def refused_look(look: LookUp, risks: CandidateEvidence) -> AskEvidence:
    """The look-up as an ask whose worth could not be told: no gate makes it."""
    nan = math.nan
    return AskEvidence(look.name, nan, nan, nan, risks.risk, risks.risk_bound, usable=False)
