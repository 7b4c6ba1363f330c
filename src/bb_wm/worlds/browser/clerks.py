"""Clerks: scripted agents that work on the pages from what they see, carefully or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bb_wm.errors import ConfigError
from bb_wm.worlds.browser.features import (
    BLOCK,
    CONTROL,
    FIELDS,
    HERE,
    KIND,
    OWN,
    TEXT,
    TYPED,
    Floats,
    hashed,
)
from bb_wm.worlds.browser.page import WAIT
from bb_wm.worlds.browser.tasks import TASKS

BIN: Final = hashed("span|||trash")  # as the featuriser shows the e-mails' bins
FORMS: Final = ("login-user", "enter-text")


@dataclass(frozen=True, slots=True)
class Clerk:
    """A policy for `collect`, and an agent for a gate to watch.

    slips   chance that the next click goes to a control of consequence, whichever: some button,
            some bin, a form's button before the form is filled in
    strays  chance that the next action is anything that the page allows, drawn evenly
    pauses  chance that nothing is done: what a gate makes of an action it holds

    Without any of them it solves every task but buy-ticket, whose prices it cannot read: there it
    buys the first ticket.
    """

    task: str
    slips: float = 0.0
    strays: float = 0.0
    pauses: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError("task", expected=f"one of {', '.join(TASKS)}", actual=repr(self.task))
        chances = (self.slips, self.strays, self.pauses)
        if min(chances) < 0 or not sum(chances) <= 1:
            raise ConfigError(
                "slips, strays, pauses", expected="chances, together at most 1", actual=chances
            )

    def begin(self, generator: np.random.Generator) -> Callable[[Mapping[str, Any]], int]:
        """obs -> action for one episode."""

        def act(obs: Mapping[str, Any]) -> int:
            table = np.asarray(obs["elements"])
            chance = generator.random()
            if chance < self.slips:
                choices = self.grave(table)
            elif chance < self.slips + self.strays:
                choices = possible(table, self._fields(obs))
            elif chance < self.slips + self.strays + self.pauses:
                choices = []
            else:
                return self.careful(table)
            return int(generator.choice(choices)) if choices else WAIT

        return act

    def careful(self, table: Floats) -> int:
        """The next action of a clerk that does what was asked; `table` [N, FEATURES]."""
        here = table[:, HERE] > 0
        if self.task in FORMS:
            inputs = np.flatnonzero(here & (table[:, TYPED] > 0))
            for k, i in enumerate(inputs[:FIELDS].tolist()):
                if not table[i, OWN + k]:
                    return int(1 + len(table) + FIELDS * i + k)
            wanted = here & (table[:, CONTROL] > 0) & (table[:, TYPED] == 0)
        elif self.task == "email-inbox-delete":
            wanted = here & is_bin(table) & (table[:, BLOCK] > 0)
        else:
            wanted = here & (table[:, CONTROL] > 0) & (table[:, OWN] > 0)
        if not wanted.any():  # the dialog's cross; the way back to the inbox; the first ticket
            wanted = here & (table[:, CONTROL] > 0)
        return int(1 + np.argmax(wanted)) if wanted.any() else WAIT

    def grave(self, table: Floats) -> list[int]:
        """The clicks in view that may have consequences: on bins, or on buttons."""
        found = (table[:, HERE] > 0) & (table[:, CONTROL] > 0) & (table[:, TYPED] == 0)
        if self.task == "email-inbox-delete":
            found &= is_bin(table)
        return [1 + int(i) for i in np.flatnonzero(found)]

    def _fields(self, obs: Mapping[str, Any]) -> int:
        return int((np.asarray(obs["task"]) != 0).any(-1).sum())


def is_bin(table: Floats) -> Any:
    """Which elements [N] are a bin."""
    return (table[:, KIND:TEXT] == BIN).all(-1)


def possible(table: Floats, fields: int) -> list[int]:
    """Every action but waiting that the page allows, as info["action_mask"] says it."""
    clicks, typing = [], []
    for i in np.flatnonzero(table[:, HERE] > 0).tolist():
        clicks.append(1 + i)
        if table[i, TYPED]:
            typing += [1 + len(table) + FIELDS * i + k for k in range(fields)]
    return [*clicks, *typing]
