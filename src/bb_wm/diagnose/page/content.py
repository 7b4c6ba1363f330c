"""What a page shows. Everything is optional but the title: a page can be made before a verdict."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.decide.ledger_report import LedgerReport
    from bb_wm.diagnose.page.curves import Curve
    from bb_wm.diagnose.report import Report
    from bb_wm.diagnose.traces import Traces


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of one page.

    report      the diagnosis; None while there is no checkpoint to diagnose
    traces      held-out windows, real beside imagined
    curves      training curves by name (`curves.read_curves`)
    ledger      decisions made with the model, and whether their estimates came true
    promotions  recorded verdicts on this model, as `PromotionLog` keeps them, oldest first
    config, provenance  shown as they are
    progress    one line while training goes on; "" else
    """

    title: str
    report: Report | None = None
    traces: Traces | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    ledger: LedgerReport | None = None
    promotions: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    progress: str = ""


def describe_software() -> dict[str, object]:
    """Versions and kind of machine, without names of hosts, users or folders."""
    import numpy
    import torch

    import bb_wm

    return {
        "bb_wm": bb_wm.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch threads": torch.get_num_threads(),
        "float32 products": torch.get_float32_matmul_precision(),
    }
