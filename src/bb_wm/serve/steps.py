"""The steps of one call, and the words that agents and people read about it."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from bb_wm.decide.gate import Decision
from bb_wm.serve.calls import Answer, ToolCall, canonical, printable


@dataclass(frozen=True, slots=True)
class Decide:
    """Step: make the decision (`Guard.decide`, never raises); send the Decision."""

    call: ToolCall
    may_look: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Step: make this call; send its Answer, or throw what it raised. `within`: seconds to wait,
    where waiting can be ended (None: as long as it takes)."""

    call: ToolCall
    within: float | None = None


@dataclass(frozen=True, slots=True)
class AskPerson:
    """Step: show `message` to a person; send True only for a clear yes."""

    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the agent gets: the answer of the call, or None and a refusal in words."""

    answer: Answer | None
    refusal: str = ""
    decision: Decision | None = None


Step = Decide | Run | AskPerson
Script = Generator[Step, Any, Reply]


def refusal(call: ToolCall, decision: Decision, why: str, lack: str = "") -> str:
    """What the agent reads: no argument, no result and no other text of others stands in it.

    `lack` is what its user has to do before such a call can be allowed at all.
    """
    told = (
        f"Held by bb-wm ({', '.join(decision.reasons)}): {why.rstrip('.')}. "
        f"{call.shown} was not run and nothing has changed. Look at the present state with a "
        "read-only tool, choose a safer call, or leave this one to your user."
    )
    return f"{told} Tell your user: {lack}." if lack else told


def question(call: ToolCall, decision: Decision) -> str:
    """What a person is asked; arguments are shown as escaped data."""
    shown = printable(canonical(call.arguments) or "unreadable", 600)
    risk = "unknown" if math.isnan(decision.risk) else f"{decision.risk:.3g}"
    return (
        f"An agent wants to run the tool {call.shown}. Estimated risk {risk}, limit "
        f"{decision.limit:.3g}. Its arguments, as data: {shown}. Allow this one call?"
    )
