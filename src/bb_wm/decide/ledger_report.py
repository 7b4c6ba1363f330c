"""What a ledger says: counts, whether EVSI estimates come true, and alarms about asking.

Realised gain is the return after asking (its cost included) less the return without, so a right
EVSI has slope 1 and the same mean. It is read from decisions settled by lot, never from those the
gate chose itself: calls that were made because they looked good are no fair sample.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bb_wm.decide.ledger import Ledger
from bb_wm.decide.rule import RULE
from bb_wm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GainCalibration:
    """Estimated EVSI against realised gain: gain = intercept + slope * evsi.

    method      "paired" (the same state played both ways) or "lot" (different states, by chance)
    r2          of the paired line; NaN for lots, where single gains are not seen
    Errors are standard errors; NaN where n is too small.
    """

    method: str
    n: int
    mean_estimate: float
    mean_gain: float
    mean_gain_error: float
    slope: float
    slope_error: float
    intercept: float
    r2: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing a person should look at. `confirmed`: realised gains say so too; None: no such."""

    name: str
    value: float
    threshold: float
    n: int
    confirmed: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Thresholds of the alarms, over the newest `window` decisions with an ask to consider.

    helpless   asks at least this share of the time (95 % sure)
    hubris     asks at most this share of the time (95 % sure)
    least      decisions before any alarm is given
    slope_off  distance of the calibration slope from 1 that matters, if it is 3 errors away
    """

    window: int = 500
    least: int = 100
    helpless: float = 0.95
    hubris: float = 0.03
    slope_off: float = 0.25

    def __post_init__(self) -> None:
        if not (0 < self.least <= self.window):
            raise ConfigError("Watch.least", expected="in 1..window", actual=self.least)
        if not (0 <= self.hubris < self.helpless <= 1):
            raise ConfigError(
                "Watch.hubris", expected="0 <= hubris < helpless <= 1", actual=self.hubris
            )


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """Everything `bb-wm ledger` shows; `text` is it as lines for a terminal."""

    path: str
    counts: Mapping[str, int]
    withdrawn: int
    outcomes: int
    calibration: tuple[GainCalibration, ...]
    alarms: tuple[Alarm, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def text(self) -> str:
        told = ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "none"
        lines = [
            f"{self.path}",
            f"decisions: {told}; {self.withdrawn} withdrawn; {self.outcomes} with an outcome",
        ]
        lines += [_line(one) for one in self.calibration]
        lines += [f"ALARM {alarm.name}: {alarm.reason}" for alarm in self.alarms]
        lines += _table(self.rows)
        return "\n".join(lines)


def read_ledger(
    path: str | os.PathLike[str] | Ledger, *, limit: int = 20, watch: Watch | None = None
) -> LedgerReport:
    """The report of a ledger file (or of an open ledger), its newest `limit` decisions last."""
    if not isinstance(path, Ledger):
        with Ledger(path, create=False) as ledger:
            return read_ledger(ledger, limit=limit, watch=watch)
    found = path.select("SELECT verdict, count(*) FROM decisions GROUP BY verdict ORDER BY verdict")
    withdrawn = path.select("SELECT count(*) FROM decisions WHERE withdrawn IS NOT NULL")[0][0]
    lines = calibration(path)
    return LedgerReport(
        path=str(path.path),
        counts={row[0]: row[1] for row in found},
        withdrawn=withdrawn,
        outcomes=path.select("SELECT count(*) FROM outcomes")[0][0],
        calibration=lines,
        alarms=alarms(path, watch or Watch(), lines),
        rows=tuple(reversed(path.rows(limit))),
    )


def calibration(ledger: Ledger) -> tuple[GainCalibration, ...]:
    """One line per method that has at least two gains (paired) or two of each arm (lot)."""
    lines = []
    pairs = ledger.select(
        "SELECT a.evsi, oa.realised_return - os.realised_return FROM decisions a "
        "JOIN decisions s ON s.pair = a.pair AND s.forced = 'skip' "
        "JOIN outcomes oa ON oa.id = a.id JOIN outcomes os ON os.id = s.id "
        "WHERE a.forced = 'ask' AND a.evsi IS NOT NULL "
        "AND a.withdrawn IS NULL AND s.withdrawn IS NULL"
    )
    if len(pairs) >= 2:
        lines.append(paired_line(*np.asarray([tuple(row) for row in pairs], np.float64).T))
    lots = ledger.select(
        "SELECT d.evsi, o.realised_return, d.forced = 'ask' FROM decisions d "
        "JOIN outcomes o USING (id) WHERE d.forced IS NOT NULL AND d.pair IS NULL "
        "AND d.evsi IS NOT NULL AND d.withdrawn IS NULL"
    )
    if lots:
        evsi, value, asked = np.asarray([tuple(row) for row in lots], np.float64).T
        if min(asked.sum(), (1 - asked).sum()) >= 2:
            lines.append(lot_line(evsi, value, asked > 0))
    return tuple(lines)


def paired_line(estimate: np.ndarray, gain: np.ndarray) -> GainCalibration:
    """Least squares of n realised gains on their estimates."""
    slope, slope_error, intercept, r2 = _fit(estimate, gain)
    n = int(gain.size)
    return GainCalibration(
        method="paired",
        n=n,
        mean_estimate=float(estimate.mean()),
        mean_gain=float(gain.mean()),
        mean_gain_error=float(gain.std(ddof=1)) / math.sqrt(n),
        slope=slope,
        slope_error=slope_error,
        intercept=intercept,
        r2=r2,
    )


def lot_line(estimate: np.ndarray, value: np.ndarray, asked: np.ndarray) -> GainCalibration:
    """The arms' lines of return on estimate, subtracted: unbiased, for the lot is independent."""
    arms = [(estimate[mask], value[mask]) for mask in (asked, ~asked)]
    (s1, e1, i1, _), (s0, e0, i0, _) = (_fit(*arm) for arm in arms)
    spread = [float(v.var(ddof=1)) / v.size for _, v in arms]
    return GainCalibration(
        method="lot",
        n=int(value.size),
        mean_estimate=float(estimate.mean()),
        mean_gain=float(arms[0][1].mean() - arms[1][1].mean()),
        mean_gain_error=math.sqrt(sum(spread)),
        slope=s1 - s0,
        slope_error=math.hypot(e1, e0),
        intercept=i1 - i0,
        r2=math.nan,
    )


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """(slope, its standard error, intercept, R2) of the least-squares line."""
    dx, dy = x - x.mean(), y - y.mean()
    spread, about = float(dx @ dx), float(dy @ dy)
    if spread <= 1e-12 * max(1.0, float(x @ x)):
        return math.nan, math.nan, math.nan, math.nan
    slope = float(dx @ dy) / spread
    rest = max(0.0, about - slope * slope * spread)
    error = math.sqrt(rest / (x.size - 2) / spread) if x.size > 2 else math.nan
    r2 = 1 - rest / about if about > 0 else math.nan
    return slope, error, float(y.mean() - slope * x.mean()), r2


