"""Worlds in which an agent may ask before it acts, and what an engineer would tell their gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.evsi.tree import ListedAsk


@dataclass(frozen=True, slots=True, eq=False)
class AskingWorld:
    """The deciding side of a world.

    candidates  flat actions [C, H, A] with `names` [C]; `hold` [A] is done when the gate holds
    asks        what may be asked, with prices and the form of the answers
    make        keywords for its maker while a gate is judged, such as rewards without luck
    known       name -> mean return per episode of rules that are known exactly, best first
    """

    candidates: Tensor
    names: Sequence[str]
    hold: Tensor
    asks: Sequence[ListedAsk]
    make: Mapping[str, Any] = field(default_factory=dict)
    known: Callable[[], Mapping[str, float]] = dict


def asking_world(name: str) -> AskingWorld | None:
    """The world's deciding side; None where nothing can be asked."""
    build = _ASKING.get(name)
    return None if build is None else build()


def _tooldesk() -> AskingWorld:
    import torch

    from bb_wm.worlds import tooldesk, tooldesk_asks

    actions, names = tooldesk_asks.commits()
    hold = torch.eye(tooldesk.ACTIONS)[tooldesk.HAND_OFF]
    return AskingWorld(
        actions, names, hold, tooldesk_asks.asks(), {"expected_reward": True}, _tooldesk_known
    )


def _tooldesk_known() -> Mapping[str, float]:
    from bb_wm.testing import tooldesk_exact as exact

    gates = exact.gates()
    shown = {
        "exact optimum": "bayes_optimal",
        "exact one-call EVSI": "myopic_exact_evsi",
        "exact confidence threshold": "maxprob<0.9_B",
        "exact always ask (A, four times)": "always_A4",
        "exact never ask": "never",
    }
    return {title: exact.mean_value(gates[key]) for title, key in shown.items()}


_ASKING: dict[str, Callable[[], AskingWorld]] = {"ToolDesk": _tooldesk}
