"""Evidence about a machine's next action, from a learned model and, if wanted, a planner.

What is asked: if this action is done now and the fallback from then on, what follows, compared with
falling back at once? A proposal is allowed when a way out of it is left (the argument of a simplex
architecture, Sha 2001), with imagined rollouts in the place of a proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from bb_wm.decide.evidence import CandidateEvidence, Evidence, stage
from bb_wm.diagnose.calibration.ood import Trail
from bb_wm.errors import ConfigError, LatentError
from bb_wm.imagine.rollout import rollout
from bb_wm.imagine.utility import Utility, Worth
from bb_wm.protocols import Dynamics, draw_noise
from bb_wm.rssm import WorldModel
from bb_wm.serve.fallback import Fallback
from bb_wm.types import ActionSpec

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.plan import Plan
    from bb_wm.decide.planner import Planner
    from bb_wm.diagnose.calibration.risk import RiskCalibration
    from bb_wm.diagnose.calibration.trust import TrustedHorizon
    from bb_wm.types import Latent

PROPOSED = "proposed"
PLANNED = "planned"
FlatAction = np.ndarray


class Believer(Dynamics, Protocol):
    """Dynamics whose latents can be had from real observations; WorldModel answers it."""

    def encode(self, obs: Any, previous: Latent | None = None, action: Any = None) -> Latent:
        """The belief after seeing `obs`; `action` is what was done in previous's row."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """Evidence, and the flat action [A] that each of its candidates begins with."""

    evidence: Evidence
    actions: tuple[FlatAction, ...]


class EvidenceMaker(Protocol):
    """What a GatedEnv asks of whoever makes its evidence. It may raise: the gate then holds."""

    def begin(self) -> None:
        """A new episode, or rows were lost: forget what was seen."""
        ...

    def see(self, obs: Any, done: FlatAction | None) -> None:
        """One real row; `done` [A] is the action that led to it, None in the first one."""
        ...

    def judge(
        self, proposed: FlatAction | None, *, observed_at: float, deadline: float | None
    ) -> Judged:
        """Evidence about acting now; `proposed` [A] is the agent's own action, if it has one."""
        ...