# --- alarms ---------------------------------------------------------------------------------------


def alarms(
    ledger: Ledger, watch: Watch, lines: Sequence[GainCalibration] | None = None
) -> tuple[Alarm, ...]:
    """Helplessness, hubris, deafness, miscalibration; empty when all is well or too little seen."""
    lines = calibration(ledger) if lines is None else lines
    own = _own_choices(ledger, watch.window)
    raised = [_miscalibrated(line, watch) for line in lines]
    if len(own) >= watch.least:
        asked = sum(row["verdict"] == "ASK" for row in own)
        raised += [_helpless(asked, len(own), watch, lines), _hubris(asked, len(own), watch, lines)]
        raised.append(_deaf(own))
    return tuple(alarm for alarm in raised if alarm is not None)


def _own_choices(ledger: Ledger, window: int) -> list[dict[str, Any]]:
    """Decisions where asking was really open: an ask at hand, no lot, no fault in the state."""
    found = ledger.select(
        "SELECT verdict, reasons, ask_info FROM decisions WHERE evsi IS NOT NULL "
        "AND forced IS NULL AND withdrawn IS NULL ORDER BY number DESC LIMIT ?",
        (window,),
    )
    faults = {condition.code for condition in RULE.state}
    return [dict(row) for row in found if not faults & set(json.loads(row["reasons"]))]


