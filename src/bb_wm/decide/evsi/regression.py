"""Cross-fitted ridge regression of worth on what an answer tells.

The design is [1, statistics, random Fourier features of them]; two ridge strengths, one for the
statistics and one for the Fourier part, are chosen per target by the folds that are not scored.
Sources: Strong, Oakley, Brennan & Breeze 2015 (EVSI by regression); Rahimi & Recht 2007 (random
features); Chernozhukov et al. 2018 (cross-fitting).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

_OFF = 1e9  # a ridge strength that switches a block of features off
# (strength on statistics, strength on Fourier features), both in units of the features' variance.
STRENGTHS: tuple[tuple[float, float], ...] = (
    (_OFF, _OFF),
    (1e-3, _OFF),
    (3e-2, _OFF),
    (2e-1, _OFF),
    (1.0, _OFF),
    (1e-3, 3e-3),
    (1e-3, 3e-2),
    (1e-3, 3e-1),
    (3e-2, 3e-2),
    (3e-2, 3e-1),
    (2e-1, 3e-1),
)
CAUTION = 0.5
_WIDEST = 24  # statistics kept; more are projected onto their leading directions
_FEW_ANSWERS = 128  # up to here decomposing all their products costs less than finding a range


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """The design [N, R, F], first column 1, and how many of the others are statistics."""

    design: Tensor
    statistics: int

    @property
    def repeats(self) -> int:
        return int(self.design.shape[1])

    @staticmethod
    def of(features: Tensor, weights: Tensor, fourier: int, seed: int) -> Basis:
        """Standardise, drop what does not vary, project what is too wide, add Fourier features."""
        count, repeats, _ = features.shape
        answer_weights = (weights / repeats)[:, None, None]
        flat = _distinct(_standardised(features, answer_weights), answer_weights)
        generator = torch.Generator().manual_seed(seed)
        if flat.shape[-1] > _WIDEST:
            flat = _standardised(_leading(flat, _WIDEST, generator), answer_weights)
        ones = torch.ones(count, repeats, 1, dtype=flat.dtype)
        size = flat.shape[-1]
        if size == 0 or fourier == 0:
            return Basis(torch.cat([ones, flat], -1), size)
        # Frequencies at several scales: a kink of the best choice is short, a trend is long.
        scale = torch.tensor([0.5, 1.0, 2.0], dtype=flat.dtype)
        scale = scale[torch.arange(fourier) % 3] / size**0.5
        frequency = torch.randn(size, fourier, generator=generator, dtype=flat.dtype) * scale
        phase = torch.rand(fourier, generator=generator, dtype=flat.dtype) * 2 * torch.pi
        waves = _standardised(torch.cos(flat @ frequency + phase), answer_weights)
        waves = waves / max(1, waves.shape[-1]) ** 0.5
        return Basis(torch.cat([ones, flat, waves], -1), size)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Fitted means [N, R, Q]: from all worlds, and for each world from the other folds.

    `open_minded` is in_sample where the answer was judged to tell something, and elsewhere the
    best fit that lets it tell something: an upper bound must not rest on a verdict of nothing.
    """

    in_sample: Tensor
    held: Tensor
    open_minded: Tensor


def fit_ridge(basis: Basis, targets: Tensor, weights: Tensor, fold: Tensor, folds: int) -> Fit:
    """Regress targets [N, Q] on the basis; ridge strengths chosen on folds that are not scored."""
    grams, cross, squares = _moments(basis, targets, weights, fold, folds)
    penalties = _penalties(basis)
    pairs = list(itertools.combinations(range(folds), 2))
    first = torch.tensor([p[0] for p in pairs])
    second = torch.tensor([p[1] for p in pairs])
    all_gram, all_cross = grams.sum(0), cross.sum(0)
    # One batch of systems: pairs left out (to choose strengths), one left out, none left out.
    gram = torch.cat([all_gram - grams[first] - grams[second], all_gram - grams, all_gram[None]])
    right = torch.cat(
        [all_cross - cross[first] - cross[second], all_cross - cross, all_cross[None]]
    )
    coefficient = _solve(gram, right, penalties)
    of_pairs, of_ones, of_all = torch.split(coefficient, [len(pairs), folds, 1])
    loss = torch.zeros(folds, *of_pairs.shape[1:2], targets.shape[1], dtype=targets.dtype)
    for scored, other in ((first, second), (second, first)):
        error = _squared_error(of_pairs, grams[scored], cross[scored], squares[scored])
        # A fold's strengths are chosen by how well the other folds are foretold without it.
        loss.index_add_(0, other, error)
    pick_held = pick_strength(loss, basis.design.shape[0])
    whole = _squared_error(of_ones, grams, cross, squares).sum(0)
    pick_all = pick_strength(whole[None], basis.design.shape[0])
    held = _taken(of_ones, pick_held)
    in_sample = _taken(of_all, pick_all)[0]
    something = 1 + whole[None, 1:].argmin(1)
    open_minded = _taken(of_all, torch.where(pick_all == 0, something, pick_all))[0]
    fitted = torch.empty(*basis.design.shape[:2], targets.shape[1], dtype=targets.dtype)
    for f in range(folds):
        fitted[fold == f] = basis.design[fold == f] @ held[f]
    return Fit(basis.design @ in_sample, fitted, basis.design @ open_minded)


