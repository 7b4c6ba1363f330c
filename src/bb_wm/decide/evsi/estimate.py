"""EVSI of joint samples: the two estimators, and the arithmetic they share.

    V_no = max_a E U(s, a)      V_blind = max_a E U(s', a)      V_read = E_o max_a E[U(s', a) | o]

The point is the mean of an in-sample plug-in, which is too hopeful, and an honest score, whose
choices are made on other folds, which is too modest; the interval runs from the honest score's
lower end to the plug-in's upper end.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.criteria import Criterion, ExpectedUtility, LimitedRisk, Rule, one_hot
from bb_wm.decide.evsi.readers import Reader, RegressionReader, TableReader
from bb_wm.decide.evsi.regression import Basis
from bb_wm.decide.evsi.samples import JointSamples, prune
from bb_wm.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054
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
    gain_possible: float
    standard_error: float
    evpi: float
    scores: Tensor
    promises: Tensor
    fold: Tensor
    weights: Tensor
    estimator: str
    moved: bool

    @property
    def gain(self) -> float:
        return self.info + self.effect

    @property
    def lower(self) -> float:
        """The lower end from the modest score, or from the point where that is lower.

        Where the call changes the world, V_no has a maximum of its own and the plug-in may as
        well be the modest one.
        """
        other = self.gain_hopeful if self.moved else self.gain
        return min(self.gain_honest, other) - Z95 * self.standard_error

    @property
    def upper(self) -> float:
        """The upper end from the hopeful plug-in, or what a near tie would allow if more."""
        other = self.gain_honest if self.moved else self.gain
        hopeful = max(self.gain_hopeful, other) + Z95 * self.standard_error
        return max(hopeful, self.gain_possible)


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
        error = 0.0
    else:
        read, blind, no, promises = _honest(
            reader, criterion, after, before, weights, fold, folds, base
        )
        honest = tuple(float((weights * part).sum()) for part in (read, blind, no))  # type: ignore[assignment]
        error = _standard_error(read - no, weights)
    info_honest, info_hopeful = honest[0] - honest[1], v_read - v_blind
    effect_honest, effect_hopeful = honest[1] - honest[2], v_blind - v_no
    info, effect = (info_honest + info_hopeful) / 2, (effect_honest + effect_hopeful) / 2
    middle_no = (honest[2] + v_no) / 2
    return Estimate(
        v_no=middle_no,
        v_blind=middle_no + effect,
        v_read=middle_no + effect + info,
        info=info,
        effect=effect,
        info_hopeful=info_hopeful,
        gain_hopeful=info_hopeful + effect_hopeful,
        gain_honest=info_honest + effect_honest,
        gain_possible=effect_hopeful + _possible_info(reader, criterion, after, weights, base)
        if not samples.exact
        else -math.inf,
        standard_error=error,
        evpi=_evpi(after, weights, criterion, base, v_blind),
        scores=read - no,
        promises=promises,
        fold=fold,
        weights=weights,
        estimator=type(method).__name__,
        moved=before is not None,
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


def _possible_info(
    reader: Reader, criterion: Criterion, after: Tensor, weights: Tensor, base: int
) -> float:
    """The plug-in info if one rival were as good as its 95 % interval allows, up to a tie.

    Information is worth most where candidates nearly tie, and there the score of a rule that
    hardly ever switches has no spread to show: its standard error alone would be too proud.
    """
    if not isinstance(criterion, ExpectedUtility):
        return -math.inf
    means, mass = reader.open_minded()
    table = means[..., 0]
    lead = after[:, [base], 0] - after[..., 0]
    gap = (weights[:, None] * lead).sum(0)
    error = (weights[:, None].square() * (lead - gap).square()).sum(0).sqrt()
    raised = torch.minimum(gap.clamp_min(0), Z95 * error)
    blind = (mass[:, None] * table).sum(0)[base]
    plain = float((mass * table.amax(-1)).sum() - blind)
    possible = plain
    for rival in range(table.shape[1]):
        if rival != base:
            shifted = table.clone()
            shifted[:, rival] += raised[rival]
            value, pick = shifted.max(-1)
            error_of_rule = _switching_error(reader, pick, after, weights)
            raise_ = float((mass * value).sum() - blind) - plain
            possible = max(possible, plain + math.hypot(raise_, Z95 * error_of_rule))
    return possible


def _switching_error(reader: Reader, pick: Tensor, after: Tensor, weights: Tensor) -> float:
    """Standard error of what switching with the answer adds to switching at random as often."""
    share = one_hot(pick, after.shape[1])
    rule = reader.score(Rule(share, 0), None)
    frequency = reader.frequency(share)
    return _standard_error(rule - (after[..., 0] * frequency).sum(-1), weights)


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
