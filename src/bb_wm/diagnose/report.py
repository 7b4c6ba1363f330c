"""Everything a diagnosis found, in one frozen object: saved as JSON, shown as tables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from bb_wm import durable
from bb_wm.diagnose.actions import Actions
from bb_wm.diagnose.asking import Asking
from bb_wm.diagnose.beliefs import Beliefs
from bb_wm.diagnose.calibration_curves import Curve, RiskCheck
from bb_wm.diagnose.codec import decode, encode
from bb_wm.diagnose.effort import Effort
from bb_wm.diagnose.estimates import Estimate
from bb_wm.diagnose.evaluation import Evaluation, number
from bb_wm.diagnose.horizon import Drift
from bb_wm.diagnose.latency import Latency
from bb_wm.diagnose.smells.smell import Smell
from bb_wm.diagnose.tables import Table
from bb_wm.diagnose.trusted import Trusted
from bb_wm.errors import DataError, VersionError

FORMAT: Final = 1
MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of a diagnosis; None where one was left out or had nothing to go by.

    `imagined_reward` and `delta_risk` are over `ahead` rows of imagination, the rest in the row.
    """

    beliefs: Beliefs
    drift: Drift
    reward: Curve
    imagined_reward: Curve
    risk: RiskCheck
    delta_risk: Curve
    ahead: int
    actions: Actions
    latency: Latency | None = None
    effort: Effort | None = None
    asking: Asking | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A diagnosis of one model on held-out episodes: the evaluation, what else was measured, and
    the smells, found ones first; `trusted` where it was fitted how far may be imagined."""

    evaluation: Evaluation
    measured: Measured
    smells: tuple[Smell, ...]
    updates: int | None = None
    seconds: float = field(default=0.0, compare=False)
    trusted: Trusted | None = None

    @property
    def found(self) -> tuple[Smell, ...]:
        """The smells that are there."""
        return tuple(smell for smell in self.smells if smell.found)

    def smell(self, name: str) -> Smell:
        """The smell of that name; KeyError lists the names."""
        for smell in self.smells:
            if smell.name == name:
                return smell
        raise KeyError(f"no smell {name!r}; there are {[smell.name for smell in self.smells]}")

    # --- keeping ---------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data; NaN and infinities as words."""
        return {
            "kind": "bb_wm report",
            "format": FORMAT,
            "updates": self.updates,
            "seconds": self.seconds,
            "evaluation": self.evaluation.to_json(),
            "measured": encode(self.measured),
            "smells": encode(self.smells),
            "trusted": encode(self.trusted),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; DataError names what does not fit, VersionError another format.

        Nothing is executed: types are those written here, names in the data choose nothing.
        """
        if not isinstance(data, Mapping) or data.get("kind") != "bb_wm report":
            raise DataError("report", expected="a bb_wm report", actual=str(data)[:60])
        if data.get("format") != FORMAT:
            raise VersionError("report.format", expected=FORMAT, actual=data.get("format"))
        try:
            updates, smells = data["updates"], data["smells"]
            trusted = data.get("trusted")  # reports of before have none
            if updates is not None and type(updates) is not int:
                raise DataError("report.updates", expected="a count", actual=repr(updates))
            return cls(
                evaluation=Evaluation.from_json(data["evaluation"]),
                measured=decode(Measured, data["measured"], "report.measured"),
                smells=tuple(
                    decode(Smell, one, f"report.smells[{i}]") for i, one in enumerate(smells)
                ),
                updates=updates,
                seconds=float(data["seconds"]),
                trusted=None if trusted is None else decode(Trusted, trusted, "report.trusted"),
            )
        except (KeyError, TypeError, AttributeError) as cause:
            raise DataError("report", expected="all its fields", actual=repr(cause)) from cause

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all; SaveError where that fails."""
        durable.write_file(Path(path), durable.dump_json(self.to_json(), "report"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; DataError on anything else."""
        raw = durable.read_file(path, error=DataError, field="report", max_bytes=MAX_BYTES)
        found = durable.load_json(raw, error=DataError, field="report", max_bytes=MAX_BYTES)
        return cls.from_json(found)

    # --- showing ---------------------------------------------------------------------------------

    def tables(self) -> list[Table]:
        """Smells first, then the evaluation's tables, then the rest of the measurements."""
        shown = (
            self._smells(),
            *self.evaluation.tables(),
            self._beliefs(),
            self._drift(),
            self._trusted(),
            self._calibration(),
            self._bins(),
            self._actions(),
            self._latency(),
            self._effort(),
            self._asking(),
        )
        return [table for table in shown if table is not None]

    def table(self, form: str = "text") -> str:
        """All tables as "text" or "markdown", verdict and found smells in sentences first."""
        if form not in ("text", "markdown"):
            raise DataError("form", expected='"text" or "markdown"', actual=form)
        parts = [
            table.markdown() if form == "markdown" else table.text() for table in self.tables()
        ]
        told = [smell.sentence() for smell in self.found] or ["No smell was found."]
        return "\n\n".join([self.evaluation.verdict(), *told, *parts])

    def __str__(self) -> str:
        return self.table()

    def _smells(self) -> Table:
        rows = tuple(
            (smell.name, smell.status, smell.severity if smell.found else "", smell.evidence)
            for smell in self.smells
        )
        return Table("Smells", ("", "status", "severity", "evidence"), rows)

    def _beliefs(self) -> Table:
        kept = self.measured.beliefs
        shares = " ".join(number(value) for value in kept.reconstruction)
        rows = [
            ("reconstruction error by row read (1: a constant)", shares),
            ("share of a first row that z tells", share(kept.use)),
        ]
        rows += _listed("KL by row read", kept.kl_by_row)
        rows += _listed("KL by rows imagined", kept.kl_by_horizon)
        rows += _listed("KL by variable of z", sorted(kept.kl_by_variable, reverse=True)[:16])
        title = "Belief: reconstruction and raw KL(posterior || prior) in nats"
        return Table(title, ("", ""), tuple(rows))

    def _drift(self) -> Table:
        drift = self.measured.drift
        steps = [k for k in self.evaluation.horizons if k <= len(drift.model)]
        lines = (("model", drift.model), ("persistence", drift.persistence))
        rows = [
            (name, *(number(values[k - 1]) for k in steps))
            for name, values in (*lines, ("best constant", drift.constant))
        ]
        better = (interval(drift.excess[k - 1]) for k in steps)
        rows.append(("model / the better of these", *better))
        title = "Rollout error, mean of 16 samples (squared; 1: a constant)"
        return Table(title, ("", *(f"k={k}" for k in steps)), tuple(rows))

    def _trusted(self) -> Table | None:
        kept = self.trusted
        if kept is None:
            return None
        rows = [("in words", kept.sentence())]
        if kept.promised:
            at_least = np.cumsum(kept.shares[::-1])[::-1][1:]
            rows += [(f"{k} or more", f"{share:.0%}") for k, share in enumerate(at_least, start=1)]
        return Table(
            "Rows ahead that may be trusted, share of held-out rows", ("", ""), tuple(rows)
        )

    def _calibration(self) -> Table:
        kept, k = self.measured, self.measured.ahead
        curves = (
            ("reward, in its row", kept.reward),
            (f"reward, {k} rows ahead", kept.imagined_reward),
            ("risk, in its row", kept.risk.curve),
            (f"Delta V_s over {k} rows", kept.delta_risk),
        )
        rows = tuple(
            (
                name,
                str(c.count),
                number(c.slope),
                interval(c.bias),
                number(c.rmse),
                number(c.spread),
            )
            for name, c in curves
        )
        header = ("", "rows", "slope", "mean error", "RMSE", "spread of the truth")
        return Table("Calibration (slope 1 and mean error 0 are right)", header, rows)

    def _bins(self) -> Table:
        bins = self.measured.risk.curve.bins
        rows = tuple((number(b.predicted), number(b.real), str(b.count)) for b in bins)
        hidden = share(self.measured.risk.hidden)
        title = f"Risk by predicted risk; share that came unpredicted in rows called safe: {hidden}"
        return Table(title, ("predicted", "received", "rows"), rows)

    def _actions(self) -> Table:
        kept = self.measured.actions
        rows = [
            ("shuffled", interval(kept.shuffled)),
            ("one row early", interval(kept.early)),
            ("one row late", interval(kept.late)),
        ]
        if kept.probe is not None:
            rows.append(("the rows themselves", f"{kept.probe.verdict} ({kept.probe.rows} rows)"))
        title = f"Error under other actions over that under the real ones, {kept.steps} steps"
        return Table(title, ("", ""), tuple(rows))

    def _latency(self) -> Table | None:
        kept = self.measured.latency
        if kept is None:
            return None
        batches = sorted({timing.batch for timing in kept.timings})
        steps = sorted({timing.horizon for timing in kept.timings})
        found = {(t.horizon, t.batch): number(t.fastest_ms) for t in kept.timings}
        rows = tuple((f"batch {b}", *(found.get((k, b), "-") for k in steps)) for b in batches)
        title = f"One rollout in ms; a step's price grows by {interval(kept.growth)}"
        return Table(title, ("", *(f"K={k}" for k in steps)), rows)

    def _effort(self) -> Table | None:
        kept = self.measured.effort
        if kept is None:
            return None
        rows = tuple(
            (f"{r.planner}, {r.candidates} candidates", number(r.imagined), number(r.replayed))
            for r in kept.rows
        )
        rows += (("share of the promise that did not come", share(kept.undelivered), ""),)
        title = f"Planning effort: return over {kept.horizon} rows, {kept.starts} starts"
        return Table(title, ("", "imagined", "replayed"), rows)

    def _asking(self) -> Table | None:
        kept = self.measured.asking
        if kept is None:
            return None
        rows = [("asked", f"in {kept.asked} of {kept.open} decisions with an ask at hand")]
        rows += [
            (
                f"EVSI, {one.method}, n {one.n}",
                f"estimated {number(one.mean_estimate)}, realised {number(one.mean_gain)} "
                f"(se {number(one.mean_gain_error)}), slope {number(one.slope)}",
            )
            for one in kept.calibration
        ]
        rows += [(f"alarm {alarm.name}", alarm.reason) for alarm in kept.alarms]
        return Table("Asking (ledger)", ("", ""), tuple(rows))


def interval(found: Estimate) -> str:
    """ "0.31 [0.28, 0.35]", or "-"."""
    if math.isnan(found.value):
        return "-"
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def share(found: Estimate) -> str:
    """A share and its interval; below 0 (more came than was said) it is 0."""
    if math.isnan(found.value):
        return "-"
    value, low, high = (number(max(x, 0.0)) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _listed(name: str, values: Any) -> list[tuple[str, str]]:
    known = [value for value in values if not math.isnan(value)]
    return [(name, " ".join(number(value) for value in values))] if known else []
