"""Where the risk of a tool call comes from: V_s >= 0 of the row that the call led to.

Two sources. Measured (better): a function of yours looks at the world before and after the call,
`harm(call) -> (answer -> V_s)`: staged files that are gone, rows deleted, money spent. Undone (the
default, of any server): 1 for a call that was declared destructive, or not declared harmless, and
then failed or was undone. Undone means: a change made in the `before` calls ahead of it, the same
tool with the same arguments, was made again in the `after` calls behind it. That is a lower bound:
harm nobody repaired stays unseen, and work repeated for another reason counts. Calls declared
read-only are never blamed; that is the one place where a hint is believed, and it only concerns
which rows of a log teach risk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bb_wm.serve.calls import Answer, ToolCall

Settle = Callable[[Answer], float]
Harm = Callable[[ToolCall], Settle]


@dataclass(frozen=True, slots=True)
class Undone:
    """The default label: 1.0 for a call that may destroy and failed or was undone, else 0.0.

    What is made again must be another tool's doing: writing twice does not blame what is between.
    """

    before: int = 5
    after: int = 5

    def label(self, calls: Sequence[tuple[ToolCall, Answer]]) -> list[float]:
        """V_s of each call, in order; only knowable once the calls behind it are there."""
        return [self._of(calls, place) for place in range(len(calls))]

    def _of(self, calls: Sequence[tuple[ToolCall, Answer]], place: int) -> float:
        call, answer = calls[place]
        if answer.refused or not call.hints.may_destroy:
            return 0.0
        if answer.error:
            return 1.0
        earlier = [c for c, a in calls[max(0, place - self.before) : place] if _changed(c, a)]
        later = [c for c, a in calls[place + 1 : place + 1 + self.after] if _changed(c, a)]
        return float(
            any(was.name != call.name and was.same(again) for was in earlier for again in later)
        )


def _changed(call: ToolCall, answer: Answer) -> bool:
    return call.hints.read_only is not True and not answer.error and not answer.refused


def completed(call: ToolCall, answer: Answer) -> float:
    """The default reward: 1.0 for a call that came back without an error, else 0.0."""
    return float(not answer.error and not answer.refused)
