"""The arithmetic of promotion: by hand, by twin, and by what a bound promises."""

from dataclasses import replace

import numpy as np
import pytest

from bb_wm.diagnose.promotion.estimates import (
    _lost,
    believe,
    calibrate,
    delta_bound,
    divergence,
    estimate,
    quantile,
    resample,
)
from bb_wm.diagnose.promotion.result import Check, Outcome, Promotion, plain
from bb_wm.diagnose.promotion.rule import PromotionRule
from bb_wm.diagnose.promotion.views import NEW, OLD, Views
from bb_wm.errors import ConfigError

RULE = PromotionRule(resamples=400)


def views_of(old, new, true, *, own=None, per_episode=2, **changes):
    """Views of S states in which both choices are judged like the logged plan."""
    logged = np.stack([old, new]).astype(float)
    count = len(true)
    own = np.stack([logged, logged], axis=1) if own is None else own
    made = Views(
        episode=np.arange(count) // per_episode,
        true=np.asarray(true, float),
        logged=logged,
        own=own,
        acts=np.ones((2, count), bool),
        sound=np.ones((2, count), bool),
        same=np.ones(count, bool),
        value=np.zeros((2, 2, count)),
        wishes=np.zeros((2, count, 4)),
    )
    return replace(made, **changes)


def test_how_much_data_it_takes_is_the_formula():
    rule = PromotionRule()
    assert rule.episodes_needed == 59
    assert 1 - 0.95**59 >= 0.95 > 1 - 0.95**58
    assert rule.risky_episodes_needed == 29
    assert 1 - 0.9**29 >= 0.95 > 1 - 0.9**28
    assert PromotionRule(missed=0.01).risky_episodes_needed == 299
    assert rule.tolerance(old_level=2.0, severity=1.0, episodes=100) == pytest.approx(0.1)
    assert rule.tolerance(old_level=0.0, severity=1.5, episodes=90) == pytest.approx(0.05)


def test_a_weighted_quantile_by_hand_and_by_twin():
    assert quantile(np.array([3.0, 1.0, 2.0]), np.ones(3), 0.5) == 2.0
    assert quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 5.0, 0.0]), 0.8) == 1.0
    assert quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 3.0, 0.0]), 0.8) == 3.0
    draw = np.random.default_rng(0)
    for _ in range(20):
        values, counts = draw.normal(size=30), draw.integers(0, 4, 30)
        flat = np.repeat(values, counts)
        twin = np.quantile(flat, 0.95, method="inverted_cdf")
        assert quantile(values, counts.astype(float), 0.95) == twin


def test_who_is_believed():
    draw = np.random.default_rng(1)
    true = draw.random(200)
    noise = draw.normal(size=200)
    draws = np.ones((1, 200))
    for logged, weight in (
        ((noise, true), 1.0),
        ((true, noise), 0.0),
        ((true, true), 0.5),
        ((true + noise, true - noise), 0.5),
        ((true + noise, true - 0.5 * noise), 2 / 3),
    ):
        assert believe(np.stack(logged), true, draws)[0] == pytest.approx(weight)


def test_divergence_by_hand_and_in_units_of_nothing():
    wishes = np.array([[[0.0, 2.0]], [[2.0, 0.0]]])
    # z = -1, 1 against 1, -1: KL = (p1 - p0) * (1 - -1) with p1 = 1 / (1 + e^-2).
    top = 1 / (1 + np.exp(-2.0))
    assert divergence(wishes)[0] == pytest.approx(2 * (2 * top - 1))
    assert divergence(np.stack([wishes[0], 5 * wishes[0] + 3]))[0] == pytest.approx(0.0)
    assert divergence(np.stack([wishes[0], np.full((1, 2), 7.0)]))[0] > 0
    assert divergence(np.full((2, 1, 2), 7.0))[0] == 0.0


def test_divergence_is_about_one_minus_the_correlation():
    draw = np.random.default_rng(2)
    for correlation in (0.9, 0.5, 0.0):
        old, rest = draw.normal(size=(2, 400, 60))
        new = correlation * old + np.sqrt(1 - correlation**2) * rest
        found = divergence(np.stack([old, new])).mean()
        assert found == pytest.approx(1 - correlation, abs=0.12)


def test_no_episode_is_calibrated_by_itself():
    draw = np.random.default_rng(3)
    score, true = draw.random(60), draw.random(60)
    views = views_of(score, score, true)
    before = calibrate(views, RULE).logged
    for episode in (0, 7, 29):
        mine = views.episode == episode
        changed = np.where(mine, 1000.0, views.true)
        after = calibrate(replace(views, true=changed), RULE).logged
        assert np.array_equal(after[:, mine], before[:, mine])
        assert not np.array_equal(after[:, ~mine], before[:, ~mine])


