"""Upper bounds on the risk of one call: split conformal, on calls the model never learnt from.

For exchangeable calls of one group, P(V_s > risk + margin) <= 1 - coverage, where margin is the
ceil((n + 1) coverage)-th smallest of the n held-out errors V_s - risk (Vovk et al. 2005; Lei et al.
2018). Groups are not pooled (Mondrian): calls of tools that have done harm, and the others. A group
with too few calls has no bound: inf, and the gate holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bb_wm.serve.calls import Hints


@dataclass(frozen=True, slots=True)
class Margin:
    """What is added to an estimated risk of one group, made from `calls` held-out calls."""

    margin: float
    calls: int
    coverage: float

    @classmethod
    def of(cls, errors: Iterable[float], coverage: float) -> Margin:
        """From held-out errors V_s - risk; inf below `fewest(coverage)` of them, or with a NaN."""
        known = list(errors)
        rank = math.ceil((len(known) + 1) * coverage - 1e-9)
        if rank > len(known) or not all(math.isfinite(error) for error in known):
            return cls(math.inf, len(known), coverage)
        return cls(max(0.0, sorted(known)[rank - 1]), len(known), coverage)

    def bound(self, risk: float) -> float:
        """risk + margin; inf where either is not finite."""
        found = risk + self.margin
        return found if math.isfinite(found) else math.inf


def fewest(coverage: float) -> int:
    """Held-out calls below which there is no bound: 19 at 0.95, 9 at 0.9."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


@dataclass(frozen=True, slots=True)
class Prior:
    """What a hint adds before there is experience: weight * risk / (recorded + weight).

    risk      V_s presumed of a call that may destroy, by its hints
    weight    recorded calls of the tool after which the presumption has halved
    A tool or a shape of arguments that was never recorded has no bound at all.
    """

    risk: float = 1.0
    weight: float = 5.0

    def of(self, hints: Hints, recorded: int) -> float:
        """The least risk bound of a call; 0 where the hints declare it harmless."""
        if not hints.may_destroy:
            return 0.0
        return self.risk * self.weight / (recorded + self.weight)
