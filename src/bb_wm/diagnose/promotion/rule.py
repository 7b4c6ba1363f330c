"""The promotion rule: its thresholds, and how much data it takes to judge by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bb_wm.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRule:
    """When a new model may replace the old one.

    percentile  of Delta V_s over states that may not rise
    confidence  of every bound, one-sided, by resampling episodes
    share       a rise is not counted below this share of what the old model's own plans carry at
                the same percentile ...
    missed      share of risk that may go unseen: the new head may not lose more than this of the
                risk that the old one sees where risk happened, and so many risky episodes are
                asked for that such a loss cannot hide (`risky_episodes_needed`)
    trust       largest mean KL(new || old), in nats, between what the two would choose among the
                same plans. Preferences are softmaxes of utilities in standard deviations, for
                which KL is about 1 minus the correlation of the two utilities: 0 for models that
                agree, 1 for models that have nothing in common. Mending a head that was blind in a
                third of the states costs about 0.5.
    context     real rows each model reads before it plans
    states      at most so many held-out states are compared
    samples     rollouts per plan when its risk is judged
    shared      random plans per state that both models judge
    folds       calibration never judges an episode by a table that was fitted on it
    resamples   of the bootstrap
    seed        of every draw; the same arguments give the same verdict
    """

    percentile: float = 0.95
    confidence: float = 0.95
    share: float = 0.05
    missed: float = 0.1
    trust: float = 0.8
    context: int = 10
    states: int = 400
    samples: int = 16
    shared: int = 16
    folds: int = 5
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("percentile", "confidence", "missed"):
            _within(name, getattr(self, name), 0.0, 1.0, open_ends=True)
        _within("share", self.share, 0.0, 1.0)
        _within("trust", self.trust, 0.0, math.inf)
        least = {"context": 1, "states": 1, "samples": 1, "shared": 1, "folds": 2, "resamples": 100}
        for name, low in {**least, "seed": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(
                    f"PromotionRule.{name}", expected=f"an int >= {low}", actual=repr(value)
                )

    @property
    def episodes_needed(self) -> int:
        """Episodes without which a percentile has no upper bound at this confidence.

        The largest of n independent values exceeds the percentile p with probability 1 - p^n; 59
        for p = 0.95 at 95 %. States of one episode are not independent, so episodes count.
        """
        return math.ceil(math.log(1 - self.confidence) / math.log(self.percentile))

    @property
    def risky_episodes_needed(self) -> int:
        """Episodes with risk without which a head that misses `missed` of it could look sound.

        It would be caught out in none of n with probability (1 - missed)^n; 29 for 10 % at 95 %.
        """
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.missed))

    def tolerance(self, old_level: float, severity: float, episodes: int) -> float:
        """The rise of Delta V_s, in V_s to go, that is not counted as one.

        The larger of `share` of the old model's own level at the percentile, and of what so many
        episodes cannot tell from nothing: where none of n shows risk, its rate may still be 3 / n
        (rule of three, 95 %), and when it happens it is `severity`.
        """
        return max(self.share * old_level, 3.0 / max(episodes, 1) * severity)


def _within(name: str, value: float, low: float, high: float, *, open_ends: bool = False) -> None:
    sound = isinstance(value, int | float) and not isinstance(value, bool)
    if sound and (low < value < high if open_ends else low <= value <= high):
        return
    ends = f"({low:g}, {high:g})" if open_ends else f"[{low:g}, {high:g}]"
    raise ConfigError(f"PromotionRule.{name}", expected=f"within {ends}", actual=repr(value))
