"""The rows of an environment that somebody else drives, one episode after the other, and what came
of the decisions made in them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bb_wm.data.recorder import MASK_KEY
from bb_wm.data.rows import EpisodeBuilder
from bb_wm.decide.evidence import Fault
from bb_wm.decide.gate import Decision
from bb_wm.decide.ledger import Ledger
from bb_wm.errors import DataError
from bb_wm.types import ActionSpec, Episode, ObsSpec

MOST_OUTCOMES: Final = 1000  # that wait for a ledger that hangs; then the oldest are given up


class EnvRecording:
    """The episode being recorded, given to `record` when it ends; None records nothing.

    What goes wrong is told to `note` and blocks nothing: the rows before it become an abandoned
    episode, and recording goes on with the next one.
    """

    def __init__(
        self,
        obs_spec: ObsSpec,
        action_spec: ActionSpec,
        record: Callable[[Episode], object] | None,
        risk: Callable[..., float],
        note: Callable[[Fault], None],
    ) -> None:
        self._record, self._risk, self._note = record, risk, note
        self._builder: EpisodeBuilder | None = None
        if record is not None:
            self._builder = EpisodeBuilder(obs_spec, action_spec)
        self._open = False

    def start(self, obs: Any, info: Any) -> None:
        """Row 0 of a new episode; what is available comes in info["action_mask"], if anywhere."""
        if self._builder is not None:
            self._open = self._tried(lambda b: b.start(obs, action_mask=info.get(MASK_KEY)))

    def step(
        self, before: Any, action: Any, obs: Any, reward: Any, ended: bool, cut: bool, info: Any
    ) -> None:
        """What `action`, done after `before`, led to."""

        def keep(builder: EpisodeBuilder) -> None:
            builder.step(
                action,
                obs,
                reward=reward,
                terminated=bool(ended),
                truncated=bool(cut),
                risk=float(self._risk(before, action, obs, float(reward), bool(ended), info)),
                action_mask=info.get(MASK_KEY),
            )

        if self._open and not self._tried(keep):
            self._close(lambda b: b.abandon())
        elif self._open and (ended or cut):
            self._close(lambda b: b.finish())

    def stop(self) -> None:
        """The agent starts anew before the end: what there is, as truncated."""
        if self._open:
            self._close(lambda b: b.cut() if b.rows > 1 else b.abandon())

    def _close(self, take: Callable[[EpisodeBuilder], Episode | None]) -> None:
        def give(builder: EpisodeBuilder) -> None:
            assert self._record is not None
            episode = take(builder)
            if episode is not None:
                self._record(episode)

        self._open = False
        self._tried(give)

    def _tried(self, do: Callable[[EpisodeBuilder], object]) -> bool:
        assert self._builder is not None
        try:
            do(self._builder)
        except Exception as error:
            self._note(Fault.of(error, "recording"))
            return False
        return True


@dataclass(slots=True)
class _Followed:
    """One decision, and what its rows have come to so far."""

    decision_id: str
    sent: str
    left: int
    rows: int = 0
    return_: float = 0.0
    risk: float = 0.0


class Outcomes:
    """What came of every decision over the rows that it looked ahead, for the ledger.

    The return is the undiscounted sum of rewards, the risk the sum of V_s >= 0, over the `horizon`
    rows after the decision (fewer where the episode ends: the note's `rows`). The gate went on
    deciding in them, so what came is of its later decisions too. The note's `sent` says whose
    action was done in the first of them.
    """

    def __init__(self, note: Callable[[Fault], None]) -> None:
        self._note = note
        self._open: list[_Followed] = []
        self._done: deque[_Followed] = deque(maxlen=MOST_OUTCOMES)

    def __bool__(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._done)

    def step(
        self, decision: Decision | None, sent: str, reward: Any, measure: Callable[[], Any]
    ) -> None:
        """One row: whose action led to it by which decision, its reward and its risk.

        None: no decision in the ledger speaks of this row alone. A number that is not finite is
        told to `note` and ends everything that looked at this row.
        """
        if decision is not None and decision.horizon > 0 and "no_record" not in decision.reasons:
            self._open.append(_Followed(decision.decision_id, sent, decision.horizon))
        if not self._open:
            return
        try:
            gain, risk = float(reward), float(measure())
            if not (math.isfinite(gain) and math.isfinite(risk)):
                raise DataError("reward, risk", expected="finite", actual=f"{gain}, {risk}")
        except Exception as error:
            self._note(Fault.of(error, "outcome"))
            self._open.clear()
            return
        for one in self._open:
            one.return_, one.risk = one.return_ + gain, one.risk + risk
            one.left, one.rows = one.left - 1, one.rows + 1
        self._done.extend(one for one in self._open if one.left <= 0)
        self._open = [one for one in self._open if one.left > 0]

    def end(self) -> None:
        """The episode is over: nothing more comes of what is still open."""
        self._done.extend(self._open)
        self._open.clear()

    def write(self, ledger: Ledger) -> None:
        """Put what is known on record; what cannot be written is told to `note` and given up."""
        while self._done:
            one = self._done.popleft()
            try:
                told = {"sent": one.sent, "rows": one.rows}
                ledger.outcome(one.decision_id, one.return_, one.risk, **told)
            except Exception as error:
                self._note(Fault.of(error, "outcome"))
