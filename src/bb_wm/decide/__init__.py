"""Deciding on any object that answers the protocols: plans, EVSI, the gate and its ledger.

Names are loaded when first used, so the gate and the ledger come without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.decide.evidence import AskEvidence as AskEvidence
    from bb_wm.decide.evidence import CandidateEvidence as CandidateEvidence
    from bb_wm.decide.evidence import Evidence as Evidence
    from bb_wm.decide.evidence import Fault as Fault
    from bb_wm.decide.evidence import stage as stage
    from bb_wm.decide.gate import Decision as Decision
    from bb_wm.decide.gate import Gate as Gate
    from bb_wm.decide.gate import Verdict as Verdict

_HOMES = {
    "bb_wm.decide.evidence": ("AskEvidence", "CandidateEvidence", "Evidence", "Fault", "stage"),
    "bb_wm.decide.gate": ("Decision", "Gate", "Verdict"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'bb_wm.decide' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
