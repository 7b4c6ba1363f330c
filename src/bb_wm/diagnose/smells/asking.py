"""EVSI helplessness and hubris: asking always though it does not pay, or never though it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured

_ALARMS = ("helpless", "hubris", "deaf")


@dataclass(frozen=True)
class HelplessOrHubris(Detector):
    """The ledger's alarms on asking, where decisions settled by lot confirm them; deafness (no
    answer was ever thought to tell anything) is evidence by itself. Health takes more than the
    ledger's own `Watch.least`: below `least` decisions not even 0 asks exclude that 3 % would be
    asked (Wilson's interval, 95 %), so hubris could not have shown itself."""

    threshold: float = 0.95
    least: int = 125

    name = "EVSI helplessness or hubris"
    reason = (
        "asking in over 95 % or under 3 % of decisions is no smell where it is right, so the "
        "realised gains of decisions settled by lot, two standard errors off 0, have to disagree"
    )
    advice = (
        "Check the price of the ask, whether the posterior reads answers, and settle a share of "
        "decisions by lot (Experiment) so that the worth of asking stays measured."
    )

    def judge(self, measured: Measured) -> Smell:
        asking = measured.asking
        if asking is None:
            return self.unknown("no ledger was given.")
        numbers = {
            "open_decisions": float(asking.open),
            "asked": float(asking.asked),
            **{f"gain_{one.method}": one.mean_gain for one in asking.calibration},
            **{f"estimate_{one.method}": one.mean_estimate for one in asking.calibration},
        }
        raised = [alarm for alarm in asking.alarms if alarm.name in _ALARMS]
        for alarm in raised:
            if alarm.confirmed or alarm.name == "deaf":
                return self.found(f"{alarm.name}: {alarm.reason}.", numbers)
        least = max(self.least, asking.least)
        if asking.open < least:
            return self.unknown(
                f"{asking.open} decisions with an ask at hand; {least} are needed.", numbers
            )
        if raised:
            return self.unknown(f"{raised[0].name}? {raised[0].reason}.", numbers)
        return self.clear(f"asked in {asking.asked} of {asking.open} decisions.", numbers)
