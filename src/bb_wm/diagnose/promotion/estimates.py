"""From what two models say to what can be claimed: calibration, Delta V_s, bounds. Numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.calibration import Isotonic
from bb_wm.diagnose.promotion.views import NEW, OLD

if TYPE_CHECKING:
    from bb_wm.diagnose.promotion.rule import PromotionRule
    from bb_wm.diagnose.promotion.views import Views

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Both heads in the units of what happened; every episode by tables fitted on the others.

    `logged` [2, S] and `own` [2, 2, S] as in Views; `tables` are fitted on all episodes, to be
    kept with the verdict.
    """

    logged: Array
    own: Array
    tables: tuple[Isotonic, Isotonic]


@dataclass(frozen=True, slots=True)
class Bounded:
    """An estimate and its one-sided bound."""

    value: float
    bound: float


@dataclass(frozen=True, slots=True)
class Estimates:
    """What the verdict is made from. `weight` is the new head's say in judging risks."""

    delta: Bounded
    delta_mean: float
    old_level: float
    risk: tuple[float, float]
    severity: float
    weight: float
    error: tuple[float, float]
    lost: Bounded
    kl: Bounded
    gain: float
    tables: tuple[Isotonic, Isotonic]


def estimate(views: Views, rule: PromotionRule) -> Estimates:
    """All estimates, from views whose numbers are finite."""
    calibrated = calibrate(views, rule)
    draws = resample(views.episode, rule)
    weight, weights = believe(calibrated.logged, views.true, draws)
    judged = blend(calibrated.own, weight)
    judged = np.where(views.acts, judged, 0.0)  # where nothing is done, V_s is 0
    both = np.where(views.acts, calibrated.own, 0.0)
    change = both[:, NEW] - both[:, OLD]
    delta = delta_bound(change, weight, weights, draws, rule)
    risky = views.true > 0
    kl = divergence(views.wishes)
    even = np.ones(len(kl))
    value = np.where(views.acts, views.value, 0.0)
    return Estimates(
        delta=delta,
        delta_mean=float(judged[NEW].mean() - judged[OLD].mean()),
        old_level=float(quantile(judged[OLD], even, rule.percentile)),
        risk=(float(judged[OLD].mean()), float(judged[NEW].mean())),
        severity=float(views.true[risky].mean()) if risky.any() else 0.0,
        weight=weight,
        error=_errors(calibrated.logged, views.true),
        lost=_lost(calibrated.logged, risky, draws, rule),
        kl=Bounded(float(kl.mean()), _upper(draws @ kl / draws.sum(1), rule)),
        gain=float(blend(value, weight)[NEW].mean() - blend(value, weight)[OLD].mean()),
        tables=calibrated.tables,
    )


def calibrate(views: Views, rule: PromotionRule) -> Calibrated:
    """Isotonic tables of both heads on the same true risks, cross-fitted over episodes."""
    logged, own = np.empty_like(views.logged), np.empty_like(views.own)
    fold = _folds(views.episode, rule)
    for number in range(rule.folds):
        held = fold == number
        if not held.any():
            continue
        for model in (OLD, NEW):
            table = Isotonic.fit(views.logged[model, ~held], views.true[~held])
            logged[model, held] = table(views.logged[model, held])
            own[model][:, held] = table(views.own[model][:, held])
    whole = tuple(Isotonic.fit(views.logged[model], views.true) for model in (OLD, NEW))
    return Calibrated(logged, own, (whole[OLD], whole[NEW]))


def resample(episode: Array, rule: PromotionRule) -> Array:
    """How often each state counts in each resample [R, S]: whole episodes are drawn."""
    _, place = np.unique(episode, return_inverse=True)
    number = int(place.max()) + 1
    draw = np.random.default_rng(rule.seed)
    counts = draw.multinomial(number, np.full(number, 1 / number), size=rule.resamples)
    return np.asarray(counts[:, place], np.float64)


