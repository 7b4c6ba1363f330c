"""Safety blind spots: risk that the model calls safety (section 7: V_s fails on rare cases)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured


@dataclass(frozen=True)
class SafetyBlindSpots(Detector):
    """A third of all risk sits unpredicted in rows that the model calls safer than the average.

    A head that cannot tell where risk falls but knows how much there is hides nothing: this is
    about rows believed safe that are not. `events` rows with risk in `pieces` pieces are needed.
    """

    threshold: float = 1 / 3
    events: int = 10
    pieces: int = 5

    name = "safety blind spots"
    reason = (
        "a calibrated V_s hides nothing in the rows it calls safe; with a third hidden, the world "
        "is half as risky again as the model's own sum says, and so is what a limit lets through"
    )
    advice = (
        "Add rows of the missed kind to the training data, weigh risk higher, and calibrate the "
        "gate's bound on data that has them."
    )

    def judge(self, measured: Measured) -> Smell:
        risk = measured.risk
        hidden = risk.hidden
        numbers = {
            "hidden": hidden.value,
            "hidden_low": hidden.low,
            "events": float(risk.events),
            "event_pieces": float(risk.event_units),
        }
        if risk.events < self.events or risk.event_units < self.pieces or not hidden.known:
            return self.unknown(
                f"{risk.events} risky rows in {risk.event_units} pieces; {self.events} in "
                f"{self.pieces} are needed.",
                numbers,
            )
        where = f"in rows called safer than the average, {risk.events} risky rows in all."
        said = f"no risk came beyond what was predicted {where}"
        if hidden.value > 0:
            least = number(max(hidden.low, 0.0))
            said = f"{number(hidden.value)} of all risk (99 %: at least {least}) came unpredicted "
            said += where
        if hidden.low > self.threshold:
            place = (-1, -1) if risk.missed is None else (risk.missed.episode, risk.missed.row)
            return self.found(said, numbers, place=place)
        return self.clear(said, numbers)
