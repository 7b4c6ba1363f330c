"""What a rule is judged by: expected utility, a tail of it, or utility under a limit on risk.

A criterion turns (utility, risk) of every particle and candidate into T targets and chooses from
their conditional means. All are averages of targets over the mixture of outcomes, so a rule is
always scored on the particles that made its answers and never on a per-answer summary.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from bb_wm.errors import BatchError, ConfigError
from bb_wm.imagine.utility import Limit

if TYPE_CHECKING:
    from torch import Tensor

_GRID = 48  # thresholds tried for a tail; the values themselves when there are no more than these
_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class Rule:
    """Which candidate to take after each answer.

    `share` [A, C] is the probability of candidate c after answer a (one-hot unless the criterion
    randomises); `column` says which of the T targets the rule is scored on.
    """

    share: Tensor
    column: int

    def worth(self, targets: Tensor) -> Tensor:
        """sum_c share[a, c] targets[a, c, column], [A]."""
        return (self.share * targets[..., self.column]).sum(-1)


class Criterion(abc.ABC):
    """How rules are compared. Stateless; every tensor float64."""

    __slots__ = ()
    expectation = True  # info >= 0 and info <= EVPI hold

    @abc.abstractmethod
    def targets(self, utility: Tensor, risk: Tensor | None) -> Tensor:
        """[N, C] (and V_s [N, C]) -> targets [N, C, T]."""

    @abc.abstractmethod
    def choose(self, means: Tensor, mass: Tensor, prefer: int = 0) -> Rule:
        """The best rule for conditional means [A, C, T] of answers with probabilities [A].

        Ties go to candidate `prefer`, so that noise-free indifference costs nothing.
        """

    def relative(self, targets: int) -> list[bool]:
        """Per target, whether only differences between candidates matter."""
        return [True] * targets


@dataclass(frozen=True, slots=True)
class ExpectedUtility(Criterion):
    """max_a E[U_a | o], U = utility - risk_weight * V_s."""

    risk_weight: float = 0.0

    def targets(self, utility: Tensor, risk: Tensor | None) -> Tensor:
        return _net(utility, risk, self.risk_weight)[..., None]

    def choose(self, means: Tensor, mass: Tensor, prefer: int = 0) -> Rule:
        return Rule(_best(means[..., 0], prefer), 0)


@dataclass(frozen=True, slots=True)
class TailUtility(Criterion):
    """CVaR of the utility over the mixture of all outcomes of a rule.

    CVaR_tail(X) = max_t { t - E[max(t - X, 0)] / tail }, so the best rule is, for the best t, the
    one that is best for the expected utility t - max(t - U, 0) / tail (Rockafellar & Uryasev 2000).
    Conditional CVaR, averaged over answers, invents value; this one cannot.
    """

    tail: float = 0.1
    risk_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.tail <= 1:
            raise ConfigError("TailUtility.tail", expected="within (0, 1]", actual=self.tail)

    def targets(self, utility: Tensor, risk: Tensor | None) -> Tensor:
        worth = _net(utility, risk, self.risk_weight)[..., None]
        t = _thresholds(worth)
        return t - (t - worth).clamp_min(0) / self.tail

    def choose(self, means: Tensor, mass: Tensor, prefer: int = 0) -> Rule:
        return _best_column(means, mass, prefer)


@dataclass(frozen=True, slots=True)
class TailRisk(Criterion):
    """utility - risk_weight * CVaR_tail(V_s), the CVaR over the mixture of all outcomes."""

    risk_weight: float
    tail: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.tail <= 1:
            raise ConfigError("TailRisk.tail", expected="within (0, 1]", actual=self.tail)

    def targets(self, utility: Tensor, risk: Tensor | None) -> Tensor:
        known = _need(risk)[..., None]
        t = _thresholds(known)
        return utility[..., None] - self.risk_weight * (t + (known - t).clamp_min(0) / self.tail)

    def choose(self, means: Tensor, mass: Tensor, prefer: int = 0) -> Rule:
        return _best_column(means, mass, prefer)


@dataclass(frozen=True, slots=True)
class LimitedRisk(Criterion):
    """max_a E[U_a | o] among candidates within a hard limit on V_s.

    limit.scope "outcome": E[V_s | o, a] <= bound after every answer; reading may then be worth
    less than nothing, legitimately, because it forbids what was allowed in ignorance.
    "ex_ante": one budget for the whole rule, E[V_s] <= bound; reading is never worth less than
    nothing. `randomised` lets the ex-ante rule throw a coin between two candidates.
    A candidate with V_s = 0 must exist; `abstain` is the utility of the one added where none does.
    """

    limit: Limit = field(default_factory=lambda: Limit(0.0))
    risk_weight: float = 0.0
    randomised: bool = False
    abstain: float = 0.0
    expectation = False

    def targets(self, utility: Tensor, risk: Tensor | None) -> Tensor:
        known = _need(risk)
        return torch.stack([_net(utility, known, self.risk_weight), known], dim=-1)

    def relative(self, targets: int) -> list[bool]:
        return [True, False]

    def choose(self, means: Tensor, mass: Tensor, prefer: int = 0) -> Rule:
        worth, risk = means[..., 0], means[..., 1]
        if self.limit.scope == "ex_ante":
            return Rule(_within_budget(worth, risk, mass, self.limit.bound, self.randomised), 0)
        allowed = risk <= self.limit.bound + _TIE * (1 + abs(self.limit.bound))
        # Where nothing is allowed the least risky candidate is taken: there is no better answer.
        safest = risk == risk.amin(-1, keepdim=True)
        allowed = torch.where(allowed.any(-1, keepdim=True), allowed, safest)
        return Rule(_best(worth.masked_fill(~allowed, -torch.inf), prefer), 0)


def _net(utility: Tensor, risk: Tensor | None, weight: float) -> Tensor:
    return utility if weight == 0 else utility - weight * _need(risk)


def _need(risk: Tensor | None) -> Tensor:
    if risk is None:
        raise BatchError("risk", expected="V_s [N, C] for this criterion", actual="none")
    return risk


def one_hot(index: Tensor, count: int) -> Tensor:
    """[...] -> [..., count], float64."""
    made: Tensor = torch.nn.functional.one_hot(index, count)
    return made.double()


def _best(worth: Tensor, prefer: int) -> Tensor:
    """One-hot of the best candidate [A, C]; ties go to `prefer`."""
    top, index = worth.max(-1)
    index = torch.where(worth[..., prefer] >= top - _TIE * top.abs().amax(), prefer, index)
    return one_hot(index, worth.shape[-1])


def _best_column(means: Tensor, mass: Tensor, prefer: int) -> Rule:
    value = (mass[:, None] * means.amax(1)).sum(0)
    column = int(value.argmax())
    return Rule(_best(means[..., column], prefer), column)


def _thresholds(values: Tensor) -> Tensor:
    """Candidates for t: all distinct values, or quantiles of them, [T]."""
    distinct: Tensor = torch.unique(values)
    if distinct.numel() <= _GRID:
        return distinct
    at = torch.linspace(0, 1, _GRID, dtype=values.dtype)
    grid: Tensor = torch.unique(torch.quantile(values.flatten(), at))
    return grid


def _within_budget(
    worth: Tensor, risk: Tensor, mass: Tensor, bound: float, randomised: bool
) -> Tensor:
    """The rule [A, C] that maximises sum_a mass_a worth under sum_a mass_a risk <= bound.

    Lagrange: for a price p of risk every answer takes argmax worth - p risk, and the budget falls
    as p rises; the optimum mixes the two rules on either side of the price where it is met.
    Deterministic: the best single rule, by enumeration where there are few, else the cautious side.
    """
    answers, count = worth.shape
    if not randomised and count**answers <= 20_000:
        return _best_deterministic(worth, risk, mass, bound)

    def at(price: float, cautious: bool) -> Tensor:
        score = worth - price * risk
        tied = score >= score.amax(-1, keepdim=True) - 1e-9 * (1 + score.abs().amax())
        order = risk if cautious else -risk
        pick = order.masked_fill(~tied, torch.inf).argmin(-1)
        return one_hot(pick, count)

    def spent(rule: Tensor) -> float:
        return float((mass[:, None] * rule * risk).sum())

    slack = bound + 1e-12 * (1 + abs(bound))
    if spent(at(0.0, False)) <= slack:
        return at(0.0, False)
    prices = _prices(worth, risk)
    low, high = 0, len(prices)
    while low < high:
        middle = (low + high) // 2
        if spent(at(float(prices[middle]), True)) <= slack:
            high = middle
        else:
            low = middle + 1
    if low == len(prices):
        safest = risk.argmin(-1)
        return one_hot(safest, count)
    careful = at(float(prices[low]), True)
    if not randomised:
        return careful
    bold = at(float(prices[low]), False)
    room, over = bound - spent(careful), spent(bold) - spent(careful)
    mix = 1.0 if over <= 0 else min(1.0, max(0.0, room / over))
    return mix * bold + (1 - mix) * careful


def _prices(worth: Tensor, risk: Tensor) -> Tensor:
    """Sorted prices of risk at which some answer changes its mind."""
    dv = risk[..., :, None] - risk[..., None, :]
    du = worth[..., :, None] - worth[..., None, :]
    price: Tensor = (du / dv)[dv != 0]
    found = torch.unique(price[torch.isfinite(price) & (price >= 0)])
    return torch.cat([torch.zeros(1, dtype=worth.dtype), found])


def _best_deterministic(worth: Tensor, risk: Tensor, mass: Tensor, bound: float) -> Tensor:
    answers, count = worth.shape
    grids = torch.cartesian_prod(*[torch.arange(count)] * answers).reshape(-1, answers)
    rows = torch.arange(answers)
    value = (worth[rows, grids] * mass).sum(-1)
    spent = (risk[rows, grids] * mass).sum(-1)
    fits = spent <= bound + 1e-12 * (1 + abs(bound))
    if not bool(fits.any()):
        fits = spent <= spent.min()
    pick = grids[int(value.masked_fill(~fits, -torch.inf).argmax())]
    return one_hot(pick, count)
