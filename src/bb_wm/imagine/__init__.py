"""Imagination on any object that answers the protocols: latent -> trajectory -> return and risk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.imagine.belief import Belief as Belief
    from bb_wm.imagine.ensemble import Ensemble as Ensemble
    from bb_wm.imagine.risk import CVaR as CVaR
    from bb_wm.imagine.risk import Mean as Mean
    from bb_wm.imagine.risk import RiskMeasure as RiskMeasure
    from bb_wm.imagine.risk import Worst as Worst
    from bb_wm.imagine.utility import Limit as Limit
    from bb_wm.imagine.utility import Utility as Utility
    from bb_wm.imagine.utility import Worth as Worth
    from bb_wm.imagine.utility import risk_drift as risk_drift

_HOMES = {
    "belief": ("Belief",),
    "ensemble": ("Ensemble",),
    "risk": ("CVaR", "Mean", "RiskMeasure", "Worst"),
    "utility": ("Limit", "Utility", "Worth", "risk_drift"),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
