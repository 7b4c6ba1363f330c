"""ToolDesk's interface for deciding: what can be done, what can be asked, what each may answer.

This is what an engineer knows of his own tools: their prices and the form of their answers. How
often a tool is right, silent, or useless is for the model to learn.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from bb_wm.decide.evsi.tree import ListedAsk, Seen
from bb_wm.worlds import tooldesk
from bb_wm.worlds.tooldesk import ACTIONS, FIRST_INTENT, FIRST_SYMBOL, INTENTS, SYMBOLS, TOOLS

if TYPE_CHECKING:
    from torch import Tensor

NAMES: Final = "ABC"
_ANSWERS: Final = (
    torch.arange(1, FIRST_SYMBOL),
    torch.arange(1, FIRST_SYMBOL),
    torch.arange(FIRST_SYMBOL, FIRST_SYMBOL + SYMBOLS),
)  # by tool: silence or an intent; C's symbols


def commits() -> tuple[Tensor, list[str]]:
    """The four commits as candidates [4, 1, 8], and their names. To hand off is to hold."""
    actions = torch.eye(ACTIONS)[TOOLS : TOOLS + INTENTS, None]
    return actions, [f"commit {intent}" for intent in range(INTENTS)]


def asks() -> list[ListedAsk]:
    """The three tools."""
    return [
        ListedAsk(
            name=NAMES[tool],
            action=torch.eye(ACTIONS)[tool],
            answers=partial(_after, tool),
            cost=partial(_cost, tool),
            keys=("answer",),
            open=_any_left,
        )
        for tool in range(TOOLS)
    ]


def _after(tool: int, seen: Seen) -> dict[str, Tensor]:
    """Every observation [N, K, ...] that may follow the call; keys of the world's table."""
    answers = _ANSWERS[tool]
    count, kinds = seen["answer"].shape[0], answers.shape[0]
    after = {key: v[:, None].expand(-1, kinds, -1).clone() for key, v in seen.items()}
    after["answer"] = answers.expand(count, kinds)[..., None].to(seen["answer"].dtype)
    after["tool"] = torch.full_like(after["tool"], tool + 1)
    after["calls_left"] = after["calls_left"] - 1
    for place, answer in enumerate(answers.tolist()):
        if FIRST_INTENT <= answer < FIRST_SYMBOL:
            after["named"][:, place, tool * INTENTS + answer - FIRST_INTENT] += 1
    return after


def _cost(tool: int, seen: Seen) -> Tensor:
    prices = torch.tensor(tooldesk.LEVELS)[seen["price"][:, 0].long()]
    return prices * float(tooldesk.COST[tool])


def _any_left(seen: Seen) -> Tensor:
    return seen["calls_left"][:, 0] > 0