def share_bounds(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a share."""
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def _gain_sign(lines: Sequence[GainCalibration]) -> int:
    """+1: asking has paid, -1: it has not, 0: unknown; by the most precise line, 2 errors."""
    sure = [line for line in lines if abs(line.mean_gain) > 2 * line.mean_gain_error]
    if not sure:
        return 0
    best = min(sure, key=lambda line: line.mean_gain_error)
    return 1 if best.mean_gain > 0 else -1


def _helpless(asked: int, n: int, watch: Watch, lines: Sequence[GainCalibration]) -> Alarm | None:
    low, sign = share_bounds(asked, n)[0], _gain_sign(lines)
    if low < watch.helpless or sign > 0:
        return None
    tail = _tail(sign, -1, "asking by lot has cost more than it brought")
    return Alarm(
        "helpless",
        asked / n,
        watch.helpless,
        n,
        True if sign else None,
        f"it asked in {asked} of {n} decisions{tail}",
    )


def _hubris(asked: int, n: int, watch: Watch, lines: Sequence[GainCalibration]) -> Alarm | None:
    high, sign = share_bounds(asked, n)[1], _gain_sign(lines)
    if high > watch.hubris or sign < 0:
        return None
    tail = _tail(sign, 1, "asking by lot has paid")
    return Alarm(
        "hubris",
        asked / n,
        watch.hubris,
        n,
        True if sign else None,
        f"it asked in {asked} of {n} decisions{tail}",
    )


def _tail(sign: int, telling: int, told: str) -> str:
    if sign == telling:
        return f", and {told}"
    return "; nothing was asked by lot that could tell whether that is right"


def _deaf(own: list[dict[str, Any]]) -> Alarm | None:
    info = [abs(row["ask_info"]) for row in own if row["ask_info"] is not None]
    if not info or max(info) > 1e-9:
        return None
    return Alarm(
        "deaf",
        max(info),
        1e-9,
        len(info),
        None,
        f"no answer was thought to tell anything in {len(info)} decisions: has the posterior "
        "collapsed?",
    )


def _miscalibrated(line: GainCalibration, watch: Watch) -> Alarm | None:
    off = abs(line.slope - 1.0)
    if not (off > watch.slope_off and off > 3 * line.slope_error):
        return None
    way = "too large" if line.slope < 1 else "too small"
    return Alarm(
        "miscalibrated",
        line.slope,
        watch.slope_off,
        line.n,
        True,
        f"realised gains follow the estimates with slope {line.slope:.2f} (se "
        f"{line.slope_error:.2f}): differences of EVSI are estimated {way}",
    )


# --- lines for a terminal -------------------------------------------------------------------------


def _line(one: GainCalibration) -> str:
    r2 = "" if math.isnan(one.r2) else f", R2 {one.r2:.2f}"
    return (
        f"EVSI {one.method}, n {one.n}: estimated {one.mean_estimate:+.3g}, realised "
        f"{one.mean_gain:+.3g} (se {one.mean_gain_error:.2g}); slope {one.slope:.2f} (se "
        f"{one.slope_error:.2f}){r2}"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"{'id':<10}{'verdict':<8}{'choice':<14}{'gain':>9}{'EVSI':>9}{'return':>9}  reason"]
    for row in rows:
        figures = "".join(
            f"{'-' if row[name] is None else format(row[name], '.3g'):>9}"
            for name in ("gain", "evsi", "realised_return")
        )
        choice = _printable(row["choice"] or "-")[:13]
        reason = f"(withdrawn) {row['reason']}" if row["withdrawn"] else row["reason"]
        name, verdict = _printable(row["id"])[:8], row["verdict"]
        lines.append(f"{name:<10}{verdict:<8}{choice:<14}{figures}  {_printable(reason)}")
    return lines


def _printable(text: str) -> str:
    """Names come from outside: no escape sequence of theirs reaches the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