def pick_strength(loss: Tensor, count: int) -> Tensor:
    """The index [folds, Q] of the ridge strength with the least squared error [folds, L, Q].

    Strength 0 says the answer tells nothing; it is left only for a gain in error that chance
    seldom makes (a t^2 of about 2 + CAUTION), because believing noise is the dangerous side.
    """
    best = loss.argmin(1)
    least = loss.gather(1, best[:, None])[:, 0]
    return torch.where(loss[:, 0] - least > CAUTION / count * loss[:, 0], best, 0)


def _taken(coefficient: Tensor, pick: Tensor) -> Tensor:
    """coefficient [B, L, F, Q] at pick [B, Q] -> [B, F, Q]."""
    size = coefficient.shape[2]
    index = pick[:, None, None, :].expand(-1, 1, size, -1)
    return coefficient.gather(1, index)[:, 0]


def _moments(
    basis: Basis, targets: Tensor, weights: Tensor, fold: Tensor, folds: int
) -> tuple[Tensor, Tensor, Tensor]:
    grams, cross, squares = [], [], []
    repeats = basis.repeats
    for f in range(folds):
        mine = fold == f
        root = (weights[mine] / repeats).sqrt()[:, None, None]
        rows = (basis.design[mine] * root).flatten(0, 1)
        mean_row = basis.design[mine].mean(1) * weights[mine][:, None]
        grams.append(rows.T @ rows)
        cross.append(mean_row.T @ targets[mine])
        squares.append((weights[mine][:, None] * targets[mine].square()).sum(0))
    return torch.stack(grams), torch.stack(cross), torch.stack(squares)


def _penalties(basis: Basis) -> Tensor:
    size = basis.design.shape[-1]
    rows = []
    for on_statistics, on_waves in STRENGTHS:
        row = torch.full((size,), on_waves, dtype=basis.design.dtype)
        row[1 : 1 + basis.statistics] = on_statistics
        row[0] = 0.0
        rows.append(row)
    return torch.stack(rows)


def _solve(gram: Tensor, right: Tensor, penalties: Tensor) -> Tensor:
    """(gram + mass * penalty)^-1 right for every strength: [B, L, F, Q]."""
    # Blocks switched off need no solving: the systems without Fourier features are small.
    flat = penalties[:, -1] >= _OFF
    out = torch.zeros(gram.shape[0], penalties.shape[0], *right.shape[1:], dtype=gram.dtype)
    small = int((penalties[flat][-1] < _OFF).sum()) if bool(flat.any()) else 0
    for rows, size in ((flat, small), (~flat, gram.shape[-1])):
        if not bool(rows.any()) or size == 0:
            continue
        mass = gram[:, 0, 0][:, None, None]
        diagonal = mass * (penalties[rows][:, :size] + 1e-10)
        systems = gram[:, None, :size, :size] + torch.diag_embed(diagonal)
        factor, _ = torch.linalg.cholesky_ex(systems)
        wide = right[:, None, :size].expand(-1, diagonal.shape[1], -1, -1)
        out[:, rows, :size] = torch.cholesky_solve(wide, factor)
    return out


def _squared_error(coefficient: Tensor, gram: Tensor, cross: Tensor, square: Tensor) -> Tensor:
    """sum w (y - x b)^2 from moments: coefficient [B, L, F, Q] -> [B, L, Q]."""
    quadratic = (coefficient * (gram[:, None] @ coefficient)).sum(2)
    linear = (coefficient * cross[:, None]).sum(2)
    return square[:, None] - 2 * linear + quadratic


def _standardised(values: Tensor, weights: Tensor) -> Tensor:
    """Zero mean, unit variance over answers [N, R, F]; columns that do not vary are dropped."""
    rows = values.flatten(0, 1)
    share = weights.expand(*values.shape[:2], 1).flatten()
    centred = rows - share @ rows
    variance, size = share @ centred.square(), share @ rows.square()
    moving = variance > 1e-12 * size.clamp_min(1e-300)
    if not bool(moving.all()):
        centred, variance = centred[:, moving], variance[moving]
    scaled: Tensor = centred.div_(variance.sqrt())
    return scaled.reshape(*values.shape[:2], -1)


def _distinct(values: Tensor, weights: Tensor) -> Tensor:
    """Without columns that repeat an earlier one up to sign; standardised [N, R, F]."""
    size = values.shape[-1]
    if not 1 < size <= 4 * _WIDEST:
        return values
    rows = values.flatten(0, 1)
    alike = (rows * weights.expand(*values.shape[:2], 1).reshape(-1, 1)).T @ rows
    repeats = (alike.abs() > 1 - 1e-9).tril(-1).any(1)
    return values[..., ~repeats]


def _leading(values: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """Scores on the leading directions of variance, [N, R, keep]: exactly from the answers'
    products where these are few, else by a random range finder.

    Chosen from the answers alone, never from worths: it cannot leak what is scored.
    Source: Halko, Martinsson & Tropp 2011.
    """
    rows = values.flatten(0, 1)
    if keep <= rows.shape[0] <= _FEW_ANSWERS:
        strength, left = torch.linalg.eigh(rows @ rows.T)  # ascending
        return _scores(left, strength, keep).reshape(*values.shape[:2], -1)
    probe = torch.randn(rows.shape[1], keep + 8, generator=generator, dtype=rows.dtype)
    base = torch.linalg.qr(rows @ (rows.T @ (rows @ probe))).Q
    small = base.T @ rows
    strength, left = torch.linalg.eigh(small @ small.T)  # ascending
    return _scores(base @ left, strength, keep).reshape(*values.shape[:2], -1)


def _scores(left: Tensor, strength: Tensor, keep: int) -> Tensor:
    return left[:, -keep:] * strength[-keep:].clamp_min(0).sqrt()
