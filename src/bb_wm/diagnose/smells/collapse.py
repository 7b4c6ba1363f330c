"""Posterior collapse: z is there and says nothing (section 7: z_t unused, KL -> 0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured


@dataclass(frozen=True)
class PosteriorCollapse(Detector):
    """z tells less than a tenth of a first row. KL alone would not do: in a world that h foretells
    a healthy KL is near 0 too, but never in a first row, which only z can know."""

    threshold: float = 0.1

    name = "posterior collapse"
    reason = (
        "nothing but z can know a first row; a tenth of its variance is what .05 nats per number "
        "can carry, and free nats leave about that much in a z that nobody uses"
    )
    advice = "Lower beta or the representation share of the KL, raise free nats, and train again."

    def judge(self, measured: Measured) -> Smell:
        beliefs = measured.beliefs
        use, kl = beliefs.use, beliefs.first_kl
        numbers = {
            "use": use.value,
            "use_low": use.low,
            "use_high": use.high,
            "first_row_kl": kl.value,
            "units": float(use.units),
        }
        if not use.known:
            return self.unknown(f"{use.units} independent pieces of rows, or nothing varies.")
        said = (
            f"z tells {number(max(use.value, 0.0))} of what varies in a first row "
            f"(99 %: up to {number(max(use.high, 0.0))}); raw KL there {number(kl.value)} nats."
        )
        if use.high < self.threshold:
            return self.found(said, numbers)
        return self.clear(said, numbers)
