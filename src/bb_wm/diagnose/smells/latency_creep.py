"""Latency creep: every further step of imagination costs more than the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured


@dataclass(frozen=True)
class LatencyCreep(Detector):
    """A step at the longest horizon costs a quarter more than at a third of it, or the longest
    rollout exceeds the budget where one was given."""

    threshold: float = 1.25

    name = "latency creep"
    reason = (
        "imagination is a chain of equal steps, so the price of a step can only fall with the "
        "horizon, as what is paid once is shared by more; a quarter is what timing leaves open"
    )
    advice = (
        "Plan with a shorter horizon or fewer candidates; give the core a memory that does not "
        "grow with what it has imagined."
    )

    def judge(self, measured: Measured) -> Smell:
        latency = measured.latency
        if latency is None:
            return self.unknown("latency was not measured.")
        growth, budget = latency.growth, latency.budget_ms
        longest = [t for t in latency.timings if t.horizon == latency.longest]
        slowest = max(longest, key=lambda timing: timing.batch)
        numbers = {
            "growth": growth.value,
            "growth_low": growth.low,
            "longest_ms": slowest.fastest_ms,
            **({} if budget is None else {"budget_ms": budget}),
        }
        if budget is not None and slowest.fastest_ms > budget:
            return self.found(
                f"{latency.longest} steps of {slowest.batch} rollouts take at least "
                f"{number(slowest.fastest_ms)} ms; the budget is {number(budget)} ms.",
                numbers,
            )
        if not growth.known:
            return self.unknown("too few horizons or rounds were timed.", numbers)
        said = (
            f"a step costs {number(growth.value)} (at least {number(growth.low)}) times as "
            f"much at {latency.longest} steps as at a third of them."
        )
        if growth.low > self.threshold:
            return self.found(said, numbers, severity="warning")
        return self.clear(said, numbers)
