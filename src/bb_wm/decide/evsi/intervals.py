"""The 95 % interval of a gain, honest near ties and near a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.bounds import Z95, ends
from bb_wm.decide.evsi.criteria import LimitedRisk
from bb_wm.decide.evsi.readers import Reader

if TYPE_CHECKING:
    from torch import Tensor

_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the answers that a rival may take, for the upper end
_FEW = 8  # answers, and rivals, up to which all are tried


def interval_of(
    reader: Reader,
    read: Tensor,
    after: Tensor,
    before: Tensor | None,
    weights: Tensor,
) -> tuple[float, float]:
    """The 95 % interval of the gain: max_r E U_r - max_a E U_a over rules r and candidates a.

    For every rule the gain over the best candidate is the least of its gains over each one. The
    lower end is the honest rule's; the upper end the highest that any rule reaches which some
    rival would bring about by being better than it looks. The rule in hand alone would be too
    proud: where candidates nearly tie it may never switch, and its score has no spread to show.
    """
    start = after if before is None else before
    low, _ = ends(read[None], start[..., 0], weights)
    _, high = ends(reader.scores(_rival_rules(reader)), start[..., 0], weights)
    return float(low), float(high.max())


def _rival_rules(reader: Reader) -> Tensor:
    """Candidates [P, A] after every answer: the best in sample, and that with one rival taking the
    share of the answers on which it falls short by least."""
    found = []
    for table, _ in (reader.in_sample(), reader.open_minded()):
        best, pick = table[..., 0].max(-1)
        short = (best[:, None] - table[..., 0]).T
        if short.shape[1] <= _FEW:
            edges = short.sort(1).values
        else:
            edges = short.quantile(torch.tensor(_SHARES, dtype=short.dtype), 1).T
        rivals = edges[:, 0].argsort()[:_FEW]
        taken = short[rivals, None] <= edges[rivals, :, None]
        found.append(pick[None])
        found.append(torch.where(taken, rivals[:, None, None], pick).flatten(0, 1))
    return torch.cat(found)


def if_the_limit_were_near(
    reader: Reader, criterion: LimitedRisk, after: Tensor, before: Tensor | None, weights: Tensor
) -> tuple[float, float]:
    """The gain if V_s were higher after reading and lower before by as much as its mean may be
    off, and the other way round: a limit that just binds decides all or nothing."""
    start = after if before is None else before
    means, mass = reader.in_sample()

    def read(sign: float) -> float:
        table = _shifted(means, after, weights, sign)
        return float((mass * criterion.choose(table, mass).worth(means)).sum())

    def blind(sign: float) -> float:
        average = (weights[:, None, None] * start).sum(0)[None]
        rule = criterion.choose(_shifted(average, start, weights, sign), mass.new_ones(1))
        return float(rule.worth(average))

    return read(1.0) - blind(-1.0), read(-1.0) - blind(1.0)


def _shifted(means: Tensor, targets: Tensor, weights: Tensor, sign: float) -> Tensor:
    """Means [A, C, 2] with V_s moved by the 95 % error of its average over worlds."""
    risk = targets[..., 1]
    centred = risk - (weights[:, None] * risk).sum(0)
    error = Z95 * (weights[:, None].square() * centred.square()).sum(0).sqrt()
    moved = means.clone()
    moved[..., 1] += sign * error
    return moved
