"""Risk that can be believed: predicted risk against what happened, fitted offline, applied online.

Offline, on held-out episodes of the deployed policy:

    calibration = calibrate(model, episodes, horizons=(1, 5, 10), alpha=0.05)
    calibration.save("run/calibration.json")

Online, for the candidates `plans` [C, K, A] of one state:

    told = calibration.forecast(model, latent, plans, drifted=monitor.alarmed)
    strange = calibration.ood.score(model, obs, previous, action, trail)  # a Trail() per episode
    Evidence.of_arrays(utilities=..., ood=strange, **told.columns(), ...)

Tables, bounds and the drift monitor need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.diagnose.calibration.conformal import Claims as Claims
    from bb_wm.diagnose.calibration.conformal import ConformalBound as ConformalBound
    from bb_wm.diagnose.calibration.drift import DriftMonitor as DriftMonitor
    from bb_wm.diagnose.calibration.fitting import calibrate as calibrate
    from bb_wm.diagnose.calibration.fitting import claims_of as claims_of
    from bb_wm.diagnose.calibration.foresight import Foresight as Foresight
    from bb_wm.diagnose.calibration.foresight import foresee_episodes as foresee_episodes
    from bb_wm.diagnose.calibration.isotonic import Isotonic as Isotonic
    from bb_wm.diagnose.calibration.measures import calibration_error as calibration_error
    from bb_wm.diagnose.calibration.measures import recall_at as recall_at
    from bb_wm.diagnose.calibration.ood import OODScore as OODScore
    from bb_wm.diagnose.calibration.ood import Trail as Trail
    from bb_wm.diagnose.calibration.outlook import Outlook as Outlook
    from bb_wm.diagnose.calibration.risk import RiskCalibration as RiskCalibration
    from bb_wm.diagnose.calibration.risk import RiskForecast as RiskForecast
    from bb_wm.diagnose.calibration.trust import TrustedHorizon as TrustedHorizon

_HOMES = {
    "conformal": ("Claims", "ConformalBound"),
    "drift": ("DriftMonitor",),
    "fitting": ("calibrate", "claims_of"),
    "foresight": ("Foresight", "foresee_episodes"),
    "isotonic": ("Isotonic",),
    "measures": ("calibration_error", "recall_at"),
    "ood": ("OODScore", "Trail"),
    "outlook": ("Outlook",),
    "risk": ("RiskCalibration", "RiskForecast"),
    "trust": ("TrustedHorizon",),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
