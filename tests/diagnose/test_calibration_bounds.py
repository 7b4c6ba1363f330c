"""Conformal bounds: exact tails, the promise over calibration draws, groups and selection."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bb_wm.diagnose.calibration import Claims, ConformalBound
from bb_wm.diagnose.calibration.binomial import (
    at_least,
    clopper_pearson,
    conformal_rank,
    least_trials,
)
from bb_wm.durable import dump_json, load_json
from bb_wm.errors import BatchError, CheckpointError, ConfigError

ALPHA = 0.05


def exact_tail(count: int, trials: int, p: Fraction) -> Fraction:
    return sum(
        (math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(count, trials + 1)),
        Fraction(0),
    )


@given(st.integers(1, 60), st.integers(0, 61), st.fractions(0, 1, max_denominator=40))
def test_tail_is_the_exact_sum(trials, count, p):
    expected = float(exact_tail(count, trials, p))
    assert at_least(count, trials, float(p)) == pytest.approx(expected, abs=1e-11)


def test_episodes_that_a_bound_needs():
    assert [least_trials(a, 0.05) for a in (0.05, 0.01, 0.001)] == [59, 299, 2995]
    assert conformal_rank(58, 0.05, 0.05) is None
    assert conformal_rank(59, 0.05, 0.05) == 59


@pytest.mark.parametrize("trials", [59, 100, 300, 1000])
def test_rank_is_the_least_that_holds(trials):
    rank = conformal_rank(trials, ALPHA, 0.05)
    assert float(exact_tail(rank, trials, Fraction(19, 20))) <= 0.05
    assert float(exact_tail(rank - 1, trials, Fraction(19, 20))) > 0.05


def test_clopper_pearson_by_hand():
    # 0 of n: the upper end solves (1 - p)^n = 0.025; n of n mirrors it.
    low, high = clopper_pearson(0, 20)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-9))
    assert clopper_pearson(20, 20) == (pytest.approx(0.025 ** (1 / 20), abs=1e-9), 1.0)
    low, high = clopper_pearson(3, 50)
    assert at_least(3, 50, low) == pytest.approx(0.025, abs=1e-6)
    assert at_least(4, 50, high) == pytest.approx(0.975, abs=1e-6)


def test_promise_over_calibration_draws_is_the_theory():
    """Uniform scores: the miss rate of margin m is 1 - m exactly, no test episodes needed."""
    random = np.random.default_rng(0)
    draws, size = 4000, 300
    rank = conformal_rank(size, ALPHA, 0.05)
    margins = np.sort(random.uniform(size=(draws, size)), axis=1)[:, rank - 1]
    share = float((1 - margins > ALPHA).mean())
    theory = float(exact_tail(rank, size, Fraction(19, 20)))
    assert abs(share - theory) < 4 * math.sqrt(theory / draws)
    assert share <= 0.05
    fitted = ConformalBound.fit(random.uniform(size=size))
    assert fitted.margin() < 1.0


def episodes_of(random, count, rows, candidates, *, choose):
    """Claims of plans: V ~ U(0, 1) per candidate, estimated with error; the chosen one is done."""
    truth = random.uniform(0, 1, (count, rows, candidates))
    seen = truth + 0.3 * random.standard_normal(truth.shape)
    pick = seen.argmin(-1) if choose else np.zeros((count, rows), int)
    take = np.take_along_axis
    return Claims(
        take(seen, pick[..., None], -1).ravel(),
        np.ones(count * rows),
        take(truth, pick[..., None], -1).ravel(),
        np.repeat(np.arange(count), rows),
    )


def miss_rate(bound, claims):
    broken = claims.happened > bound.bound(claims.estimate, claims.scale)
    return np.unique(claims.episode[broken]).size / np.unique(claims.episode).size


def test_200_calibration_draws_also_for_the_plan_of_least_risk():
    random = np.random.default_rng(1)
    worst = {
        c: episodes_of(random, 10_000, 5, 16, choose=c).worst_excess()[1] for c in (False, True)
    }
    kept = {}
    for calibrated, deployed in ((False, False), (True, True), (False, True)):
        rates = []
        for _ in range(200):
            drawn = random.choice(4000, 300, replace=False)  # the other 6,000 judge
            fitted = ConformalBound.fit(worst[calibrated][drawn], alpha=ALPHA)
            rates.append(float((worst[deployed][4000:] > fitted.margin()).mean()))
        kept[calibrated, deployed] = float(np.mean(np.asarray(rates) <= ALPHA))
    assert kept[False, False] >= 0.95
    assert kept[True, True] >= 0.95
    assert kept[False, True] < 0.05  # calibrated on random plans, deployed on chosen ones


def test_a_bound_per_step_breaks_per_episode():
    random = np.random.default_rng(2)
    claims = episodes_of(random, 2000, 50, 2, choose=False)
    per_step = float(np.quantile(claims.happened - claims.estimate, 0.95))
    broken = claims.happened > claims.estimate + per_step
    assert np.unique(claims.episode[broken]).size / 2000 > 0.4
    fitted = ConformalBound.fit(claims.worst_excess()[1][:1000])
    held = claims.episode >= 1000
    late = Claims(*(getattr(claims, f)[held] for f in ("estimate", "scale", "happened", "episode")))
    assert miss_rate(fitted, late) <= ALPHA


def test_groups_stand_alone_and_small_or_unknown_ones_have_no_bound():
    scores = np.concatenate([np.linspace(0, 1, 100), np.linspace(5, 6, 70), np.zeros(58)])
    groups = ["safe"] * 100 + ["risky"] * 70 + ["rare"] * 58
    fitted = ConformalBound.fit(scores, groups)
    assert fitted.margin("safe") < 1.0
    assert 5 < fitted.margin("risky") <= 6
    assert fitted.margin("rare") == fitted.margin("never seen") == math.inf
    assert fitted.counts == {"rare": 58, "risky": 70, "safe": 100}
    assert fitted.needed == 59
    assert fitted.bound(0.0, 1.0, "rare") == math.inf


def test_ties_constants_and_nothing():
    assert ConformalBound.fit(np.zeros(100)).margin() == 0.0
    assert ConformalBound.fit(np.full(100, 2.0)).margin() == 2.0
    assert ConformalBound.fit(np.zeros(0)).margin() == math.inf
    assert ConformalBound.fit(np.full(100, -3.0)).margin() == 0.0  # never under the estimate


def test_nan_counts_as_unbounded():
    scores = np.zeros(100)
    scores[:2] = np.nan
    assert ConformalBound.fit(scores).margin() == math.inf  # rank 99 of 100
    scores[1] = 0.0
    assert ConformalBound.fit(scores).margin() == 0.0
    claims = Claims(np.zeros(2), np.ones(2), np.array([np.nan, 0.0]), np.array([4, 9]))
    assert claims.worst_excess()[1].tolist() == [math.inf, 0.0]


def test_worst_excess_and_bound_by_hand():
    claims = Claims(
        np.array([1.0, 2.0, 0.0]), np.array([2.0, 1.0, 0.5]), np.array([2.0, 5.0, 0.0]), [7, 7, 3]
    )
    episodes, worst = claims.worst_excess()
    assert episodes.tolist() == [3, 7]
    assert worst.tolist() == [0.0, 3.0]
    fitted = ConformalBound(0.05, 0.05, {"all": 2.0}, {"all": 100})
    np.testing.assert_allclose(fitted.bound([1.0, -9.0], [0.5, 1.0]), [2.0, 0.0])
    assert np.isinf(fitted.bound([np.nan, 1.0, 1.0], [1.0, np.nan, 0.0])).all()


def test_refusals():
    with pytest.raises(BatchError):
        Claims(np.zeros(2), np.ones(2), np.zeros(3), np.zeros(2, int))
    with pytest.raises(BatchError):
        Claims(np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2, int))
    with pytest.raises(BatchError):
        Claims(np.zeros(2), np.ones(2), np.zeros(2), np.zeros(2))
    with pytest.raises(BatchError):
        ConformalBound.fit(np.zeros((2, 2)))
    with pytest.raises(BatchError):
        ConformalBound.fit(np.zeros(2), ["a"])
    for share in (0, 1, -0.1, math.nan, True, "0.1"):
        with pytest.raises(ConfigError):
            ConformalBound.fit(np.zeros(60), alpha=share)
        with pytest.raises(ConfigError):
            ConformalBound.fit(np.zeros(60), doubt=share)


def test_json():
    fitted = ConformalBound.fit(np.linspace(0, 1, 130), ["a"] * 100 + ["b"] * 30)
    text = dump_json(fitted.to_json())
    assert ConformalBound.from_json(load_json(text, error=CheckpointError)) == fitted


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0},
        {"doubt": None},
        {"margins": {"all": -1.0}},
        {"margins": {"all": True}},
        {"margins": {"other": 1.0}},
        {"counts": {"all": 58}},  # a finite margin that so few episodes cannot give
        {"counts": {"all": 100.0}},
        {"counts": None},
    ],
)
def test_json_that_is_not_a_bound(change):
    good = ConformalBound.fit(np.linspace(0, 1, 100)).to_json()
    with pytest.raises(CheckpointError):
        ConformalBound.from_json({**good, **change})