class ModelEvidence:
    """Evidence from imagined rollouts of `model`, which answers `encode` and `Dynamics`.

    Candidates are the agent's proposal, done once or held (`after`: "fallback" or "repeat"), and
    the `planner`'s plan where there is one; `Evidence.hold_utility` is the worth of falling back at
    once. All share their luck; none is judged on the luck it was planned with.

    fallback    the action (the environment's own form) imagined for falling back; or, as GatedEnv
                takes it, a function obs -> action, asked about what the model expects to see
    bound       upper bound on the risk to go: a RiskCalibration fitted for this model and
                horizon, or a function risk -> bound, such as `Margin.bound`. Neither is optional:
                without a bound a gate holds for ever; `unbounded_trust` takes the estimate itself.
    horizon     rows imagined; the planner's own where there is one
    samples     rollouts per candidate; 1 follows the mode of a model without chance
    trust       how far each latent may be imagined; the gate holds where a candidate goes further
    least_rows  rows of this episode that must have been seen before the belief is trusted
    digest      says which model this is, where the gate pins one
    """

    def __init__(
        self,
        model: Believer,
        fallback: Any,
        *,
        bound: RiskCalibration | Callable[[float], float],
        utility: Utility | None = None,
        planner: Planner | None = None,
        action_spec: ActionSpec | None = None,
        horizon: int = 10,
        samples: int = 16,
        after: Literal["fallback", "repeat"] = "fallback",
        trust: TrustedHorizon | None = None,
        least_rows: int = 1,
        policy: str = "agent",
        digest: str | None = None,
        seed: int = 0,
    ) -> None:
        spec = action_spec if action_spec is not None else getattr(model, "action_spec", None)
        if not isinstance(spec, ActionSpec):
            raise ConfigError("action_spec", expected="an ActionSpec", actual=repr(spec))
        for name, value in (("horizon", horizon), ("samples", samples), ("least_rows", least_rows)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(name, expected="an int >= 1", actual=repr(value))
        if after not in ("fallback", "repeat"):
            raise ConfigError("after", expected="'fallback' or 'repeat'", actual=repr(after))
        self.model, self.action_spec, self.planner = model, spec, planner
        self.utility = Utility() if utility is None else utility
        self.horizon = horizon if planner is None else planner.horizon
        self.samples = samples if model.noise_size else 1
        self._fallback = Fallback(model, spec, fallback)
        self._bound, self._after, self._least = bound, after, least_rows
        self._trust = trust
        if trust is not None:
            if not isinstance(model, WorldModel):
                raise ConfigError("trust", expected="a WorldModel to look at", actual=repr(model))
            if trust.reach < self.horizon:
                raise ConfigError(
                    "horizon",
                    expected=f"at most {trust.reach}, what `trust` was fitted for",
                    actual=self.horizon,
                )
        fitted = getattr(bound, "horizons", None)
        if fitted is not None and self.horizon not in fitted:
            raise ConfigError(
                "horizon", expected=f"one that `bound` knows: {list(fitted)}", actual=self.horizon
            )
        self._policy, self._digest = policy, digest
        self._generator = torch.Generator().manual_seed(seed)
        self.begin()

    def begin(self) -> None:
        """Forget the episode."""
        self._latent: Latent | None = None
        self._plan: Plan | None = None
        self._rows = 0
        self._obs: Any = None
        self._strange: float | None = None
        self._trail = Trail()

    def see(self, obs: Any, done: FlatAction | None) -> None:
        """Go on with the belief. Raises what `encode` raises; the belief is then lost."""
        before, self._latent = self._latent, None
        if (before is None) != (done is None):
            raise ConfigError(
                "done", expected="an action for every row but the first", actual=repr(done)
            )
        if done is None:
            self.begin()
        action = None if done is None or before is None else torch.from_numpy(done).to(before.h)
        self._strange = self._strangeness(obs, before, action)
        with torch.no_grad():
            latent = self.model.encode(obs, before, action)
        if not bool(torch.isfinite(latent.h).all() & torch.isfinite(latent.z).all()):
            raise LatentError("belief", expected="finite numbers", actual="NaN or infinity")
        self._latent, self._obs = latent, obs
        self._rows += 1

    def judge(
        self, proposed: FlatAction | None, *, observed_at: float, deadline: float | None
    ) -> Judged:
        """The proposal and the plan as candidates. Raises where there is no belief to trust."""
        with stage("belief"):
            latent = self._trusted()
        names, sequences = [], []
        if proposed is not None:
            names.append(PROPOSED)
            sequences.append(self._continued(latent, proposed))
        if self.planner is not None:
            with stage("planning"):
                planned = self._planned(latent)
            if planned is not None:
                names.append(PLANNED)
                sequences.append(planned)
        elif proposed is None:
            raise ConfigError("action", expected="an action, or a planner", actual="neither")
        with stage("imagination"), torch.no_grad():
            # falling back at once is the last row: what the others' gain is counted from
            at_once = self._continued(latent, self._fallback.now(self._obs))
            actions = torch.stack([*sequences, at_once]).to(latent.h)
            worth = self._worth(latent, actions)
        with stage("bound"):
            risks, bounds = self._bounded(latent, actions[:-1], worth)
        candidates = tuple(
            CandidateEvidence(
                name,
                utility=_usable(worth, i, worth.utility),
                risk=risks[i],
                risk_bound=bounds[i],
                standard_error=_usable(worth, i, worth.standard_error),
            )
            for i, name in enumerate(names)
        )
        evidence = Evidence(
            candidates=candidates,
            hold_utility=_usable(worth, len(names), worth.utility),
            horizon=self.horizon,
            trusted_horizon=self._far(latent, actions[:-1]),
            observed_at=observed_at,
            policy=self._policy,
            ood=self._strange,
            deadline=deadline,
            model=self._digest,
        )
        return Judged(evidence, tuple(s[0].numpy().astype(np.float32) for s in sequences))

    def _far(self, latent: Latent, actions: Tensor) -> int | None:
        """Rows that all candidates [C, H, A] may be imagined; None where nobody says."""
        if self._trust is None or not len(actions):
            return None
        assert isinstance(self.model, WorldModel)
        with stage("trust"):
            alike = latent.expand(actions.shape[0]).flatten()
            return int(self._trust(self.model, alike, actions).min())

    def _trusted(self) -> Latent:
        if self._latent is None or self._rows < self._least:
            raise ConfigError(
                "belief", expected=f"{self._least} rows seen", actual=f"{self._rows} of them"
            )
        return self._latent

    def _continued(self, latent: Latent, action: FlatAction) -> Tensor:
        """[H, A]: the action, then what comes after it."""
        first = torch.from_numpy(np.asarray(action, np.float32).reshape(-1))
        if self._after == "repeat":
            return first.expand(self.horizon, -1)
        with torch.no_grad():
            return self._fallback.after(latent, first, self.horizon)

    def _planned(self, latent: Latent) -> Tensor | None:
        """The plan [H, A]; None where it found nothing sound."""
        assert self.planner is not None
        self._plan = self.planner.plan(
            self.model,
            latent,
            action_spec=self.action_spec,
            utility=self.utility,
            generator=self._generator,
            previous=self._plan,
        )
        return self._plan.actions.cpu().float() if bool(self._plan.valid) else None

    def _worth(self, latent: Latent, actions: Tensor) -> Worth:
        """Worth [C] of actions [C, H, A] under common luck."""
        count = actions.shape[0]
        start = latent.expand(count, self.samples)
        wide = actions[:, None].expand(count, self.samples, *actions.shape[1:])
        noise = None
        if self.model.noise_size:
            shape = (self.samples, self.horizon, self.model.noise_size)
            noise = draw_noise(shape, self._generator).to(latent.h)
            noise = noise.expand(count, *shape)
        return self.utility(rollout(self.model, start, wide, self.horizon, noise=noise))

    def _bounded(
        self, latent: Latent, actions: Tensor, worth: Worth
    ) -> tuple[list[float], list[float]]:
        """Risks and their bounds of the candidates [C]; NaN where the rollouts were not sound."""
        count = actions.shape[0]
        forecast = getattr(self._bound, "forecast", None)
        if forecast is not None:
            columns = forecast(self.model, latent, actions, generator=self._generator).columns()
            return columns["risks"], columns["risk_bounds"]
        assert callable(self._bound)
        risks = [_usable(worth, i, worth.risk) for i in range(count)]
        return risks, [float(self._bound(risk)) for risk in risks]

    def _strangeness(self, obs: Any, before: Latent | None, action: Any) -> float | None:
        score = getattr(self._bound, "ood", None)
        if score is None:
            return None
        told = score.score(self.model, obs, before, action, self._trail)
        return float(np.asarray(told).reshape(()))


def unbounded_trust(risk: float) -> float:
    """The estimate as its own bound: for trying out, and in shadow, before there is a calibration.

    Nothing is promised about how often the true risk lies above it.
    """
    return risk


def _usable(worth: Worth, index: int, values: Tensor) -> float:
    return float(values[index]) if bool(worth.usable[index]) else math.nan
