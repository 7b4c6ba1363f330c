"""Rollout drift: imagined rows leave the real ones after a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured


@dataclass(frozen=True)
class RolloutDrift(Detector):
    """Within `near` steps imagining is worse than not imagining, by the better of persistence and
    the best constant: serious. Between there and `far`: a warning."""

    threshold: float = 1.1
    near: int = 5
    far: int = 10

    name = "rollout drift"
    reason = (
        "5 steps are the shortest horizon planned with (section 5), and an imagination that does "
        "not beat 'nothing changes' carries no plan; a tenth is what averaging 16 samples may cost"
    )
    advice = (
        "Plan no further than imagination holds; raise objective.rollout and objective.steps, give "
        "more rows, or roll out by the shortcut."
    )

    def judge(self, measured: Measured) -> Smell:
        drift = measured.drift
        reach = len(drift.excess)
        numbers = {f"excess_{k}": drift.excess[k - 1].value for k in range(1, reach + 1)}
        near = range(3, min(self.near, reach) + 1)
        later = range(self.near + 1, min(self.far, reach) + 1)
        if not near or not all(drift.excess[k - 1].known for k in near):
            return self.unknown(
                "fewer than 8 pieces of rows with 3 to 5 steps to imagine.", numbers
            )
        for steps in (near, later):
            for k in steps:
                excess = drift.excess[k - 1]
                if not (excess.known and excess.low > self.threshold):
                    continue
                said = (
                    f"{k} steps ahead the squared error is {number(excess.value)} (99 %: at least "
                    f"{number(excess.low)}) of that of the better of persistence and a constant; "
                    f"one step ahead {number(drift.excess[0].value)}."
                )
                place = (-1, -1) if drift.worst is None else (drift.worst.episode, drift.worst.row)
                soon = k <= self.near
                return self.found(
                    said, numbers, severity="serious" if soon else "warning", place=place
                )
        k = near[-1]
        shown = number(drift.excess[k - 1].value)
        return self.clear(
            f"{k} steps ahead the error is {shown} of the better trivial one.", numbers
        )
