"""A conversation under a guard, and how its rows become recorded episodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bb_wm.decide.evidence import Fault
from bb_wm.serve.conversation import Conversation, Row
from bb_wm.serve.featurise import tool_code
from bb_wm.serve.harm import Undone

if TYPE_CHECKING:
    from bb_wm.decide import Ledger
    from bb_wm.serve.recording import Recording
    from bb_wm.types import Latent


@dataclass(slots=True, eq=False)
class Talk:
    """A conversation under the guard: its rows, and the belief as far as it has been worked out.

    `last` is the row of the last call that was made. `fault` says that a row could not be told:
    from then on nothing is known of the conversation.
    """

    rows: Conversation
    pending: list[Row] = field(default_factory=list)
    last: Row | None = None
    latent: Latent | None = None
    observed_at: float = 0.0
    fault: Fault | None = None
    turn: threading.RLock = field(default_factory=threading.RLock)


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where rows go: episodes into the recording, what came of decisions into the ledger. What
    fails is told to `complain(where, what)`; nothing raises."""

    recording: Recording | None
    ledger: Ledger | None
    undone: Undone
    complain: Callable[[str, str], None]

    def keep(self, talk: Talk) -> None:
        """The rows so far of a conversation, as an episode."""
        with talk.rows.lock:
            rows = list(talk.rows.rows)
            guessed = self.undone.label([(row.call, row.answer) for row in rows])
            risks = [
                g if row.risk is None else row.risk for row, g in zip(rows, guessed, strict=True)
            ]
            try:
                episode = talk.rows.take(risks)
                if episode is not None and self.recording is not None:
                    tools = {tool_code(row.call).tobytes(): row.call.name[:80] for row in rows}
                    self.recording.append(episode, tools)
            except Exception as error:
                self.complain("recording", f"{type(error).__name__}: {error}")
        self._outcomes(rows, risks)

    def _outcomes(self, rows: Sequence[Row], risks: Sequence[float]) -> None:
        if self.ledger is None:
            return
        for row, risk in zip(rows, risks, strict=True):
            if row.decision_id is None:
                continue
            try:
                made = not row.answer.refused
                self.ledger.outcome(row.decision_id, row.reward, risk, made=made)
            except Exception as error:
                self.complain("ledger", str(error))
