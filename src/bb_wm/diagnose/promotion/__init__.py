"""Promotion: may a new model replace the old one? Only if risk does not rise (Delta V_s <= 0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.diagnose.promotion.compare import promote as promote
    from bb_wm.diagnose.promotion.record import PromotionLog as PromotionLog
    from bb_wm.diagnose.promotion.record import digest_episodes as digest_episodes
    from bb_wm.diagnose.promotion.record import digest_model as digest_model
    from bb_wm.diagnose.promotion.result import Check as Check
    from bb_wm.diagnose.promotion.result import Outcome as Outcome
    from bb_wm.diagnose.promotion.result import Promotion as Promotion
    from bb_wm.diagnose.promotion.rule import PromotionRule as PromotionRule

_HOMES = {
    "compare": ("promote",),
    "record": ("PromotionLog", "digest_episodes", "digest_model"),
    "result": ("Check", "Outcome", "Promotion"),
    "rule": ("PromotionRule",),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