def test_a_recalibrated_head_changes_nothing():
    draw = np.random.default_rng(4)
    score = draw.random(300)
    true = draw.poisson(score).astype(float)
    found = estimate(views_of(score, 0.3 * score**2, true), RULE)
    assert found.error[OLD] == pytest.approx(found.error[NEW], rel=0.02)
    assert abs(found.lost.value) < 0.02


def test_a_rise_is_seen_in_the_units_of_what_happened():
    draw = np.random.default_rng(5)
    score = draw.random(400)
    true = 10 * score  # both heads say a tenth of it
    own = np.stack([np.stack([0.2 + 0 * score, 0.5 + 0 * score])] * 2)
    found = estimate(views_of(score, score, true, own=own), RULE)
    assert found.delta.value == pytest.approx(3.0, abs=0.1)
    assert found.delta.bound >= found.delta.value
    held = np.stack([np.ones(400, bool), np.zeros(400, bool)])
    nothing = estimate(views_of(score, score, true, own=own, acts=held), RULE)
    assert nothing.risk[NEW] == 0.0
    assert nothing.delta.value == pytest.approx(-2.0, abs=0.1)


def test_a_blind_head_loses_what_the_old_one_saw():
    risky = np.arange(100) % 4 == 0
    seen = np.where(risky, 0.8, 0.1)
    draws = resample(np.arange(100), RULE)
    blind = np.stack([seen, np.full(100, 0.2)])
    found = _lost(blind, risky, draws, RULE)
    assert found.value == pytest.approx(0.75)
    assert 0.7 < found.bound <= found.value + 1e-9
    assert _lost(blind[::-1], risky, draws, RULE).value == pytest.approx(-3.0)
    assert _lost(np.stack([0 * seen, seen]), risky, draws, RULE).value == 0.0


def test_resamples_keep_episodes_whole():
    episode = np.array([4, 4, 9, 9, 9, 2])
    draws = resample(episode, RULE)
    assert draws.shape == (400, 6)
    assert np.array_equal(draws[:, 0], draws[:, 1])
    assert np.array_equal(draws[:, 2], draws[:, 4])
    assert (draws[:, 0] + draws[:, 2] + draws[:, 5] == 3).all()


def test_the_bound_is_above_the_truth_as_often_as_it_says():
    # 95 % wanted; states of one episode share half of their variance.
    truth = 1.6449 * np.sqrt(2.0)
    covered = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        shared = np.repeat(draw.normal(size=100), 3)
        change = np.stack([shared + draw.normal(size=300)] * 2)
        rule = replace(RULE, resamples=200, seed=seed)
        draws = resample(np.arange(300) // 3, rule)
        bound = delta_bound(change, 0.5, np.full(200, 0.5), draws, rule).bound
        covered += bound >= truth
    assert covered >= 51  # P(X < 51) < 0.002 for 60 tries of 0.95


def test_a_check_without_a_number_fails():
    assert not Check("x", "X", float("nan"), 1.0, Outcome.BLOCK).passed
    assert not Check("x", "X", float("nan"), 1.0, Outcome.BLOCK, at_least=True).passed
    assert Check("x", "X", 1.0, 1.0, Outcome.BLOCK).passed
    assert not Check("x", "X", 0.0, 1.0, Outcome.REFUSE, at_least=True).passed


def test_the_sentence_names_the_number_that_decided():
    checks = (
        Check("a", "Number of A", 3.0, 5.0, Outcome.REFUSE, at_least=True),
        Check("b", "Size of B", 3.0, 1.0, Outcome.BLOCK),
    )
    found = Promotion(Outcome.BLOCK, checks, {}, {})
    assert found.reason == "BLOCK: blocked; size of B is 3; it must be at most 1."
    refused = replace(found, outcome=Outcome.REFUSE)
    assert "number of A is 3; it must be at least 5" in refused.reason
    assert [check.code for check in found.failed] == ["a", "b"]
    assert "Size of B" in found.text


def test_settings_become_plain_json():
    from bb_wm.decide.planners import CEM
    from bb_wm.imagine.utility import Limit, Utility

    told = plain(Utility(limit=Limit(0.5), terminal=plain))
    assert told["limit"] == {"kind": "Limit", "bound": 0.5, "scope": "outcome"}
    assert told["terminal"] == "bb_wm.diagnose.promotion.result.plain"
    assert told["risk"]["kind"] == "Mean"
    assert plain(CEM())["kind"] == "CEM"
    assert plain([float("nan"), float("inf"), 1.5]) == [None, "inf", 1.5]


@pytest.mark.parametrize(
    ("name", "value"),
    [("percentile", 1.0), ("confidence", 0.0), ("missed", float("nan")), ("trust", -1.0),
     ("share", 2.0), ("states", 0), ("folds", 1), ("resamples", 10), ("seed", True)],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_named(name, value):
    with pytest.raises(ConfigError) as caught:
        PromotionRule(**{name: value})
    assert caught.value.field == f"PromotionRule.{name}"
