"""Risk that was checked: what a model foresees, corrected by what happened on held-out episodes.

`calibrate` fits a `RiskCalibration` offline; it is saved as sealed JSON beside the model it was
fitted for, and turns sampled rollouts into calibrated probabilities and bounds for `Evidence`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from bb_wm.diagnose.calibration.conformal import EVERYTHING, Claims, ConformalBound
from bb_wm.diagnose.calibration.drift import DriftMonitor
from bb_wm.diagnose.calibration.foresight import foresee
from bb_wm.diagnose.calibration.isotonic import Isotonic
from bb_wm.diagnose.calibration.ood import OODScore
from bb_wm.diagnose.calibration.sealed import check_model, read_sealed, write_sealed
from bb_wm.errors import BatchError, CheckpointError, DataError, HorizonError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Dynamics
    from bb_wm.types import Latent

Array = np.ndarray
FORMAT = 2  # 2: strangeness has a trend


@dataclass(frozen=True, slots=True)
class RiskForecast:
    """What is foreseen of plans [*batch] of K rows; every field [*batch], larger is worse.

    probability  calibrated P(a hazard within the K rows), in 0 .. 1
    risk         mean V_s to go over the K rows, units of V_s, not corrected
    scale        how far off `risk` may be by its own account, units of V_s, > 0
    bound        V_s to go stays below it in all but alpha of episodes; inf where none is known
    """

    probability: Array
    risk: Array
    scale: Array
    bound: Array

    def columns(self) -> dict[str, list[float]]:
        """risks and risk_bounds of the C candidates of one state, for `Evidence.of_arrays`."""
        if self.risk.ndim != 1:
            raise BatchError(
                "plans", expected="the C candidates of one state", actual=list(self.risk.shape)
            )
        return {"risks": self.risk.tolist(), "risk_bounds": self.bound.tolist()}


@dataclass(frozen=True, slots=True, eq=False)
class RiskCalibration:
    """Everything that is applied at decision time, for one model (`model` is its digest).

    horizons  rows k for which there is a table and a bound
    event     a row with risk above it is a hazard, units of V_s
    unit      V_s of one hazard on average, units of V_s
    peak      V_s to go is the worst row's rather than the sum's
    floor     least scale of a claim, units of V_s
    samples   sampled rollouts per plan
    tables    raw hazard within k -> calibrated probability
    bounds    on V_s to go over k rows, per group of episodes
    drift     watches the worst excess per episode at the longest horizon; None: too few episodes
    ood       strangeness of observations; None where the model offers no likelihood
    findings  sentences on what limits this calibration; read them
    """

    model: str
    horizons: tuple[int, ...]
    event: float
    unit: float
    peak: bool
    floor: float
    samples: int
    tables: Mapping[int, Isotonic]
    bounds: Mapping[int, ConformalBound]
    drift: Mapping[str, Any] | None
    ood: OODScore | None
    findings: tuple[str, ...]

    def forecast(
        self,
        model: Dynamics,
        latent: Latent,
        actions: Tensor,
        *,
        group: str = EVERYTHING,
        drifted: bool = False,
        generator: torch.Generator | None = None,
    ) -> RiskForecast:
        """Forecast of flat actions [*batch, K, A] or [*batch, C, K, A] from latents [*batch].

        K must be one of `horizons` (HorizonError). Candidates share their luck, and the luck is
        not the planner's: a plan chosen for its small risk is judged on fresh rollouts. With
        `drifted` (`DriftMonitor.alarmed`) every bound is infinite. Numbers that are not finite
        come out as NaN and an infinite bound, on which the gate holds.
        """
        lead = len(latent.batch_shape)
        if actions.ndim not in (lead + 2, lead + 3) or actions.shape[:lead] != latent.batch_shape:
            raise BatchError(
                "actions",
                expected=f"[*{list(latent.batch_shape)}, K, A], or one axis of candidates before K",
                actual=list(actions.shape),
            )
        if actions.ndim == lead + 3:
            latent = latent.expand(int(actions.shape[lead]))
        horizon = self._checked(int(actions.shape[-2]))
        if generator is None:
            generator = torch.Generator(latent.h.device).manual_seed(horizon)
        seen = foresee(
            model,
            latent,
            actions,
            samples=self.samples,
            unit=self.unit,
            peak=self.peak,
            generator=generator,
        )
        risk, scale = seen.risk[..., -1], seen.spread[..., -1] + self.floor
        bound = self.bounds[horizon].bound(risk, scale, group)
        return RiskForecast(
            probability=self.tables[horizon](seen.hazard[..., -1]),
            risk=risk,
            scale=scale,
            bound=np.full_like(bound, np.inf) if drifted else bound,
        )

    def monitor(self) -> DriftMonitor:
        """A fresh drift monitor; DataError where there were too few episodes for one."""
        if self.drift is None:
            raise DataError("drift", expected="a calibration with enough episodes", actual="none")
        return DriftMonitor.from_json(self.drift)

    def with_claims(
        self, claims: Claims, horizon: int, groups: Mapping[int, str] | None = None
    ) -> RiskCalibration:
        """The same, with bounds and drift monitor fitted on decisions of the deployed planner.

        `claims` hold risk and scale of each plan that was chosen (`RiskForecast`) and the V_s to
        go that followed, over `horizon` rows; `groups` names the group of each episode. Bounds for
        other horizons, which these claims say nothing of, become infinite.
        """
        old = self.bounds[self._checked(horizon)]
        episodes, scores = claims.worst_excess()
        labels = None if groups is None else [groups[int(n)] for n in episodes]
        none = ConformalBound(old.alpha, old.doubt, {}, {})
        fitted = ConformalBound.fit(scores, labels, alpha=old.alpha, doubt=old.doubt)
        return replace(
            self,
            bounds={k: fitted if k == horizon else none for k in self.horizons},
            drift=watch(scores),
        )

    def _checked(self, horizon: int) -> int:
        if horizon not in self.bounds:
            raise HorizonError(
                "horizon",
                expected=f"one of {list(self.horizons)}",
                actual=horizon,
                hint="calibrate(..., horizons=...) for the planner's own horizon.",
            )
        return horizon

    # --- keeping --------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "kind": "risk calibration",
            "format": FORMAT,
            "model": self.model,
            "horizons": list(self.horizons),
            "event": self.event,
            "unit": self.unit,
            "peak": self.peak,
            "floor": self.floor,
            "samples": self.samples,
            "tables": {str(k): table.to_json() for k, table in self.tables.items()},
            "bounds": {str(k): bound.to_json() for k, bound in self.bounds.items()},
            "drift": self.drift,
            "ood": None if self.ood is None else self.ood.to_json(),
            "findings": list(self.findings),
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` gave; CheckpointError when it is anything else."""
        try:
            if not isinstance(data, Mapping) or data["kind"] != "risk calibration":
                raise TypeError("not a risk calibration")
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this version reads {FORMAT}")
            horizons = tuple(data["horizons"])
            numbers = [float(data[name]) for name in ("event", "unit", "floor")]
            sound = all(type(n) is int and n > 0 for n in (*horizons, data["samples"]))
            sound = sound and horizons == tuple(sorted(set(horizons))) and len(horizons) > 0
            sound = sound and all(map(math.isfinite, numbers)) and min(numbers[1:]) > 0
            if not (sound and type(data["peak"]) is bool and isinstance(data["model"], str)):
                raise ValueError("its numbers contradict each other")
            if data["drift"] is not None:
                DriftMonitor.from_json(data["drift"])
            return cls(
                model=data["model"],
                horizons=horizons,
                event=numbers[0],
                unit=numbers[1],
                floor=numbers[2],
                peak=data["peak"],
                samples=data["samples"],
                tables={k: Isotonic.from_json(data["tables"][str(k)]) for k in horizons},
                bounds={k: ConformalBound.from_json(data["bounds"][str(k)]) for k in horizons},
                drift=data["drift"],
                ood=None if data["ood"] is None else OODScore.from_json(data["ood"]),
                findings=tuple(str(line) for line in data["findings"]),
            )
        except CheckpointError:
            raise
        except (TypeError, ValueError, KeyError) as cause:
            raise CheckpointError(
                "RiskCalibration", expected="a calibration as it was written", actual=cause
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """One sealed JSON file, written atomically. Put it beside the model's folder, not in it."""
        write_sealed(path, self.to_json(), "calibration")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Dynamics) -> Self:
        """A saved calibration, for the very model it was fitted for; CheckpointError otherwise."""
        found = cls.from_json(read_sealed(path, "calibration"))
        check_model(found.model, model)
        return found


def watch(scores: Array) -> dict[str, Any] | None:
    """A drift monitor on these scores as plain JSON; None where they are too few."""
    try:
        return DriftMonitor.fit(scores).to_json()
    except DataError:
        return None
