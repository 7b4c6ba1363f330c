"""One conversation of an agent with its tools, as rows of the row convention.

Row t: what can be seen before call t; `action[t]` is the call (all zero where it was refused: then
nothing was done); row t + 1: what came of it, with its reward and V_s.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bb_wm.data.rows import EpisodeBuilder
from bb_wm.serve.calls import Answer, ToolCall
from bb_wm.serve.featurise import Featuriser, Known, Seen, answer_places, call_places
from bb_wm.types import Episode

Obs = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Row:
    """A call that was settled: its action [A] and what is seen after it, texts masked by what the
    recording knows (`action`, `obs`) and with all their codes (`full_action`, `full_obs`)."""

    call: ToolCall
    answer: Answer
    action: np.ndarray
    obs: Obs
    full_action: np.ndarray
    full_obs: Obs
    reward: float
    risk: float | None
    decision_id: str | None


def masked_obs(obs: Obs, known: Known) -> Obs:
    """The observation with unknown texts hidden."""
    key = next(name for name in obs if name.startswith("tools_"))
    return {**obs, key: known.masked(obs[key], answer_places())}


def masked_action(action: np.ndarray, known: Known) -> np.ndarray:
    """The action with unknown texts hidden."""
    return known.masked(action, call_places())


class Conversation:
    """Counters and rows so far. Usable from several threads; rows stand in the order calls end."""

    def __init__(self, featuriser: Featuriser, known: Known) -> None:
        self.featuriser = featuriser
        self.known = known
        self.seen = Seen()
        self.rows: list[Row] = []
        self.lock = threading.RLock()
        full = featuriser.see(self.seen)
        self.first_full = full
        self.first = masked_obs(full, known)

    def settle(
        self,
        call: ToolCall,
        answer: Answer,
        *,
        reward: float,
        risk: float | None,
        decision_id: str | None = None,
    ) -> Row:
        """One more row. `risk` None: to be labelled from the calls around it."""
        with self.lock:
            made = self.featuriser
            full_action = made.nothing() if answer.refused else made.act(call)
            self.seen.add(call, answer)
            full_obs = made.see(self.seen)
            row = Row(
                call,
                answer,
                masked_action(full_action, self.known),
                masked_obs(full_obs, self.known),
                full_action,
                full_obs,
                reward,
                risk,
                decision_id,
            )
            self.rows.append(row)
            return row

    def skip(self) -> None:
        """Leave the last row out: the next episode begins where it led."""
        with self.lock:
            last = self.rows.pop()
            self.first = last.obs

    def take(self, risks: Sequence[float]) -> Episode | None:
        """The rows so far as an episode, cut here; the conversation goes on from its last row."""
        with self.lock:
            rows, self.rows = self.rows, []
            first = self.first
            if rows:
                self.first = rows[-1].obs
        if not rows:
            return None
        builder = EpisodeBuilder(self.featuriser.obs_spec, self.featuriser.action_spec)
        builder.start(first)
        for row, risk in zip(rows, risks, strict=True):
            builder.step(
                row.action, row.obs, reward=row.reward, terminated=False, truncated=False, risk=risk
            )
        return builder.cut()
