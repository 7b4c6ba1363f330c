"""Exact binomial tails, and the two things calibration needs of them. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable

from bb_wm.errors import ConfigError


def at_least(count: int, trials: int, probability: float) -> float:
    """P(Bin(trials, probability) >= count), summed term by term in logarithms."""
    if count <= 0:
        return 1.0
    if count > trials or probability <= 0:
        return 0.0
    if probability >= 1:
        return 1.0
    if count <= trials * probability:  # the shorter and smaller tail is summed
        return 1.0 - at_least(trials - count + 1, trials, 1.0 - probability)
    return min(1.0, math.fsum(_term(k, trials, probability) for k in range(count, trials + 1)))


def _term(count: int, trials: int, probability: float) -> float:
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    chance = count * math.log(probability) + (trials - count) * math.log1p(-probability)
    return math.exp(ways + chance)


def conformal_rank(trials: int, alpha: float, doubt: float) -> int | None:
    """The least k for which the k-th smallest of `trials` scores is an upper bound that holds.

    A new score exceeds the k-th smallest of n independent ones with a probability of at most
    Beta(n + 1 - k, k) (exactly so without ties), so P(miss > alpha) <= P(Bin(n, 1 - alpha) >= k)
    (Vovk 2012, "Conditional validity"). k is the least with that tail <= `doubt`; None when even
    the largest score is not enough, n < log(doubt) / log(1 - alpha): 59 at 0.05 and 0.05.
    """
    if at_least(trials, trials, 1.0 - alpha) > doubt or trials < 1:
        return None
    low, high = 0, trials  # at_least(low) > doubt >= at_least(high)
    while high - low > 1:
        middle = (low + high) // 2
        if at_least(middle, trials, 1.0 - alpha) <= doubt:
            high = middle
        else:
            low = middle
    return high


def least_trials(alpha: float, doubt: float) -> int:
    """How many episodes a finite bound needs: the least n with (1 - alpha)^n <= doubt."""
    guess = max(1, math.ceil(math.log(doubt) / math.log1p(-alpha)) - 1)
    while conformal_rank(guess, alpha, doubt) is None:
        guess += 1
    return guess


def clopper_pearson(count: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a probability of which `count` in `trials` were seen."""
    if not 0 <= count <= trials or trials < 1:
        raise ConfigError("count", expected=f"within 0 .. {trials}, of at least 1", actual=count)
    side = (1.0 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda p: at_least(count, trials, p) >= side)
    high = 1.0 if count == trials else _solve(lambda p: at_least(count + 1, trials, p) > 1 - side)
    return low, high


def _solve(reached: Callable[[float], bool]) -> float:
    """The least p in [0, 1] at which a condition that stays true becomes true."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def check_share(name: str, value: object) -> float:
    """The value as a float strictly between 0 and 1; ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(name, expected="a number strictly between 0 and 1", actual=repr(value))
    return float(value)
