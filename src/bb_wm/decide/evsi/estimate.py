"""EVSI of joint samples: the two estimators, and the arithmetic they share.

    V_no = max_a E U(s, a)      V_blind = max_a E U(s', a)      V_read = E_o max_a E[U(s', a) | o]

The point lies between an in-sample plug-in, whose maxima are too hopeful, and an honest score,
whose choices are made on other folds, which is too modest. The interval's lower end is the honest
rule's, its upper end that of the most hopeful rule (`bb_wm.decide.evsi.intervals`).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.bounds import Z95
from bb_wm.decide.evsi.criteria import Criterion, ExpectedUtility, LimitedRisk, Rule
from bb_wm.decide.evsi.intervals import if_the_limit_were_near, interval_of
from bb_wm.decide.evsi.readers import Reader, RegressionReader, TableReader
from bb_wm.decide.evsi.regression import Basis
from bb_wm.decide.evsi.samples import JointSamples, prune
from bb_wm.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# Share of the plug-in in the point. The maximum of two candidates that tie is .40 se too large, the
# honest choice right on average; an honest choice between candidates .8 se apart is .17 se too low.
HOPE = 0.35
_ROUNDING = 1e-8  # of the largest worth: an interval is never narrower than its arithmetic
LARGEST_TABLE = 64  # answers up to which summing over all of them is the better estimator


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Numbers of one ask before its cost: in-sample and honest, and the honest score per world.

    `promises` [folds] is the gain each fold would be promised by the others, made without its
    worths: what asks may be chosen by before `scores` of that fold judge the choice.
    """

    v_no: float
    v_blind: float
    v_read: float
    info: float
    effect: float
    info_hopeful: float
    gain_hopeful: float
    gain_honest: float
    lower: float
    upper: float
    standard_error: float
    evpi: float
    scores: Tensor
    promises: Tensor
    fold: Tensor
    weights: Tensor
    estimator: str

    @property
    def gain(self) -> float:
        return self.info + self.effect


class Estimator(abc.ABC):
    """Reads answers in its own way; everything else is shared."""

    __slots__ = ()
    folds: int
    seed: int

    @abc.abstractmethod
    def reader(
        self, samples: JointSamples, targets: Tensor, fold: Tensor, folds: int, context: _Context
    ) -> Reader: ...

    def __call__(
        self, samples: JointSamples, criterion: Criterion | None = None, *, validated: bool = False
    ) -> Estimate:
        """The estimate from joint samples; `validated` skips the door."""
        if not validated:
            samples = samples.validated()
        return _estimate(self, samples, ExpectedUtility() if criterion is None else criterion)


@dataclass(frozen=True, slots=True)
class Enumeration(Estimator):
    """Sums over every answer: (1/N) sum_i p(o | z_i) U_a(z_i) for each o; needs `likelihood`."""

    folds: int = 5
    seed: int = 0

    def reader(
        self, samples: JointSamples, targets: Tensor, fold: Tensor, folds: int, context: _Context
    ) -> Reader:
        if samples.likelihood is None:
            raise BatchError(
                "likelihood",
                expected="[N, K] to enumerate answers",
                actual="none",
                hint="use CrossFittedRegression where answers cannot be listed.",
            )
        return TableReader(samples.likelihood, targets, context.weights, fold, folds)


