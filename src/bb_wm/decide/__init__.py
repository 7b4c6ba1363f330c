"""Deciding on any object that answers the protocols: plans, EVSI, the gate and its ledger.

Names are loaded when first used, so the gate and the ledger come without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.decide.asker import Asker as Asker
    from bb_wm.decide.control import PlanningPolicy as PlanningPolicy
    from bb_wm.decide.control import Played as Played
    from bb_wm.decide.control import play as play
    from bb_wm.decide.evidence import AskEvidence as AskEvidence
    from bb_wm.decide.evidence import CandidateEvidence as CandidateEvidence
    from bb_wm.decide.evidence import Evidence as Evidence
    from bb_wm.decide.evidence import Fault as Fault
    from bb_wm.decide.evidence import stage as stage
    from bb_wm.decide.evsi import EVSI as EVSI
    from bb_wm.decide.evsi import Ask as Ask
    from bb_wm.decide.evsi import AskTree as AskTree
    from bb_wm.decide.evsi import EVSIResult as EVSIResult
    from bb_wm.decide.evsi import JointSamples as JointSamples
    from bb_wm.decide.evsi import ListedAsk as ListedAsk
    from bb_wm.decide.evsi import Lookahead as Lookahead
    from bb_wm.decide.evsi import Ranking as Ranking
    from bb_wm.decide.evsi import lookahead as lookahead
    from bb_wm.decide.experiment import Experiment as Experiment
    from bb_wm.decide.experiment import decide_and_record as decide_and_record
    from bb_wm.decide.experiment import record_pair as record_pair
    from bb_wm.decide.gate import Decision as Decision
    from bb_wm.decide.gate import Gate as Gate
    from bb_wm.decide.gate import Verdict as Verdict
    from bb_wm.decide.governor import GovernedPlan as GovernedPlan
    from bb_wm.decide.governor import Governor as Governor
    from bb_wm.decide.governor import LatencyBudget as LatencyBudget
    from bb_wm.decide.governor import LatencyReport as LatencyReport
    from bb_wm.decide.ledger import Ledger as Ledger
    from bb_wm.decide.ledger_report import LedgerReport as LedgerReport
    from bb_wm.decide.ledger_report import read_ledger as read_ledger
    from bb_wm.decide.planners import CEM as CEM
    from bb_wm.decide.planners import MPPI as MPPI
    from bb_wm.decide.planners import Enumerate as Enumerate
    from bb_wm.decide.planners import Plan as Plan
    from bb_wm.decide.planners import Planner as Planner
    from bb_wm.decide.planners import PlanNoise as PlanNoise
    from bb_wm.decide.planners import RandomShooting as RandomShooting
    from bb_wm.decide.pomdp import action_values as action_values
    from bb_wm.decide.pomdp import belief_value as belief_value

_HOMES = {
    "asker": ("Asker",),
    "control": ("PlanningPolicy", "Played", "play"),
    "evidence": ("AskEvidence", "CandidateEvidence", "Evidence", "Fault", "stage"),
    "evsi": (
        "Ask",
        "AskTree",
        "EVSI",
        "EVSIResult",
        "JointSamples",
        "ListedAsk",
        "Lookahead",
        "Ranking",
        "lookahead",
    ),
    "experiment": ("Experiment", "decide_and_record", "record_pair"),
    "gate": ("Decision", "Gate", "Verdict"),
    "governor": ("GovernedPlan", "Governor", "LatencyBudget", "LatencyReport"),
    "ledger": ("Ledger",),
    "ledger_report": ("LedgerReport", "read_ledger"),
    "planners": ("CEM", "Enumerate", "MPPI", "Plan", "PlanNoise", "Planner", "RandomShooting"),
    "pomdp": ("action_values", "belief_value"),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