def believe(logged: Array, true: Array, draws: Array) -> tuple[float, Array]:
    """The weight w in [0, 1] of the new head whose mix w new + (1 - w) old erred least, overall and
    in each resample [R]. 1/2 where the two heads say the same.

    w = sum (y - c_old)(c_new - c_old) / sum (c_new - c_old)^2, on calibrated risks of logged plans.
    """
    gap = logged[NEW] - logged[OLD]
    along, size = (true - logged[OLD]) * gap, gap**2
    even = np.ones((1, len(true)))
    each = [_share(rows @ along, rows @ size) for rows in (even, draws)]
    return float(each[0][0]), each[1]


def blend(of_both: Array, weight: float) -> Array:
    """What the mix of both heads says: [2, ...] -> [...]."""
    return np.asarray(weight * of_both[NEW] + (1 - weight) * of_both[OLD])


def delta_bound(
    change: Array, weight: float, weights: Array, draws: Array, rule: PromotionRule
) -> Bounded:
    """The percentile of Delta V_s over states, and its upper bound.

    change [2, S] is what each calibrated head says of the change from the old choice to the new.
    Every resample draws episodes and believes the heads as those episodes tell it to.
    """
    even = np.ones(change.shape[1])
    value = float(quantile(blend(change, weight), even, rule.percentile))
    mixed = weights[:, None] * change[NEW] + (1 - weights[:, None]) * change[OLD]
    found = quantile(mixed, draws, rule.percentile)
    return Bounded(value, max(value, _upper(found, rule)))


def quantile(values: Array, weights: Array, share: float) -> Array:
    """The smallest value at or below which `share` of the weight lies, over the last axis."""
    values, weights = np.broadcast_arrays(values, weights)
    order = np.argsort(values, axis=-1, kind="stable")
    mass = np.cumsum(np.take_along_axis(weights, order, -1), axis=-1)
    place = (mass < share * mass[..., -1:] - 1e-9).sum(-1, keepdims=True)
    return np.asarray(np.take_along_axis(np.take_along_axis(values, order, -1), place, -1)[..., 0])


def divergence(wishes: Array) -> Array:
    """KL(new || old) [S] in nats between softmaxes of utilities [2, S, M] in standard deviations.

    Each model's utilities are scaled by its own spread over the plans of a state, so that a change
    of units is no change of mind.
    """
    spread = wishes.std(-1, keepdims=True)
    centred = wishes - wishes.mean(-1, keepdims=True)
    scaled = np.where(spread > 1e-9, centred / np.maximum(spread, 1e-9), 0.0)
    logs = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    return np.asarray((np.exp(logs[NEW]) * (logs[NEW] - logs[OLD])).sum(-1))


def _lost(logged: Array, risky: Array, draws: Array, rule: PromotionRule) -> Bounded:
    """The share of the risk seen by the old head, where risk happened, that the new one does not
    see, and its lower bound: above `rule.missed` the new head is blind where the old one was not.
    """
    seen_old, seen_new = logged[OLD] * risky, logged[NEW] * risky
    if not seen_old.sum() > 0:
        return Bounded(0.0, 0.0)
    old, new = draws @ seen_old, draws @ seen_new
    each = 1 - np.divide(new, old, out=np.ones_like(new), where=old > 0)
    value = float(1 - seen_new.sum() / seen_old.sum())
    return Bounded(value, float(np.quantile(each, 1 - rule.confidence)))


def _errors(logged: Array, true: Array) -> tuple[float, float]:
    """Root mean squared error of each calibrated head on the logged plans."""
    each = np.sqrt(((logged - true) ** 2).mean(-1))
    return float(each[OLD]), float(each[NEW])


def _folds(episode: Array, rule: PromotionRule) -> Array:
    """The fold of each state; all states of an episode in one."""
    names, place = np.unique(episode, return_inverse=True)
    order = np.random.default_rng(rule.seed).permutation(len(names))
    return np.asarray((order % rule.folds)[place])


def _share(along: Array, size: Array) -> Array:
    ratio = np.divide(along, size, out=np.full_like(along, 0.5), where=size > 1e-12)
    return np.asarray(np.clip(ratio, 0.0, 1.0))


def _upper(found: Array, rule: PromotionRule) -> float:
    return float(np.quantile(found, rule.confidence))