@dataclass(frozen=True, slots=True)
class CrossFittedRegression(Estimator):
    """Regresses worth on what the answer tells, ridge strengths chosen on other folds."""

    folds: int = 5
    fourier: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 3:
            raise ConfigError("CrossFittedRegression.folds", expected=">= 3", actual=self.folds)

    def reader(
        self, samples: JointSamples, targets: Tensor, fold: Tensor, folds: int, context: _Context
    ) -> Reader:
        if samples.features is None:
            raise BatchError(
                "features",
                expected="[N, R, F] to regress on",
                actual="none",
                hint="use Enumeration where the likelihood of every answer is known.",
            )
        waves = min(self.fourier, samples.count // 4)
        basis = Basis.of(samples.features, context.weights, waves, self.seed)
        relative = torch.tensor(context.relative)
        return RegressionReader(
            basis, targets, context.weights, fold, folds, base=context.base, relative=relative
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Context:
    weights: Tensor
    base: int
    relative: list[bool]


def choose_estimator(samples: JointSamples) -> Estimator:
    """Enumeration where answers can be listed (up to 64), regression otherwise."""
    return CrossFittedRegression() if samples.likelihood is None else Enumeration()


def assign_folds(samples: JointSamples, folds: int, seed: int) -> Tensor:
    """A fold [N] for every world, balanced, the same for all candidates and asks of one seed."""
    generator = torch.Generator().manual_seed(seed)
    if samples.groups is None:
        order = torch.randperm(samples.count, generator=generator)
        if samples.strata is not None:
            order = order[samples.strata[order].argsort(stable=True)]
        fold = torch.empty(samples.count, dtype=torch.long)
        fold[order] = torch.arange(samples.count) % folds
        return fold
    kinds, group = torch.unique(samples.groups, return_inverse=True)
    order = torch.randperm(len(kinds), generator=generator)
    fold_of = torch.empty(len(kinds), dtype=torch.long)
    fold_of[order] = torch.arange(len(kinds)) % folds
    return fold_of[group]


def _estimate(method: Estimator, samples: JointSamples, criterion: Criterion) -> Estimate:
    weights = samples.probability()
    utility, risk = _with_abstention(samples.utility, samples.risk, criterion)
    kept = prune(utility, risk)
    after = criterion.targets(utility[:, kept], None if risk is None else risk[:, kept])
    before = None
    if samples.before is not None:
        worth, danger = _with_abstention(samples.before, samples.before_risk, criterion)
        left = prune(worth, danger)
        before = criterion.targets(worth[:, left], None if danger is None else danger[:, left])
    base = _favourite(after, weights, criterion)
    folds = 1 if samples.exact else min(method.folds, samples.count)
    fold = (
        torch.zeros(samples.count, dtype=torch.long)
        if samples.exact
        else assign_folds(samples, folds, method.seed)
    )
    context = _Context(weights, base, criterion.relative(after.shape[-1]))
    reader = method.reader(samples, after, fold, folds, context)
    return _assemble(method, samples, criterion, reader, after, before, base, fold, folds)


def _assemble(
    method: Estimator,
    samples: JointSamples,
    criterion: Criterion,
    reader: Reader,
    after: Tensor,
    before: Tensor | None,
    base: int,
    fold: Tensor,
    folds: int,
) -> Estimate:
    weights = samples.probability()
    means, mass = reader.in_sample()
    rule = criterion.choose(means, mass, base)
    v_read = float((mass * rule.worth(means)).sum())
    v_blind = _blind_value(after, weights, criterion, base)
    start = None if before is None else _favourite(before, weights, criterion)
    v_no = v_blind
    if before is not None and start is not None:
        v_no = _blind_value(before, weights, criterion, start)
    if samples.exact:
        read = blind = no = torch.zeros_like(weights)
        promises = torch.full((1,), v_read - v_no, dtype=weights.dtype)
        honest = (v_read, v_blind, v_no)
        error, interval = 0.0, (v_read - v_no, v_read - v_no)
    else:
        read, blind, no, promises = _honest(
            reader, criterion, after, before, weights, fold, folds, base
        )
        honest = tuple(float((weights * part).sum()) for part in (read, blind, no))  # type: ignore[assignment]
        error = _standard_error(read - no, weights)
        if isinstance(criterion, ExpectedUtility):
            interval = interval_of(reader, read, after, before, weights)
        else:
            plain = [honest[0] - honest[2], v_read - v_no]
            if isinstance(criterion, LimitedRisk) and samples.strata is None:
                plain += if_the_limit_were_near(reader, criterion, after, before, weights)
            interval = min(plain) - Z95 * error, max(plain) + Z95 * error
    info_honest, info_hopeful = honest[0] - honest[1], v_read - v_blind
    effect_honest, effect_hopeful = honest[1] - honest[2], v_blind - v_no
    info = info_honest + HOPE * (info_hopeful - info_honest)
    effect = effect_honest + HOPE * (effect_hopeful - effect_honest)
    rounding = 0.0 if samples.exact else _ROUNDING * float(after.abs().amax())
    middle_no = honest[2] + HOPE * (v_no - honest[2])
    return Estimate(
        v_no=middle_no,
        v_blind=middle_no + effect,
        v_read=middle_no + effect + info,
        info=info,
        effect=effect,
        info_hopeful=info_hopeful,
        gain_hopeful=info_hopeful + effect_hopeful,
        gain_honest=info_honest + effect_honest,
        lower=min(interval[0], info + effect) - rounding,
        upper=max(interval[1], info + effect) + rounding,
        standard_error=error,
        evpi=_evpi(after, weights, criterion, base, v_blind),
        scores=read - no,
        promises=promises,
        fold=fold,
        weights=weights,
        estimator=type(method).__name__,
    )


def _honest(
    reader: Reader,
    criterion: Criterion,
    after: Tensor,
    before: Tensor | None,
    weights: Tensor,
    fold: Tensor,
    folds: int,
    base: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Worth per world of the rules chosen without it: after reading, blind, and without asking;
    and the gain the other folds promise each fold."""
    read, blind, no = (torch.zeros_like(weights) for _ in range(3))
    promises = torch.zeros(folds, dtype=weights.dtype)
    for f in range(folds):
        mine = torch.nonzero(fold == f).flatten()
        others = weights * (fold != f)
        others = others / others.sum()
        favourite = _favourite(after, others, criterion)
        means, mass = reader.held(f)
        rule = criterion.choose(means, mass, favourite)
        read[mine] = reader.score(rule, mine)
        average = (mass[:, None, None] * means).sum(0, keepdim=True)
        unread = criterion.choose(average, torch.ones_like(mass[:1]), favourite)
        promises[f] = (mass * rule.worth(means)).sum() - unread.worth(average)[0]
        blind[mine] = _blind_rule(after, others, criterion, favourite).worth(after[mine])
        no[mine] = blind[mine]
        if before is not None:
            first = _favourite(before, others, criterion)
            no[mine] = _blind_rule(before, others, criterion, first).worth(before[mine])
            promises[f] += _blind_value(after, others, criterion, favourite)
            promises[f] -= _blind_value(before, others, criterion, first)
    return read, blind, no, promises


def _blind_rule(targets: Tensor, weights: Tensor, criterion: Criterion, prefer: int) -> Rule:
    means = (weights[:, None, None] * targets).sum(0)
    return criterion.choose(means[None], torch.ones(1, dtype=means.dtype), prefer)


def _blind_value(targets: Tensor, weights: Tensor, criterion: Criterion, prefer: int) -> float:
    rule = _blind_rule(targets, weights, criterion, prefer)
    return float((weights * rule.worth(targets)).sum())


def _favourite(targets: Tensor, weights: Tensor, criterion: Criterion) -> int:
    """The candidate that would be taken without reading anything."""
    return int(_blind_rule(targets, weights, criterion, 0).share[0].argmax())


def _evpi(
    targets: Tensor, weights: Tensor, criterion: Criterion, prefer: int, v_blind: float
) -> float:
    """E max_a U - max_a E U: the worth of being told the latent and its luck; an upper bound."""
    if not criterion.expectation:
        return math.nan
    rule = criterion.choose(targets, weights, prefer)
    return float((weights * rule.worth(targets)).sum()) - v_blind


def _standard_error(score: Tensor, weights: Tensor) -> float:
    mean = (weights * score).sum()
    squares = weights.square()
    variance = (squares * (score - mean).square()).sum()
    bessel = 1.0 / max(1e-12, 1.0 - float(squares.sum()))
    return math.sqrt(max(0.0, float(variance) * bessel))


def _with_abstention(
    utility: Tensor, risk: Tensor | None, criterion: Criterion
) -> tuple[Tensor, Tensor | None]:
    """Under a hard limit somebody must be allowed to do nothing: V_s = 0 for certain."""
    if not isinstance(criterion, LimitedRisk):
        return utility, risk
    if risk is None:
        raise BatchError("risk", expected="V_s [N, C] for a limit on risk", actual="none")
    if bool((risk == 0).all(0).any()):
        return utility, risk
    idle = torch.full_like(utility[:, :1], criterion.abstain)
    return torch.cat([utility, idle], 1), torch.cat([risk, torch.zeros_like(idle)], 1)
