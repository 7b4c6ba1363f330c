"""Upper bounds on the risk of one call: split conformal, on calls the model never learnt from.

For exchangeable calls of one group, P(V_s > risk + margin) <= 1 - coverage, where margin is the
ceil((n + 1) coverage)-th smallest of the n held-out errors V_s - risk (Vovk et al. 2005; Lei et al.
2018). Groups are not pooled (Mondrian): calls of tools that have done harm, and the others. A group
with too few calls has no bound: inf, and the gate holds.

That is a statement on average over calls; where few do harm, all of these may lie outside it. An
`Alarm` speaks of the calls that do harm, alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bb_wm.serve.calls import Hints

_LOWER: Final = 3.0  # how far below the least suspicious harmful call an alarm is set at most
_SPARED: Final = 0.9  # share of the harmless calls that this leaves alone


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


@dataclass(frozen=True, slots=True)
class Alarm:
    """The estimated risk from which a call is taken for a harmful one, whatever its margin.

    The level is the least of m held-out estimates of calls that did harm: with confidence c at most
    1 - c of such calls are below it where c^m <= 1 - c (Wilks 1941), from `fewest_harmful(c)` on.
    Among fewer anything may be missed: every call is then taken for a harmful one, and the bound is
    inf. How often calls do harm plays no part, so it holds as well for harm that was provoked while
    recording.

    One call in twenty is many. Lower is safer, and where estimates are well apart it costs nothing:
    the level is a third of the least, unless that took more than a tenth of the harmless calls for
    harmful ones; then as little as takes a tenth.

    harm    V_s presumed from the level on: the largest among these calls
    calls   m
    """

    level: float = -math.inf
    harm: float = math.inf
    calls: int = 0

    @classmethod
    def of(
        cls,
        harmful: Iterable[tuple[float, float]],
        coverage: float,
        harmless: Iterable[float] = (),
    ) -> Alarm:
        """From (risk, V_s) of held-out calls that did harm, and the risks of those that did none;
        with a NaN everything is harmful."""
        known = list(harmful)
        spared = sorted(harmless)
        numbers = [number for pair in known for number in pair] + spared
        if not all(map(math.isfinite, numbers)) or len(known) < fewest_harmful(coverage):
            return cls(calls=len(known))
        level = min(risk for risk, _ in known)
        if spared:
            most = spared[math.ceil(_SPARED * len(spared)) - 1]
            level = min(level, max(level / _LOWER, math.nextafter(most, math.inf)))
        return cls(level, max(harm for _, harm in known), len(known))

    def bound(self, risk: float, bound: float) -> float:
        """The bound of a call of this estimated risk, at least `harm` from the level on."""
        return max(bound, self.harm) if risk >= self.level else bound


@dataclass(frozen=True, slots=True)
class Grounds:
    """What held-out calls of tools that have done harm allow to say of others like them."""

    margin: Margin
    alarm: Alarm

    @classmethod
    def of(cls, calls: Iterable[tuple[float, float]], limit: float, coverage: float) -> Grounds:
        """From (risk, V_s) of held-out calls: the alarm of those that went beyond the limit (beyond
        0 where it is inf), the margin of those that neither limit nor alarm holds in any case.

        The alarm was chosen so that no held-out harm passes it; of new harmful calls one in m + 1
        does, on average over the m of them. So one is counted among those that pass.
        """
        known = list(calls)
        beyond = limit if math.isfinite(limit) else 0.0
        harmful = [(risk, harm) for risk, harm in known if harm > beyond]
        alarm = Alarm.of(harmful, coverage, [risk for risk, harm in known if not harm > beyond])
        tested = math.isfinite(alarm.level)
        level, missed = (alarm.level, [alarm.harm]) if tested else (math.inf, [])
        passing = [harm - risk for risk, harm in known if not (risk > limit or risk >= level)]
        return cls(Margin.of(passing + missed, coverage), alarm)

    def bound(self, risk: float) -> float:
        """The bound of a call of this estimated risk."""
        return self.alarm.bound(risk, self.margin.bound(risk))


def fewest(coverage: float) -> int:
    """Held-out calls below which there is no margin: 19 at 0.95, 9 at 0.9."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def fewest_harmful(coverage: float) -> int:
    """Held-out harmful calls below which no call of a tool that did harm may be allowed: 59 at
    0.95, 22 at 0.9."""
    return math.ceil(math.log(1 - coverage) / math.log(coverage) - 1e-9)


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

    def enough(self, limit: float) -> int:
        """Recorded calls from which a call that may destroy has this little presumed of it."""
        if self.risk <= limit:
            return 0
        return math.ceil(self.weight * (self.risk / limit - 1) - 1e-9) if limit > 0 else sys.maxsize
