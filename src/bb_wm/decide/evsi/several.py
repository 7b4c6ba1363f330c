"""Several asks on the same worlds: ranked by gross - cost, the best one judged without its luck."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.result import ASK, DO_NOT_ASK, UNDECIDED, EVSIResult, Ranking

if TYPE_CHECKING:
    from bb_wm.decide.evsi.estimate import Estimate

Z95 = 1.959963984540054


def select_honestly(found: list[tuple[EVSIResult, Estimate | None]]) -> Ranking:
    """Rank by net; choose the ask on all folds but one and read its net on that one."""
    order = sorted(found, key=lambda pair: -pair[0].evsi if pair[0].usable else math.inf)
    results = tuple(result for result, _ in order)
    usable = [(r, e) for r, e in order if r.usable and e is not None]
    if not usable:
        return Ranking(results, math.nan, math.nan, results[0].status)
    first = usable[0][1]
    folds = int(first.fold.max()) + 1
    same = all(e.fold.shape == first.fold.shape for _, e in usable)
    if folds == 1 or not same:
        best = usable[0][0]
        return Ranking(results, best.evsi, best.standard_error, best.status)
    nets = torch.stack([e.scores - r.cost for r, e in usable], dim=-1)
    weights, picked = first.weights, torch.empty_like(first.scores)
    for f in range(folds):
        mine = first.fold == f
        choice = int(torch.stack([e.promises[f] - r.cost for r, e in usable]).argmax())
        picked[mine] = nets[mine, choice]
    value = float((weights * picked).sum())
    squares = weights.square()
    spread = float((squares * (picked - value).square()).sum())
    error = math.sqrt(spread / max(1e-12, 1 - float(squares.sum())))
    best = usable[0][0]
    lower = min(best.lower, value - Z95 * error) if len(usable) > 1 else best.lower
    status = ASK if lower > 0 else DO_NOT_ASK if best.upper < 0 else UNDECIDED
    return Ranking(results, value, error, status)
