"""Judging a model on real rows: open-loop errors beside baselines, tables, pictures and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.diagnose.baselines import Forecast as Forecast
    from bb_wm.diagnose.baselines import Persistence as Persistence
    from bb_wm.diagnose.baselines import Predictor as Predictor
    from bb_wm.diagnose.baselines import RidgeARX as RidgeARX
    from bb_wm.diagnose.diagnosis import diagnose as diagnose
    from bb_wm.diagnose.evaluation import Evaluation as Evaluation
    from bb_wm.diagnose.evaluation import PathScores as PathScores
    from bb_wm.diagnose.evaluation import RiskScores as RiskScores
    from bb_wm.diagnose.open_loop import OpenLoopModel as OpenLoopModel
    from bb_wm.diagnose.open_loop import evaluate as evaluate
    from bb_wm.diagnose.open_loop import evaluate_predictors as evaluate_predictors
    from bb_wm.diagnose.page import Page as Page
    from bb_wm.diagnose.page import render_page as render_page
    from bb_wm.diagnose.page import write_page as write_page
    from bb_wm.diagnose.promotion import Promotion as Promotion
    from bb_wm.diagnose.promotion import PromotionLog as PromotionLog
    from bb_wm.diagnose.promotion import PromotionRule as PromotionRule
    from bb_wm.diagnose.promotion import promote as promote
    from bb_wm.diagnose.report import Measured as Measured
    from bb_wm.diagnose.report import Report as Report
    from bb_wm.diagnose.rerun_export import write_rerun as write_rerun
    from bb_wm.diagnose.smells import DETECTORS as DETECTORS
    from bb_wm.diagnose.smells import Detector as Detector
    from bb_wm.diagnose.smells import Smell as Smell
    from bb_wm.diagnose.smells import find_smells as find_smells
    from bb_wm.diagnose.tables import Table as Table
    from bb_wm.diagnose.traces import Traces as Traces
    from bb_wm.diagnose.traces import collect_traces as collect_traces
    from bb_wm.diagnose.trusted import Trusted as Trusted
    from bb_wm.diagnose.trusted import fit_trust as fit_trust
    from bb_wm.diagnose.windows import WindowPlan as WindowPlan
    from bb_wm.diagnose.windows import Windows as Windows
    from bb_wm.diagnose.windows import cut_windows as cut_windows
    from bb_wm.diagnose.windows import plan_windows as plan_windows

_HOMES = {
    "baselines": ("Forecast", "Persistence", "Predictor", "RidgeARX"),
    "diagnosis": ("diagnose",),
    "evaluation": ("Evaluation", "PathScores", "RiskScores"),
    "open_loop": ("OpenLoopModel", "evaluate", "evaluate_predictors"),
    "page": ("Page", "render_page", "write_page"),
    "promotion": ("Promotion", "PromotionLog", "PromotionRule", "promote"),
    "report": ("Measured", "Report"),
    "rerun_export": ("write_rerun",),
    "smells": ("DETECTORS", "Detector", "Smell", "find_smells"),
    "tables": ("Table",),
    "traces": ("Traces", "collect_traces"),
    "trusted": ("Trusted", "fit_trust"),
    "windows": ("WindowPlan", "Windows", "cut_windows", "plan_windows"),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
