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
