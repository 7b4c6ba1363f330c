"""What imagined trajectories are worth: discounted return minus weighted risk, under hard limits.

Utility reads trajectories whose last batch axis holds sampled rollouts of one candidate:
[*batch, N] axes of K rows become a Worth [*batch]. Return is better when larger, risk (V_s) is
worse when larger, everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from bb_wm.errors import BatchError, ConfigError
from bb_wm.imagine.risk import Mean, RiskMeasure, rollout_weights

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.types import Latent, Trajectory

LARGEST_NEGATIVE_RISK = -1e-4  # V_s >= 0 by definition; below this the head is broken, not rounded


@dataclass(frozen=True, slots=True)
class Limit:
    """A hard limit on risk: at most `bound` of V_s to go; NaN is never allowed.

    `scope` matters once an answer is read before acting. "outcome": after every answer, the chosen
    candidate's risk must be within the bound (default, for actuation; information may then be
    worth less than nothing). "ex_ante": one budget for the whole rule, the average over answers
    must be within it. A plan made without reading anything has one outcome, so the two agree.
    """

    bound: float
    scope: Literal["outcome", "ex_ante"] = "outcome"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise ConfigError("Limit.bound", expected="a finite number >= 0", actual=self.bound)
        if self.scope not in ("outcome", "ex_ante"):
            raise ConfigError(
                "Limit.scope", expected="'outcome' or 'ex_ante'", actual=repr(self.scope)
            )

    def allows(self, risk: Tensor, weights: Tensor | None = None) -> Tensor:
        """Whether risk [*batch, O] over outcomes O is within the bound; bool [*batch].

        `weights` [*batch, O] are the outcomes' probabilities, equal when None; outcomes of
        probability 0 do not count.
        """
        if weights is None:
            weights = torch.full_like(risk, 1.0 / risk.shape[-1])
        if self.scope == "ex_ante":
            return (weights * risk).sum(-1) <= self.bound
        return ((risk <= self.bound) | (weights == 0)).all(-1)


@dataclass(frozen=True, slots=True)
class Worth:
    """What one candidate is worth, every tensor [*batch].

    return_         mean discounted return, larger is better
    risk            the risk measure of V_s to go over the rollouts, larger is worse
    utility         return_ - risk_weight * risk, larger is better
    spread          standard deviation of utility over single rollouts (0 for one rollout)
    standard_error  of `utility`, from the spread and the effective number of rollouts
    usable          every number finite and V_s not negative; what is not usable is never chosen
    allowed         usable, and risk within the hard limit where there is one
    """

    return_: Tensor
    risk: Tensor
    utility: Tensor
    spread: Tensor
    standard_error: Tensor
    usable: Tensor
    allowed: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Worth:
        """The same worth with `change` applied to every tensor."""
        return Worth(
            return_=change(self.return_),
            risk=change(self.risk),
            utility=change(self.utility),
            spread=change(self.spread),
            standard_error=change(self.standard_error),
            usable=change(self.usable),
            allowed=change(self.allowed),
        )

    def __getitem__(self, index: object) -> Worth:
        return self.map(lambda t: t[index])  # type: ignore[index]

    def gather(self, index: Tensor) -> Worth:
        """The candidates `index` [*batch, M] out of the last axis [*batch, C]."""
        return self.map(lambda t: t.gather(-1, index))

    def minus(self, price: Tensor) -> Worth:
        """The same with a price [*batch] off its utility; not usable where that is no number."""
        sound = torch.isfinite(price)
        return replace(
            self,
            utility=self.utility - price,
            usable=self.usable & sound,
            allowed=self.allowed & sound,
        )

    def delta_risk(self, other: Worth | None = None) -> Tensor:
        """Delta V_s: this risk minus `other`'s, minus abstaining's 0 when None; > 0 is worse."""
        return self.risk if other is None else self.risk - other.risk

    @staticmethod
    def concatenate(parts: list[Worth]) -> Worth:
        """Candidates put side by side: [*batch, C_i] -> [*batch, sum C_i]."""

        def join(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts], dim=-1)

        return Worth(**{name: join(name) for name in Worth.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Utility:
    """U = G - risk_weight * rho(V), with an optional hard limit on rho(V).

    G = sum_k gamma^k reach_k r_k  (+ gamma^K reach_K v(s_K) with a `terminal` value v, where
    reach_K counts the last continuation too) and V = sum_k gamma_s^k reach_k V_s(s_k), the V_s to
    go, or max_k reach_k V_s(s_k) with over_time="peak". reach_k = Trajectory.discount. rho is the
    risk measure over rollouts. gamma_s is `risk_discount`, 1 by default: a hazard later is as bad.

    `abstain` is the utility of doing nothing, with V_s = 0, where that is a choice.
    """

    discount: float = 0.99
    risk_weight: float = 0.0
    risk: RiskMeasure = field(default_factory=Mean)
    limit: Limit | None = None
    terminal: Callable[[Latent], Tensor] | None = None
    abstain: float | None = None
    over_time: Literal["sum", "peak"] = "sum"
    risk_discount: float = 1.0

    def __post_init__(self) -> None:
        for name in ("discount", "risk_discount"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"Utility.{name}", expected="within [0, 1]", actual=value)
        if not (math.isfinite(self.risk_weight) and self.risk_weight >= 0):
            raise ConfigError(
                "Utility.risk_weight",
                expected="a finite number >= 0",
                actual=self.risk_weight,
                hint="risk is worse when larger; a negative weight would seek it.",
            )
        if not isinstance(self.risk, RiskMeasure):
            raise ConfigError(
                "Utility.risk", expected="Mean(), CVaR(tail) or Worst()", actual=repr(self.risk)
            )
        if self.limit is not None and not isinstance(self.limit, Limit):
            raise ConfigError(
                "Utility.limit", expected="Limit(bound) or None", actual=repr(self.limit)
            )
        if self.abstain is not None and not math.isfinite(self.abstain):
            raise ConfigError("Utility.abstain", expected="finite or None", actual=self.abstain)
        if self.over_time not in ("sum", "peak"):
            raise ConfigError(
                "Utility.over_time", expected="'sum' or 'peak'", actual=repr(self.over_time)
            )

    def returns(self, trajectory: Trajectory) -> Tensor:
        """G [*batch] of every single rollout."""
        gammas = _powers(self.discount, trajectory.reward)
        value = (trajectory.reward * trajectory.discount * gammas).sum(-1)
        if self.terminal is None:
            return value
        reach = trajectory.discount[..., -1] * trajectory.continuation[..., -1]
        last = trajectory.latents.map(lambda t: t.select(len(reach.shape), -1))
        beyond = self.terminal(last)
        if beyond.shape != reach.shape:
            raise BatchError(
                "Utility.terminal", expected=list(reach.shape), actual=list(beyond.shape)
            )
        return value + self.discount**trajectory.horizon * reach * beyond

    def risks(self, trajectory: Trajectory) -> Tensor:
        """V_s to go [*batch] of every single rollout, larger is worse."""
        met = trajectory.safety * trajectory.discount
        if self.over_time == "peak":
            return met.amax(-1)
        return (met * _powers(self.risk_discount, met)).sum(-1)

    def __call__(self, trajectory: Trajectory, *, log_weights: Tensor | None = None) -> Worth:
        """Worth [*batch] of rollouts [*batch, N]; log_weights [*batch, N] when not equal."""
        if trajectory.reward.dim() < 2:
            raise BatchError(
                "trajectory",
                expected="[*batch, N, K] with an axis of N rollouts",
                actual=list(trajectory.reward.shape),
                hint="unsqueeze one rollout to [1, K].",
            )
        returns, risks = self.returns(trajectory), self.risks(trajectory)
        weights = rollout_weights(returns, log_weights)
        return self.worth(returns, risks, weights)

    def worth(self, returns: Tensor, risks: Tensor, weights: Tensor) -> Worth:
        """Worth [*batch] of G and V [*batch, N] under weights [*batch, N] that sum to 1."""
        return_ = (weights * returns).sum(-1)
        shares = self.risk.contributions(risks, weights)
        risk = (weights * shares).sum(-1)
        utility = return_ - self.risk_weight * risk
        single = returns - self.risk_weight * shares
        variance = (weights * (single - utility[..., None]).square()).sum(-1)
        effective = 1.0 / weights.square().sum(-1)
        # Bessel's factor for weights: 1 / (1 - sum w^2); one rollout has no spread to show.
        bessel = torch.where(effective > 1, effective / (effective - 1).clamp_min(1e-6), 0.0)
        spread = (variance * bessel).clamp_min(0).sqrt()
        error = spread / effective.sqrt()
        whole = torch.isfinite(torch.stack([return_, risk, utility, spread, error])).all(0)
        usable = whole & (risks >= LARGEST_NEGATIVE_RISK).all(-1)
        usable = usable & torch.isfinite(returns).all(-1)
        allowed = usable if self.limit is None else usable & self.limit.allows(risk[..., None])
        return Worth(return_, risk, utility, spread, error, usable, allowed)

    def abstaining(self, like: Tensor) -> Worth:
        """The worth of doing nothing, shaped like `like`: V_s = 0, utility `abstain` (or 0)."""
        zero, yes = torch.zeros_like(like), torch.ones_like(like, dtype=torch.bool)
        value = torch.full_like(like, self.abstain or 0.0)
        return Worth(value, zero, value, zero, zero, yes, yes)


def risk_drift(trajectory: Trajectory, start_risk: Tensor) -> Tensor:
    """Delta V_s relative to the start: E[V_s where the path ends] - V_s(start), [*batch].

    The path ends at row k with probability reach_k (1 - continue_k), at the last row otherwise;
    `start_risk` [*batch] is predict_safety of the start. > 0: the world is left in more danger.
    """
    stop = trajectory.discount * (1 - trajectory.continuation)
    ends = torch.cat([stop[..., :-1], trajectory.discount[..., -1:]], dim=-1)
    return (ends * trajectory.safety).sum(-1) - start_risk


def _powers(gamma: float, like: Tensor) -> Tensor:
    steps = torch.arange(like.shape[-1], dtype=like.dtype, device=like.device)
    return torch.full_like(steps, gamma) ** steps
