"""EVSI: the expected value of asking, of any Observer, of one ask or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, overload

import torch

from bb_wm.decide.evsi.ask import Ask, Candidates
from bb_wm.decide.evsi.bounds import ceiling
from bb_wm.decide.evsi.criteria import (
    Criterion,
    ExpectedUtility,
    LimitedRisk,
    TailRisk,
)
from bb_wm.decide.evsi.estimate import Estimate, Estimator, choose_estimator
from bb_wm.decide.evsi.result import (
    ASK,
    DO_NOT_ASK,
    UNDECIDED,
    EVSIResult,
    Ranking,
    opportunity_loss,
    refusal,
)
from bb_wm.decide.evsi.samples import JointSamples
from bb_wm.decide.evsi.sampling import Plan, draw_particles, is_dead, prepare, samples_of
from bb_wm.decide.evsi.several import select_honestly
from bb_wm.decide.evsi.tower import check_tower
from bb_wm.decide.evsi.worths import count_candidates, horizon_of
from bb_wm.errors import BatchError, ConfigError, RangeError
from bb_wm.imagine.risk import CVaR, Mean
from bb_wm.imagine.utility import Utility

if TYPE_CHECKING:
    from bb_wm.protocols import Observer

_FEWEST = 16  # worlds below which nothing honest can be said of a belief that is sampled


@dataclass(frozen=True, slots=True)
class EVSI:
    """info + effect - cost of asking (`bb_wm.decide.evsi.ask` has the definitions).

    utility      how trajectories are valued; its limit, tail and weight of risk are respected
    particles    N worlds drawn from the belief; `answers` R of them imagined per world
    first_stage  start with so many worlds and double while the decision is open and the expected
                 opportunity loss exceeds `compute_price` (units of utility); None takes all at once
    estimator    None: sums over answers where the ask lists them, regression otherwise
    criterion    None: from `utility`
    reading      "posterior": the agent chooses on statistics of q(. | h', o'); "answer": on o'
    tower        re-imagine worths after reading, to check that q is honest on average (+ N x C
                 rollouts); a failed check sets `tower_alarm`
    """

    utility: Utility = field(default_factory=Utility)
    particles: int = 256
    answers: int = 8
    first_stage: int | None = None
    horizon: int | None = None
    estimator: Estimator | None = None
    criterion: Criterion | None = None
    compute_price: float = 0.0
    reading: Literal["posterior", "answer"] = "posterior"
    tower: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("particles", "answers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"EVSI.{name}", expected=">= 1", actual=getattr(self, name))
        if self.first_stage is not None and self.first_stage < _FEWEST:
            raise ConfigError("EVSI.first_stage", expected=f">= {_FEWEST}", actual=self.first_stage)
        if not self.compute_price >= 0:
            raise ConfigError("EVSI.compute_price", expected=">= 0", actual=self.compute_price)
        if self.reading not in ("posterior", "answer"):
            raise ConfigError(
                "EVSI.reading", expected="'posterior' or 'answer'", actual=self.reading
            )

    @overload
    def __call__(
        self,
        model: Observer,
        belief: object,
        asks: Ask,
        candidates: Candidates,
        cost: float | None = None,
        *,
        before: Candidates | None = None,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> EVSIResult: ...

    @overload
    def __call__(
        self,
        model: Observer,
        belief: object,
        asks: Sequence[Ask],
        candidates: Candidates,
        cost: float | None = None,
        *,
        before: Candidates | None = None,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> Ranking: ...

    def __call__(
        self,
        model: Observer,
        belief: object,
        asks: Ask | Sequence[Ask],
        candidates: Candidates,
        cost: float | None = None,
        *,
        before: Candidates | None = None,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> EVSIResult | Ranking:
        """The EVSI of one ask, or of several on shared worlds and rollouts.

        `belief` is a Belief, latents [N], (latents [N], weights [N]), or one latent whose only
        uncertainty is what the call's step draws. `exact`: those latents are the whole belief.
        `before` are candidates for acting now where they differ from those after the answer.
        `cost` overrides the asks' own. Numbers that are not finite never raise: the result says
        "refused: why". Settings that make no sense raise ConfigError.
        """
        single = isinstance(asks, Ask)
        listed = [asks] if isinstance(asks, Ask) else list(asks)
        if cost is not None:
            listed = [replace(ask, cost=cost) for ask in listed]
        if not listed or len({ask.name for ask in listed}) != len(listed):
            raise ConfigError(
                "asks", expected="one or more of different names", actual=[a.name for a in listed]
            )
        count_candidates(candidates)
        if generator is None:
            generator = torch.Generator().manual_seed(self.seed)
        plan = self._plan(candidates, before)
        with torch.no_grad():
            found = self._stages(model, belief, listed, plan, exact, generator)
        if single:
            return found[0][0]
        return select_honestly(found)

    def estimate(
        self, samples: JointSamples, cost: float = 0.0, *, name: str = "ask", calls: int = 1
    ) -> EVSIResult:
        """The EVSI of joint samples of your own making; raises BatchError where they are broken."""
        return self._judge(samples.validated(), Ask(name, cost=cost / calls, calls=calls))[0]

    def rank(self, problems: Mapping[str, tuple[JointSamples, float]]) -> Ranking:
        """Several asks (samples, cost) made of the same worlds, best net first."""
        return select_honestly(
            [
                self._judge(samples.validated(), Ask(name, cost=cost))
                for name, (samples, cost) in problems.items()
            ]
        )

    def _plan(self, candidates: Candidates, before: Candidates | None) -> Plan:
        return Plan(
            candidates=candidates,
            before=before,
            utility=self.utility,
            horizon=horizon_of(candidates, self.horizon),
            answers=self.answers,
            reading=self.reading,
            tower=self.tower,
            criterion=self.criterion or criterion_of(self.utility),
        )

    def _stages(
        self,
        model: Observer,
        belief: object,
        asks: list[Ask],
        plan: Plan,
        exact: bool,
        generator: torch.Generator,
    ) -> list[tuple[EVSIResult, Estimate | None]]:
        """Sample, judge, and go on while it pays; all asks stop together."""
        if is_dead(belief):
            why = "the belief holds no usable particle"
            return [(refusal(a.name, why, cost=a.price, calls=a.calls), None) for a in asks]
        size = None if exact else (self.first_stage or self.particles)
        parts: list[list[JointSamples]] = [[] for _ in asks]
        total = 0
        while True:
            particles = draw_particles(belief, size, generator, exact=exact)
            why = _hopeless(model, particles.single, particles.exact, asks)
            if why:
                return [(refusal(a.name, why, cost=a.price, calls=a.calls), None) for a in asks]
            longest = max(ask.calls for ask in asks)
            rows = max(plan.horizon, longest)
            stage = prepare(model, particles, plan, rows, generator)
            for ask, mine in zip(asks, parts, strict=True):
                mine.append(samples_of(model, stage, ask, plan, generator))
            total += particles.count
            found = [
                self._judge_safely(JointSamples.concatenate(mine), ask)
                for ask, mine in zip(asks, parts, strict=True)
            ]
            if size is None or total >= self.particles or self._settled(found):
                return found
            size = min(total, self.particles - total)

    def _settled(self, found: list[tuple[EVSIResult, Estimate | None]]) -> bool:
        return all(
            result.refused
            or result.status != UNDECIDED
            or result.opportunity_loss <= self.compute_price
            for result, _ in found
        )

    def _judge_safely(self, samples: JointSamples, ask: Ask) -> tuple[EVSIResult, Estimate | None]:
        try:
            return self._judge(samples.validated(), ask)
        except (BatchError, RangeError) as error:
            why = f"{error.field} is {error.actual}"
            return refusal(ask.name, why, cost=ask.price, calls=ask.calls), None

    def _judge(self, samples: JointSamples, ask: Ask) -> tuple[EVSIResult, Estimate | None]:
        """The result of validated samples."""
        criterion = self.criterion or criterion_of(self.utility)
        if isinstance(criterion, LimitedRisk) and samples.call_risk is not None:
            danger = float((samples.probability() * samples.call_risk).sum())
            if danger > criterion.limit.bound:
                why = f"the call itself risks {danger:.4g} > limit {criterion.limit.bound:.4g}"
                return refusal(ask.name, why, cost=ask.price, calls=ask.calls), None
        if not samples.exact and samples.effective_size() < _FEWEST:
            why = f"{samples.effective_size():.1f} effective worlds, {_FEWEST} needed"
            return refusal(ask.name, why, cost=ask.price, calls=ask.calls), None
        method = self.estimator or choose_estimator(samples)
        estimate = method(samples, criterion, validated=True)
        most = ceiling(
            criterion,
            samples.utility,
            samples.risk,
            samples.before,
            samples.before_risk,
            samples.probability(),
        )
        return _result(estimate, samples, ask, most - ask.price), estimate


def criterion_of(utility: Utility) -> Criterion:
    """The criterion a Utility stands for."""
    plain = isinstance(utility.risk, Mean)
    if utility.limit is not None:
        if not plain:
            raise ConfigError(
                "Utility.risk", expected="Mean() with a limit in EVSI", actual=utility.risk
            )
        return LimitedRisk(utility.limit, utility.risk_weight, abstain=utility.abstain or 0.0)
    if plain:
        return ExpectedUtility(utility.risk_weight)
    if isinstance(utility.risk, CVaR):
        return TailRisk(utility.risk_weight, utility.risk.tail)
    raise ConfigError(
        "Utility.risk",
        expected="Mean() or CVaR(tail) in EVSI",
        actual=utility.risk,
        hint="the worst case of a sample is no average over answers; use CVaR with a small tail.",
    )


def _hopeless(model: Observer, single: bool, exact: bool, asks: list[Ask]) -> str:
    still = any(ask.action is None for ask in asks) or model.noise_size == 0
    if single and still and not exact:
        return "one latent holds no uncertainty to resolve; pass a belief"
    return ""


def _result(estimate: Estimate, samples: JointSamples, ask: Ask, most: float) -> EVSIResult:
    net = estimate.gain - ask.price
    lower, upper = estimate.lower - ask.price, estimate.upper - ask.price
    if not samples.exact:
        # No answer is worth more than the truth; where that is too little, answers need no look.
        upper = max(net, min(upper, most))
    tower = check_tower(samples)
    size = samples.effective_size()
    # The half-width of the interval knows of near ties that the score's own error does not.
    error = max(estimate.standard_error, (upper - lower) / 4)
    status = ASK if lower > 0 else DO_NOT_ASK if upper < 0 else UNDECIDED
    if samples.exact:
        status = ASK if net > 0 else DO_NOT_ASK
    alarms = [
        name
        for name, wrong in (
            (
                f"tower: q is {', '.join(tower.faults)}; believe no number computed from q",
                tower.alarm,
            ),
            ("collapse: q ignores the answers; keep a few exploratory calls", samples.collapsed),
            ("thin: fewer than half the worlds count", size < samples.count / 2),
        )
        if wrong
    ]
    return EVSIResult(
        name=ask.name,
        info=estimate.info,
        effect=estimate.effect,
        cost=ask.price,
        evsi=net,
        standard_error=estimate.standard_error,
        lower=lower,
        upper=upper,
        v_no=estimate.v_no,
        v_blind=estimate.v_blind,
        v_read=estimate.v_read,
        evpi_bound=estimate.evpi,
        tower_gap=tower.gap,
        tower_standard_error=tower.standard_error,
        tower_alarm=tower.alarm,
        effective_sample_size=size,
        status=status,
        worlds=samples.count,
        rollouts=samples.rollouts,
        calls=ask.calls,
        estimator=estimate.estimator,
        opportunity_loss=0.0 if samples.exact else opportunity_loss(net, error),
        alarms=tuple(alarms),
    )
