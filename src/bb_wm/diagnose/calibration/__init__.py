"""Risk that can be believed: predicted risk against what happened, fitted offline, applied online.

Offline, on held-out episodes of the deployed policy:

    calibration = calibrate(model, episodes, horizons=(1, 5, 10), alpha=0.05)
    calibration.save("run/calibration.json")

Online, for the candidates `plans` [C, K, A] of one state:

    told = calibration.forecast(model, latent, plans, drifted=monitor.alarmed)
    strange = calibration.ood.score(model, obs, previous, action)
    Evidence.of_arrays(utilities=..., ood=strange, **told.columns(), ...)

Tables, bounds and the drift monitor need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.diagnose.calibration.conformal import Claims, ConformalBound
    from bb_wm.diagnose.calibration.drift import DriftMonitor
    from bb_wm.diagnose.calibration.fitting import calibrate, claims_of
    from bb_wm.diagnose.calibration.foresight import Foresight, foresee_episodes
    from bb_wm.diagnose.calibration.isotonic import Isotonic
    from bb_wm.diagnose.calibration.measures import calibration_error, recall_at
    from bb_wm.diagnose.calibration.ood import OODScore
    from bb_wm.diagnose.calibration.outlook import Outlook
    from bb_wm.diagnose.calibration.risk import RiskCalibration, RiskForecast
    from bb_wm.diagnose.calibration.trust import TrustedHorizon

_HOMES = {
    "conformal": ("Claims", "ConformalBound"),
    "drift": ("DriftMonitor",),
    "fitting": ("calibrate", "claims_of"),
    "foresight": ("Foresight", "foresee_episodes"),
    "isotonic": ("Isotonic",),
    "measures": ("calibration_error", "recall_at"),
    "ood": ("OODScore",),
    "outlook": ("Outlook",),
    "risk": ("RiskCalibration", "RiskForecast"),
    "trust": ("TrustedHorizon",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


__all__ = [
    "Claims",
    "ConformalBound",
    "DriftMonitor",
    "Foresight",
    "Isotonic",
    "OODScore",
    "Outlook",
    "RiskCalibration",
    "RiskForecast",
    "TrustedHorizon",
    "calibrate",
    "calibration_error",
    "claims_of",
    "foresee_episodes",
    "recall_at",
]
