"""What the ledger says of asking: estimates against realised gains, and the alarms."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bb_wm.decide.ledger import Ledger
from bb_wm.decide.ledger_report import Alarm, GainCalibration, Watch, read_ledger


@dataclass(frozen=True, slots=True)
class Asking:
    """EVSI in a ledger. `open` decisions had something to ask and were not settled by lot; `least`
    of them are needed before an alarm; `calibration` holds a line per way of settling by lot."""

    decisions: int
    open: int
    asked: int
    outcomes: int
    least: int
    calibration: tuple[GainCalibration, ...]
    alarms: tuple[Alarm, ...]


def measure_asking(path: str | os.PathLike[str] | Ledger, *, watch: Watch | None = None) -> Asking:
    """Read a ledger file, or an open ledger. Raises PathError where there is none."""
    watch = Watch() if watch is None else watch
    if not isinstance(path, Ledger):
        with Ledger(path, create=False) as ledger:
            return measure_asking(ledger, watch=watch)
    report = read_ledger(path, limit=1, watch=watch)
    own = "FROM decisions WHERE evsi IS NOT NULL AND forced IS NULL AND withdrawn IS NULL"
    count, asked = path.select(f"SELECT count(*), sum(verdict = 'ASK') {own}")[0]
    return Asking(
        decisions=sum(report.counts.values()),
        open=int(count),
        asked=int(asked or 0),
        outcomes=report.outcomes,
        least=watch.least,
        calibration=report.calibration,
        alarms=report.alarms,
    )
