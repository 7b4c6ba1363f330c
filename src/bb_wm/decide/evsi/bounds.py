"""95 % ends of what rules gain over the best candidate, and what perfect knowledge could gain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.criteria import Criterion, ExpectedUtility

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054


def ends(scores: Tensor, worth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ends [P] of E score_p - max_a E worth_a: scores [P, N], worth [N, C].

    The gain over the best candidate is the least of the gains over each one, and each of these is
    a plain mean of paired differences; so each end is the least of theirs.
    """
    luck = worth[:, 0]
    scores, worth = scores - luck, worth - luck[:, None]
    squares = weights.square()
    squares = squares / max(1e-12, 1.0 - float(squares.sum()))
    mean, level = scores @ weights, weights @ worth
    scores, worth = scores - mean[:, None], worth - level
    variance = (scores.square() @ squares)[:, None] + squares @ worth.square()
    variance = variance - 2 * (scores * squares) @ worth
    gain, error = mean[:, None] - level, Z95 * variance.clamp_min(0).sqrt()
    return (gain - error).amin(-1), (gain + error).amin(-1)


def ceiling(
    criterion: Criterion,
    utility: Tensor,
    risk: Tensor | None,
    before: Tensor | None,
    before_risk: Tensor | None,
    weights: Tensor,
) -> float:
    """Upper end of the gain of being told the world itself and its luck, before any cost.

    No answer can be worth more: a call that costs more needs no imagined answers. Infinite where
    the criterion is no plain expectation, since a limit may make ignorance bliss.
    """
    if not isinstance(criterion, ExpectedUtility):
        return float("inf")
    after = criterion.targets(utility, risk)[..., 0].double()
    start = after if before is None else criterion.targets(before, before_risk)[..., 0].double()
    best: Tensor = after.amax(-1)
    if not bool(torch.isfinite(best).all() & torch.isfinite(start).all()):
        return float("inf")
    return float(ends(best[None], start, weights)[1])
