"""How far a model may be imagined on its held-out rows, summed up for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from bb_wm.diagnose.calibration.trust import TrustedHorizon, cases_of
from bb_wm.errors import DataError

if TYPE_CHECKING:
    from bb_wm.rssm import WorldModel
    from bb_wm.types import Episode

STARTS = 500


@dataclass(frozen=True, slots=True)
class Trusted:
    """Rows that a fitted `TrustedHorizon` trusts ahead of held-out rows.

    shares   of the starts those with 0, 1, ..., K trusted rows; () where nothing was fitted
    promised whether any caution kept the promise; without, every start has 0 rows
    bound, miss, doubt  the promise: except in a share `miss` of the starts, the error stays within
             `bound` (of vectors: standard deviations); sure at 1 - doubt
    lacking  why nothing was fitted, "" else
    """

    shares: tuple[float, ...] = ()
    promised: bool = False
    bound: float = 0.0
    miss: float = 0.0
    doubt: float = 0.0
    lacking: str = ""

    @classmethod
    def of(cls, trust: TrustedHorizon, model: WorldModel, episodes: Sequence[Episode]) -> Self:
        """What `trust` says on starts drawn from `episodes`."""
        rows = trust.rows_of(cases_of(model, episodes, trust.reach, count=STARTS).gap)
        shares = np.bincount(rows, minlength=trust.reach + 1) / len(rows)
        return cls(
            shares=tuple(shares.tolist()),
            promised=bool(np.isfinite(trust.caution)),
            bound=trust.bound,
            miss=trust.miss,
            doubt=trust.doubt,
        )

    @property
    def reach(self) -> int:
        """K, the most rows that could be trusted."""
        return max(len(self.shares) - 1, 0)

    @property
    def mean(self) -> float:
        """Trusted rows on average over starts."""
        return sum(k * share for k, share in enumerate(self.shares))

    def promise(self) -> str:
        """What holds in trusted rows, in words that follow the model's name."""
        return (
            f"stays within {self.bound:g} standard deviations of what comes, except in at most "
            f"{100 * self.miss:g}\u00a0% of cases ({100 * (1 - self.doubt):g}\u00a0% sure)"
        )

    def sentence(self) -> str:
        """The promise, or that there is none, for a person."""
        if self.lacking:
            return f"How many rows ahead may be trusted could not be fitted: {self.lacking}"
        if not self.promised:
            size = f"{self.bound:g} standard deviations"
            return f"No row ahead can be promised to stay within {size} of what comes."
        return (
            f"On average {self.mean:.1f} of {self.reach} rows ahead may be trusted: there it "
            f"{self.promise()}."
        )


def fit_trust(
    model: WorldModel, episodes: Sequence[Episode]
) -> tuple[TrustedHorizon | None, Trusted]:
    """A `TrustedHorizon` fitted on held-out episodes, to save, and what it says on them. Where
    there are too few episodes: None, and why."""
    try:
        trust = TrustedHorizon.fit(model, episodes)
    except DataError as error:
        return None, Trusted(lacking=str(error))
    return trust, Trusted.of(trust, model, episodes)
