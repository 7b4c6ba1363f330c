"""Risk that can be believed: predicted risk against what happened, fitted offline, applied online.

Everything here is fitted on held-out episodes and saved beside the model as plain JSON. What is
applied before an actuator is a table or a threshold; it needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.diagnose.calibration.isotonic import Isotonic

_HOME_OF = {"Isotonic": "isotonic"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


__all__ = ["Isotonic"]
