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
    a plain mean of paired differences; so each end is the least of theirs. A mean of skewed
    differences comes out low together with its error: the end on the long side is moved out by
    the second term of its distribution (Johnson 1978; Hall 1992), never in.
    """
    luck = worth[:, 0]
    scores, worth = scores - luck, worth - luck[:, None]
    squares = weights.square()
    squares = squares / max(1e-12, 1.0 - float(squares.sum()))
    mean, level = scores @ weights, weights @ worth
    scores, worth = scores - mean[:, None], worth - level
    variance = (scores.square() @ squares)[:, None] + squares @ worth.square()
    variance = variance - 2 * (scores * squares) @ worth
    gain, error = mean[:, None] - level, variance.clamp_min(0).sqrt()
    cubes = weights**3
    third = (scores**3 @ cubes)[:, None] - cubes @ worth**3
    third = third - 3 * (scores.square() * cubes) @ worth + 3 * (scores * cubes) @ worth.square()
    skew = torch.where(error > 0, third / error.clamp_min(1e-300) ** 3, 0.0)
    lean = ((2 * Z95**2 + 1) / 6 * skew.nan_to_num()).clamp(-1, 1)
    low = gain - (Z95 - lean.clamp_max(0)) * error
    high = gain + (Z95 + lean.clamp_min(0)) * error
    return low.amin(-1), high.amin(-1)


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
