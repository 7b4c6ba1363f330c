"""The expected value of sample information: what asking first is worth, net of its cost.

`EVSI(...)(model, belief, ask, candidates, cost)` for any protocols.Observer;
`EVSI(...).estimate(JointSamples(...), cost)` for joint samples of your own. The definitions stand
in `bb_wm.decide.evsi.ask`. Names load on first use: results can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

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
    "adaptive": ("Lookahead", "lookahead"),
    "ask": ("Ask",),
    "criteria": ("Criterion", "ExpectedUtility", "LimitedRisk", "TailRisk", "TailUtility"),
    "engine": ("EVSI",),
    "estimate": ("CrossFittedRegression", "Enumeration", "Estimate"),
    "result": ("EVSIResult", "Ranking", "opportunity_loss"),
    "samples": ("JointSamples",),
    "tree": ("AskTree", "Asked", "ListedAsk"),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
