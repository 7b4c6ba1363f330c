"""How answers are read: conditional means of the targets after each answer, fold by fold.

A reader gives E[target | answer] in sample (fitted on all worlds) and for the held worlds of each
fold (fitted on the others), and scores a rule on the worlds that made the answers.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.criteria import Rule, one_hot
from bb_wm.decide.evsi.regression import Basis, fit_ridge

if TYPE_CHECKING:
    from torch import Tensor


class Reader(abc.ABC):
    """Conditional means of targets [N, C, T] given answers; worlds split into folds [N]."""

    @abc.abstractmethod
    def in_sample(self) -> tuple[Tensor, Tensor]:
        """Means [A, C, T] and probabilities [A] of the answers, from all worlds."""

    def open_minded(self) -> tuple[Tensor, Tensor]:
        """In-sample means that assume the answer tells something, for upper bounds."""
        return self.in_sample()

    @abc.abstractmethod
    def held(self, fold: int) -> tuple[Tensor, Tensor]:
        """The same for the answers of fold `fold`, fitted without that fold."""

    @abc.abstractmethod
    def score(self, rule: Rule, held: Tensor | None) -> Tensor:
        """The rule's worth in each of the worlds `held` (indices; all when None), [n]."""

    @abc.abstractmethod
    def scores(self, picks: Tensor) -> Tensor:
        """The worth [P, N] in every world of rules that take candidates [P, A], first target."""


class TableReader(Reader):
    """Answers k = 1..K with known p(k | world i): (1/N) sum_i p(k | i) target_i, no noise of o."""

    def __init__(
        self, likelihood: Tensor, targets: Tensor, weights: Tensor, fold: Tensor, folds: int
    ) -> None:
        self.likelihood, self.targets = likelihood, targets
        joint = likelihood * weights[:, None]
        flat = targets.flatten(1)
        self._mass = torch.stack([joint[fold == f].sum(0) for f in range(folds)])
        self._sums = torch.stack([joint[fold == f].T @ flat[fold == f] for f in range(folds)])

    def in_sample(self) -> tuple[Tensor, Tensor]:
        return self._means(self._sums.sum(0), self._mass.sum(0))

    def held(self, fold: int) -> tuple[Tensor, Tensor]:
        return self._means(
            self._sums.sum(0) - self._sums[fold], self._mass.sum(0) - self._mass[fold]
        )

    def score(self, rule: Rule, held: Tensor | None) -> Tensor:
        likelihood = self.likelihood if held is None else self.likelihood[held]
        targets = self.targets if held is None else self.targets[held]
        return ((likelihood @ rule.share) * targets[..., rule.column]).sum(-1)

    def scores(self, picks: Tensor) -> Tensor:
        taken = self.likelihood @ one_hot(picks, self.targets.shape[1])
        return (taken * self.targets[..., 0]).sum(-1)

    def _means(self, sums: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        mass = mass.clamp_min(0)
        safe = mass.clamp_min(1e-300)
        means = (sums / safe[:, None]).reshape(-1, *self.targets.shape[1:])
        # An answer of no probability is worth nothing and must not hold 0/0.
        return torch.where(mass[:, None, None] > 1e-15, means, 0.0), mass / mass.sum()


class RegressionReader(Reader):
    """Answers seen through features [N, R, F]: ridge on [1, statistics, random Fourier features].

    Only differences to candidate `base` are regressed where the criterion compares candidates
    (`relative` [T]): what all candidates share, a rollout's common luck, drops out.
    """

    def __init__(
        self,
        basis: Basis,
        targets: Tensor,
        weights: Tensor,
        fold: Tensor,
        folds: int,
        *,
        base: int,
        relative: Tensor,
    ) -> None:
        self.targets, self.fold, self.weights = targets, fold, weights
        self.repeats = basis.repeats
        level = torch.where(relative, targets[:, [base]], 0.0)
        rest = (targets - level).flatten(1)
        self._fit = fit_ridge(basis, rest, weights, fold, folds)
        self._level = level

    def in_sample(self) -> tuple[Tensor, Tensor]:
        return self._whole(self._fit.in_sample)

    def open_minded(self) -> tuple[Tensor, Tensor]:
        return self._whole(self._fit.open_minded)

    def held(self, fold: int) -> tuple[Tensor, Tensor]:
        mine = self.fold == fold
        rest = self.weights * (~mine)
        level = (rest[:, None, None] * self._level).sum(0) / rest.sum()
        return self._shape(self._fit.held[mine]) + level, self._mass(self.weights[mine])

    def score(self, rule: Rule, held: Tensor | None) -> Tensor:
        targets = self.targets if held is None else self.targets[held]
        share = rule.share.reshape(targets.shape[0], self.repeats, -1).mean(1)
        return (share * targets[..., rule.column]).sum(-1)

    def scores(self, picks: Tensor) -> Tensor:
        worth = self.targets[..., 0].expand(picks.shape[0], -1, -1)
        return worth.gather(2, picks.reshape(picks.shape[0], -1, self.repeats)).mean(-1)

    def _whole(self, fitted: Tensor) -> tuple[Tensor, Tensor]:
        level = (self.weights[:, None, None] * self._level).sum(0)
        return self._shape(fitted) + level, self._mass(self.weights)

    def _shape(self, fitted: Tensor) -> Tensor:
        return fitted.reshape(-1, *self.targets.shape[1:])

    def _mass(self, weights: Tensor) -> Tensor:
        return (weights / weights.sum()).repeat_interleave(self.repeats) / self.repeats
