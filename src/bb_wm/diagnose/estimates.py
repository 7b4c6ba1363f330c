"""Ratios of sums with intervals, episodes (or blocks of rows) being what is independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FEWEST_UNITS = 8  # below it an interval says more about its formula than about the model
_BLOCK = 50  # rows; where there are few episodes, blocks of them stand in
_Z = 2.5758  # two-sided 99 %


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its 99 % interval, and from how many independent units it comes."""

    value: float
    low: float
    high: float
    units: int

    @property
    def known(self) -> bool:
        """Whether there are enough units and all numbers are finite."""
        numbers = (self.value, self.low, self.high)
        return self.units >= FEWEST_UNITS and all(math.isfinite(x) for x in numbers)


UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)


def ratio(above: np.ndarray, below: np.ndarray, unit: np.ndarray) -> Estimate:
    """sum(above) / sum(below) of rows [n] that belong to units [n]; UNKNOWN without a divisor.

    Standard error by linearisation: sqrt(U / (U - 1) sum_u d_u^2) / sum(below), where d_u sums
    above - r below over unit u (Cochran 1977, 6.3); Student's quantile for U - 1 degrees.
    """
    _, place = np.unique(np.asarray(unit), return_inverse=True)
    over = np.asarray(above, np.float64)
    under = np.asarray(below, np.float64)
    units = int(place.max()) + 1 if place.size else 0
    total = float(under.sum())
    if units < 2 or not abs(total) > 1e-12 or not np.isfinite(over).all():
        return Estimate(math.nan, math.nan, math.nan, units)
    value = float(over.sum()) / total
    rest = np.bincount(place, weights=over - value * under)
    error = math.sqrt(units / (units - 1) * float(rest @ rest)) / abs(total)
    reach = _student(units - 1) * error
    return Estimate(value, value - reach, value + reach, units)


def mean(values: np.ndarray, unit: np.ndarray) -> Estimate:
    """The mean of rows [n] that belong to units [n]."""
    return ratio(values, np.ones(len(values)), unit)


def flipped(found: Estimate) -> Estimate:
    """1 - x."""
    return Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.units)


def units_of(episode: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A unit per row [n]: its episode, or, with fewer than 20 episodes, its block of 50 rows."""
    if len(np.unique(episode)) >= 20:
        return np.asarray(episode)
    blocks = int(row.max(initial=0)) // _BLOCK + 1
    return np.asarray(np.asarray(episode) * blocks + np.asarray(row) // _BLOCK)


def _student(degrees: int) -> float:
    """Student's two-sided 99 % quantile, Cornish-Fisher to third order (good from 5 degrees)."""
    z, v = _Z, float(degrees)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3
