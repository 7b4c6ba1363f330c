"""Judging a model on real rows: open-loop errors beside baselines, tables, pictures and a page."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.diagnose.baselines import Forecast, Persistence, Predictor, RidgeARX
    from bb_wm.diagnose.diagnosis import diagnose
    from bb_wm.diagnose.evaluation import Evaluation, PathScores, RiskScores
    from bb_wm.diagnose.open_loop import OpenLoopModel, evaluate, evaluate_predictors
    from bb_wm.diagnose.page import Page, render_page, write_page
    from bb_wm.diagnose.promotion import Promotion, PromotionLog, PromotionRule, promote
    from bb_wm.diagnose.report import Measured, Report
    from bb_wm.diagnose.smells import DETECTORS, Detector, Smell, find_smells
    from bb_wm.diagnose.tables import Table
    from bb_wm.diagnose.traces import Traces, collect_traces
    from bb_wm.diagnose.windows import WindowPlan, Windows, cut_windows, plan_windows

_HOMES = {
    "baselines": ("Forecast", "Persistence", "Predictor", "RidgeARX"),
    "diagnosis": ("diagnose",),
    "evaluation": ("Evaluation", "PathScores", "RiskScores"),
    "open_loop": ("OpenLoopModel", "evaluate", "evaluate_predictors"),
    "page": ("Page", "render_page", "write_page"),
    "promotion": ("Promotion", "PromotionLog", "PromotionRule", "promote"),
    "report": ("Measured", "Report"),
    "smells": ("DETECTORS", "Detector", "Smell", "find_smells"),
    "tables": ("Table",),
    "traces": ("Traces", "collect_traces"),
    "windows": ("WindowPlan", "Windows", "cut_windows", "plan_windows"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


__all__ = [
    "DETECTORS",
    "Detector",
    "Evaluation",
    "Forecast",
    "Measured",
    "Page",
    "OpenLoopModel",
    "PathScores",
    "Persistence",
    "Predictor",
    "Promotion",
    "PromotionLog",
    "PromotionRule",
    "Report",
    "RidgeARX",
    "RiskScores",
    "Smell",
    "Table",
    "Traces",
    "WindowPlan",
    "Windows",
    "collect_traces",
    "cut_windows",
    "diagnose",
    "evaluate",
    "evaluate_predictors",
    "find_smells",
    "plan_windows",
    "promote",
    "render_page",
    "write_page",
]
