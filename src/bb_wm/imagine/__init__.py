"""Imagination on any object that answers the protocols: latent -> trajectory -> return and risk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "bb_wm.imagine.belief": ("Belief",),
    "bb_wm.imagine.ensemble": ("Ensemble",),
    "bb_wm.imagine.risk": ("CVaR", "Mean", "RiskMeasure", "Worst"),
    "bb_wm.imagine.utility": ("Limit", "Utility", "Worth", "risk_drift"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'bb_wm.imagine' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
