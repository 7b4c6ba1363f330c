"""Named failures, found in evidence: section 7 of the specification, and two of our own.

A smell is "found", "clear", or there is "not enough evidence"; a new one is one class in one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bb_wm.diagnose.smells.asking import HelplessOrHubris
from bb_wm.diagnose.smells.blind_spots import SafetyBlindSpots
from bb_wm.diagnose.smells.collapse import PosteriorCollapse
from bb_wm.diagnose.smells.drift import RolloutDrift
from bb_wm.diagnose.smells.hacking import RewardHacking
from bb_wm.diagnose.smells.latency_creep import LatencyCreep
from bb_wm.diagnose.smells.misalignment import ActionMisalignment
from bb_wm.diagnose.smells.smell import CLEAR, FOUND, UNKNOWN, Detector, Smell

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured

DETECTORS: Final[tuple[Detector, ...]] = (
    PosteriorCollapse(),
    RolloutDrift(),
    RewardHacking(),
    SafetyBlindSpots(),
    LatencyCreep(),
    ActionMisalignment(),
    HelplessOrHubris(),
)


def find_smells(measured: Measured, detectors: Sequence[Detector] = DETECTORS) -> tuple[Smell, ...]:
    """Every detector's verdict: found ones first, serious before warnings, then unknown, clear."""
    order = {FOUND: 0, UNKNOWN: 1, CLEAR: 2}
    found = [detector.judge(measured) for detector in detectors]
    found.sort(key=lambda smell: (order[smell.status], smell.severity != "serious"))
    return tuple(found)


__all__ = [
    "CLEAR",
    "DETECTORS",
    "FOUND",
    "UNKNOWN",
    "ActionMisalignment",
    "Detector",
    "HelplessOrHubris",
    "LatencyCreep",
    "PosteriorCollapse",
    "RewardHacking",
    "RolloutDrift",
    "SafetyBlindSpots",
    "Smell",
    "find_smells",
]
