from __future__ import annotations

import math

import numpy as np
import pytest
from tests.diagnose.helpers import make_episode

from bb_wm.diagnose import scores
from bb_wm.diagnose.baselines import Forecast
from bb_wm.diagnose.windows import cut_windows
from bb_wm.types import ObsSpec


def test_auroc_by_hand():
    # pairs (event, non-event): 0.8>0.1, 0.8>0.4, 0.35>0.1, 0.35<0.4 -> 3 of 4
    assert scores.auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    # a tie counts half: 0.5=0.5 (0.5), 0.5>0.2 (1) -> 1.5 of 2
    assert scores.auroc(np.array([0.5, 0.5, 0.2]), np.array([1, 0, 0])) == 0.75
    assert math.isnan(scores.auroc(np.array([0.1, 0.2]), np.array([1, 1])))


def test_auroc_equals_the_count_over_all_pairs():
    generator = np.random.default_rng(3)
    score = generator.integers(0, 6, 60) / 5.0
    event = generator.random(60) < 0.3
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in score[event] for b in score[~event]]
    assert scores.auroc(score, event) == pytest.approx(np.mean(wins))


def test_nrmse_by_hand():
    spec = ObsSpec.of(3)
    # variances over rows: 1, 4 and 0: the third dimension is constant and left out
    rows = np.array([[1.0, 2.0, 7.0], [-1.0, -2.0, 7.0]])
    variances = scores.measure_variances(spec, [make_episode(rows)])
    assert variances.variance.tolist() == [1.0, 4.0, 0.0]
    assert variances.left_out == 1
    assert variances.used_labels == ("obs[0]", "obs[1]")
    real = np.zeros((2, 1, 3))
    predicted = np.array([[[1.0, 2.0, 99.0]], [[0.0, 4.0, 99.0]]])
    # MSE = (1+0)/2, (4+16)/2 -> ratios 0.5, 2.5 -> mean 1.5
    result = scores.nrmse(predicted, real, np.ones((2, 1), bool), variances)
    assert result == pytest.approx([math.sqrt(1.5)])
    # only the second window has the row: ratios 0, 4 -> mean 2
    only = scores.nrmse(predicted, real, np.array([[False], [True]]), variances)
    assert only == pytest.approx([math.sqrt(2.0)])


def test_rows_nobody_has_are_nan_and_broken_predictions_infinite():
    spec = ObsSpec.of(1)
    variances = scores.measure_variances(spec, [make_episode(np.array([[1.0], [-1.0]]))])
    real = np.zeros((1, 2, 1))
    broken = np.array([[[np.nan], [0.0]]])
    result = scores.nrmse(broken, real, np.array([[True, False]]), variances)
    assert result[0] == np.inf
    assert math.isnan(result[1])


def test_exact_match_needs_every_variable_of_a_key():
    spec = ObsSpec.of({"a": 1})
    import gymnasium

    spec = ObsSpec.of(gymnasium.spaces.MultiDiscrete([3, 3]))
    rows = np.array([[0, 0], [1, 2], [2, 2]])
    cut = cut_windows([make_episode({"obs": rows})], context=1, reach=2, count=None, seed=0)
    predicted = np.array([[[1, 2], [2, 1]], [[2, 2], [0, 0]]])  # second window has one row only
    match = scores.exact_match(spec, Forecast({"obs": predicted}, np.zeros((2, 2))), cut)
    assert match["obs"].tolist() == [1.0, 0.0]


def test_image_error_is_in_units_of_the_full_range():
    import gymnasium

    spec = ObsSpec.of(gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8))
    rows = np.zeros((2, 8, 8, 3), np.uint8)
    cut = cut_windows([make_episode({"obs": rows})], context=1, reach=1, count=None, seed=0)
    predicted = Forecast({"obs": np.full((1, 1, 8, 8, 3), 51.0)}, np.zeros((1, 1)))
    assert scores.image_mse(spec, predicted, cut)["obs"] == pytest.approx([0.04])


def test_risk_within_k_is_known_after_an_event_or_a_real_end_only():
    obs = np.arange(4, dtype=np.float32)[:, None]
    risky = make_episode(obs, safety=np.array([0.0, 0.0, 2.0, 0.0]))
    ended = make_episode(obs, terminated=True)
    stopped = make_episode(obs)
    cut = cut_windows([risky, ended, stopped], context=1, reach=4, count=None, seed=0)
    event, known = scores.events_within(cut)
    first = {
        int(e): i for i, (e, s) in enumerate(zip(cut.episode, cut.start, strict=True)) if s == 0
    }
    assert event[first[0]].tolist() == [False, True, True, True]
    assert known[first[0]].tolist() == [True, True, True, True]
    assert event[first[1]].tolist() == [False] * 4
    assert known[first[1]].tolist() == [True] * 4
    assert known[first[2]].tolist() == [True, True, True, False]


def test_brier_by_hand():
    happened = np.array([[True, False]])
    valid = np.array([[True, True]])
    assert scores.brier(np.array([[0.9, 0.4]]), happened, valid) == pytest.approx(0.085)
