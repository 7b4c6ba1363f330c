"""The expected value of sample information: what asking first is worth, net of its cost.

`EVSI(...)(model, belief, ask, candidates, cost)` for any protocols.Observer;
`EVSI(...).estimate(JointSamples(...), cost)` for joint samples of your own. The definitions stand
in `bb_wm.decide.evsi.ask`. Names load on first use: results can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.decide.evsi.adaptive import Lookahead as Lookahead
    from bb_wm.decide.evsi.adaptive import lookahead as lookahead
    from bb_wm.decide.evsi.ask import Ask as Ask
    from bb_wm.decide.evsi.criteria import Criterion as Criterion
    from bb_wm.decide.evsi.criteria import ExpectedUtility as ExpectedUtility
    from bb_wm.decide.evsi.criteria import LimitedRisk as LimitedRisk
    from bb_wm.decide.evsi.criteria import TailRisk as TailRisk
    from bb_wm.decide.evsi.criteria import TailUtility as TailUtility
    from bb_wm.decide.evsi.engine import EVSI as EVSI
    from bb_wm.decide.evsi.estimate import CrossFittedRegression as CrossFittedRegression
    from bb_wm.decide.evsi.estimate import Enumeration as Enumeration
    from bb_wm.decide.evsi.estimate import Estimate as Estimate
    from bb_wm.decide.evsi.result import EVSIResult as EVSIResult
    from bb_wm.decide.evsi.result import Ranking as Ranking
    from bb_wm.decide.evsi.result import opportunity_loss as opportunity_loss
    from bb_wm.decide.evsi.samples import JointSamples as JointSamples
    from bb_wm.decide.evsi.tree import Asked as Asked
    from bb_wm.decide.evsi.tree import AskTree as AskTree
    from bb_wm.decide.evsi.tree import ListedAsk as ListedAsk

_HOMES = {
    "ask": ("Ask",),
    "criteria": ("Criterion", "ExpectedUtility", "LimitedRisk", "TailRisk", "TailUtility"),
    "engine": ("EVSI",),
    "estimate": ("CrossFittedRegression", "Enumeration", "Estimate"),
    "adaptive": ("Lookahead", "lookahead"),
    "result": ("EVSIResult", "Ranking", "opportunity_loss"),
    "samples": ("JointSamples",),
    "tree": ("AskTree", "Asked", "ListedAsk"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'bb_wm.decide.evsi' has no attribute {name!r}")
    value = getattr(import_module(f"bb_wm.decide.evsi.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
