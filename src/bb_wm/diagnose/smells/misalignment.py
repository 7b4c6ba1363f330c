"""Action misalignment: actions sit a row too early or late, or nobody listens to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.smells.smell import Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured


@dataclass(frozen=True)
class ActionMisalignment(Detector):
    """The model predicts better under shifted actions, or the alignment probe says the rows are
    shifted, or actions tell much of the rows (`tells` of the error without) and the model's error
    is the same under any (`deaf`)."""

    threshold: float = 0.95
    tells: float = 0.2
    deaf: float = 1.02

    name = "action misalignment"
    reason = (
        "the row's own action is what leads to the next row, so no shift of it can fit better; a "
        "twentieth is beyond what chance and smoothness leave between two shifts"
    )
    advice = (
        "Store action[t] in the row it was done in (see the row convention and the alignment "
        "probe), and train again: every plan of this model is off by that row."
    )

    def judge(self, measured: Measured) -> Smell:
        actions = measured.actions
        probe = actions.probe
        numbers = {
            "shuffled": actions.shuffled.value,
            "early": actions.early.value,
            "early_high": actions.early.high,
            "late": actions.late.value,
            "late_high": actions.late.high,
            **({} if probe is None else {"probe_shift": float(probe.best_shift)}),
        }
        place = (-1, -1) if actions.worst is None else (actions.worst.episode, actions.worst.row)
        for name, shift in (("before", actions.early), ("after", actions.late)):
            if shift.known and shift.high < self.threshold:
                return self.found(
                    f"with the action of the row {name} the error is {number(shift.value)} (99 %: "
                    f"at most {number(shift.high)}) of that with the row's own.",
                    numbers,
                    place=place,
                )
        if probe is not None and probe.verdict == "shifted":
            return self.found(
                f"the rows themselves fit actions shifted by {probe.best_shift:+d} best "
                f"({number(probe.z)} standard errors, {probe.rows} rows).",
                numbers,
            )
        if not actions.early.known or not actions.shuffled.known:
            return self.unknown("fewer than 8 pieces of rows with 3 steps to imagine.", numbers)
        telling = probe is not None and probe.losses[1] < 1 - self.tells
        if telling and actions.shuffled.high < self.deaf:
            return self.found(
                f"actions tell much of these rows, yet shuffling them changes the error by "
                f"{number(actions.shuffled.value)} only.",
                numbers,
                place=place,
            )
        said = (
            f"error under shuffled actions {number(actions.shuffled.value)}, one row early "
            f"{number(actions.early.value)}, late {number(actions.late.value)} of that under the "
            "real ones."
        )
        if actions.shuffled.high < self.deaf and not telling:
            return self.unknown(f"actions change nothing that is seen here: {said}", numbers)
        return self.clear(said, numbers)
