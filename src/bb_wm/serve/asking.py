"""What may be asked before a call is judged: a harmless tool, or a person."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from bb_wm.decide import AskEvidence, CandidateEvidence
from bb_wm.serve.calls import Hints, ToolCall
from bb_wm.serve.featurise import tool_code

if TYPE_CHECKING:
    from bb_wm.serve.conversation import Row

PERSON: Final = "a person"
_BY_ITS_USERS_WORD: Final = Hints(read_only=True, destructive=False)


@dataclass(frozen=True, slots=True)
class LookUp:
    """A cheap, harmless call that may be made first for what it reveals; `cost` in utility.

    Who names it says that it is harmless: that stands in the place of its server's hints.
    """

    call: ToolCall
    cost: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "call", replace(self.call, hints=_BY_ITS_USERS_WORD))

    @property
    def name(self) -> str:
        return self.call.shown

    def just_made(self, last: Row | None) -> bool:
        """Whether the last call that was made, `last`, was this one and came back without an
        error: then there is nothing to look at again."""
        return last is not None and not last.answer.error and last.call.same(self.call)


@dataclass(slots=True)
class LookFirst:
    """Which look-up is made before a call while nothing is held, so that the record shows what it
    reveals: one by lot before a `share` of the calls that may destroy.

    harmful   codes of tools that did harm, whatever their hints say; grows
    """

    look_ups: Sequence[LookUp]
    share: float = 1.0
    harmful: set[bytes] = field(default_factory=set)
    chance: random.Random = field(default_factory=random.Random)

    def before(self, call: ToolCall, last: Row | None) -> LookUp | None:
        """The look-up to make before `call`; `last` is the last call that was made."""
        tools = {(look.call.server, look.call.name) for look in self.look_ups}
        if not tools or (call.server, call.name) in tools:
            return None
        if not (call.hints.may_destroy or tool_code(call).tobytes() in self.harmful):
            return None
        if self.chance.random() >= self.share:
            return None
        look = self.chance.choice(self.look_ups)
        return None if look.just_made(last) else look

    def came(self, call: ToolCall, risk: float | None) -> None:
        """A call was made and measured; the default label comes too late to be told here."""
        if risk is not None and risk > 0:
            self.harmful.add(tool_code(call).tobytes())


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
