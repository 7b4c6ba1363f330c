"""Reward hacking: the harder one plans, the more is promised that does not come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured


@dataclass(frozen=True)
class RewardHacking(Detector):
    """More than half of what a strong planner promises over a weak one is not delivered. The
    simulator plays the same plans from the same starts, so luck and model error at rest cancel."""

    threshold: float = 0.5

    name = "reward hacking"
    reason = (
        "choosing the best of many noisy estimates always promises a little too much; where more "
        "than half of the promise fails to come, planning harder finds the model's errors, not "
        "the world's rewards"
    )
    advice = (
        "Look at what the plans of the worst start do; add rows of such behaviour, remove inputs "
        "that leak the reward, plan shorter or with fewer candidates."
    )

    def judge(self, measured: Measured) -> Smell:
        effort = measured.effort
        if effort is None:
            return self.unknown("no simulator was given to replay plans in.")
        lost, promise = effort.undelivered, effort.promise
        first, last = effort.rows[0], effort.rows[-1]
        numbers = {
            "promise": promise.value,
            "undelivered": lost.value,
            "undelivered_low": lost.low,
            "gap_weak": first.imagined - first.replayed,
            "gap_strong": last.imagined - last.replayed,
            "worst_start": float(effort.worst),
        }
        if not (promise.known and lost.known) or promise.low <= 0:
            return self.unknown(
                f"the strong planner promises {number(promise.value)} more over {effort.starts} "
                "starts, which may be chance.",
                numbers,
            )
        said = (
            f"from {first.candidates} to {last.candidates} candidates the imagined return grows by "
            f"{number(promise.value)}, and "
        )
        if lost.value > 0:
            least = number(max(lost.low, 0.0))
            said += f"the share {number(lost.value)} of that (99 %: at least {least}) does not come"
        else:
            said += "all of that comes"
        said += f" when replayed; worst from seed {effort.worst}."
        if lost.low > self.threshold:
            return self.found(said, numbers)
        return self.clear(said, numbers)
