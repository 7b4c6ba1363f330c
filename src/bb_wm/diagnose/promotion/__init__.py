"""Promotion: may a new model replace the old one? Only if risk does not rise (Delta V_s <= 0)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.diagnose.promotion.compare import promote
    from bb_wm.diagnose.promotion.record import PromotionLog, digest_episodes, digest_model
    from bb_wm.diagnose.promotion.result import Check, Outcome, Promotion
    from bb_wm.diagnose.promotion.rule import PromotionRule

_HOME_OF = {
    "Check": "result",
    "Outcome": "result",
    "Promotion": "result",
    "PromotionLog": "record",
    "PromotionRule": "rule",
    "digest_episodes": "record",
    "digest_model": "record",
    "promote": "compare",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


__all__ = [
    "Check",
    "Outcome",
    "Promotion",
    "PromotionLog",
    "PromotionRule",
    "digest_episodes",
    "digest_model",
    "promote",
]
