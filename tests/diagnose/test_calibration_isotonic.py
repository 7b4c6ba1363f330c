"""Isotonic regression against a brute-force twin, by hand, and on what it must refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bb_wm.diagnose.calibration import Isotonic
from bb_wm.durable import dump_json, load_json
from bb_wm.errors import BatchError, CheckpointError, DataError, RangeError


def twin(x, y, w):
    """max over j <= i of min over k >= i of the weighted mean of y_j..y_k, per distinct score."""
    knots = np.unique(x)
    mass = np.array([w[x == a].sum() for a in knots])
    mean = np.array([(w * y)[x == a].sum() for a in knots]) / mass
    n = len(knots)

    def average(j, k):
        return (mean[j : k + 1] * mass[j : k + 1]).sum() / mass[j : k + 1].sum()

    levels = [max(min(average(j, k) for k in range(i, n)) for j in range(i + 1)) for i in range(n)]
    return knots, np.array(levels)


rows = st.lists(
    st.tuples(st.integers(-4, 4), st.integers(0, 8), st.sampled_from([0.25, 1.0, 3.0])),
    min_size=2,
    max_size=14,
)


@given(rows)
def test_agrees_with_the_minimax_formula(given_rows):
    x, y, w = (np.array(column, float) for column in zip(*given_rows, strict=True))
    knots, levels = twin(x, y, w)
    np.testing.assert_allclose(Isotonic.fit(x, y, w)(knots), levels, atol=1e-12)


def test_by_hand():
    # 3 and 1 violate and pool to 2; the tie at score 5 is one place of mean 4.
    table = Isotonic.fit([1, 2, 3, 5, 5], [0, 3, 1, 3, 5])
    np.testing.assert_allclose(table([1, 2, 3, 5]), [0, 2, 2, 4])
    np.testing.assert_allclose(table([1.5, 4.0]), [1, 3])  # linear between knots
    np.testing.assert_allclose(table([-9, 9]), [0, 4])  # level beyond them
    assert table.count == 5
    assert not table.flat


def test_weights_count_rows_and_zero_weights_none():
    repeated = Isotonic.fit([1, 1, 2, 3], [1, 1, 0, 2])
    weighted = Isotonic.fit([1, 2, 3, 9], [1, 0, 2, 100], [2, 1, 1, 0])
    np.testing.assert_allclose(weighted([1, 2, 3]), repeated([1, 2, 3]))
    assert weighted.count == 3


def test_keeps_the_mean_and_recovers_a_known_distortion():
    random = np.random.default_rng(0)
    truth = random.uniform(0, 1, 20_000)
    happened = random.uniform(size=truth.size) < truth
    table = Isotonic.fit(truth**3, happened)  # the score is a distorted probability
    assert table(truth**3).mean() == pytest.approx(happened.mean(), abs=1e-9)
    assert np.abs(table(truth**3) - truth).mean() < 0.02


def test_thinned_table_is_the_same_function():
    random = np.random.default_rng(1)
    x = random.normal(size=60)
    y = random.uniform(size=60) < 1 / (1 + np.exp(-2 * x))
    table = Isotonic.fit(x, y)
    knots, levels = twin(x, y.astype(float), np.ones(60))
    assert len(table.knots) < 40
    np.testing.assert_allclose(table(knots), levels, atol=1e-12)


def test_scores_that_order_nothing_say_so():
    assert Isotonic.fit([1, 2, 3], [1, 1, 0]).flat
    assert Isotonic.fit([7, 7, 7], [0, 1, 1]).flat


def test_nan_stays_nan_and_shape_is_kept():
    answer = Isotonic.fit([0, 1], [0, 1])([[0.5, np.nan], [np.inf, -np.inf]])
    assert answer.shape == (2, 2)
    assert np.isnan(answer[0, 1])
    np.testing.assert_array_equal(answer[1], [1, 0])


@pytest.mark.parametrize(
    ("x", "y", "w", "error"),
    [
        ([], [], None, DataError),
        ([1.0], [1.0], None, DataError),
        ([1.0, 2.0], [1.0, 0.0], [1.0, 0.0], DataError),
        ([1.0, 2.0], [1.0], None, BatchError),
        ([[1.0, 2.0]], [[1.0, 0.0]], None, BatchError),
        ([1.0, np.nan], [1.0, 0.0], None, BatchError),
        ([1.0, 2.0], [1.0, np.inf], None, BatchError),
        ([1.0, 2.0], [1.0, -0.1], None, RangeError),
        ([1.0, 2.0], [1.0, 0.1], [1.0, -1.0], RangeError),
    ],
)
def test_refuses(x, y, w, error):
    with pytest.raises(error):
        Isotonic.fit(x, y, w)


def test_minimum_is_the_callers():
    with pytest.raises(DataError, match="at least 50 rows"):
        Isotonic.fit(np.arange(49), np.arange(49), minimum=50)


def test_json_brings_the_same_bits_back():
    random = np.random.default_rng(2)
    table = Isotonic.fit(random.normal(size=300), random.uniform(size=300))
    again = Isotonic.from_json(load_json(dump_json(table.to_json()), error=CheckpointError))
    probe = random.normal(size=50)
    np.testing.assert_array_equal(again(probe), table(probe))
    assert again.count == 300


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"knots": [0, 1], "levels": [0, 1]},
        {"knots": [0, 1], "levels": [0, 1], "count": True},
        {"knots": [0, 1], "levels": [1, 0], "count": 2},
        {"knots": [1, 1], "levels": [0, 1], "count": 2},
        {"knots": [0, 1], "levels": [-1, 1], "count": 2},
        {"knots": [0, 1], "levels": [0, float("nan")], "count": 2},
        {"knots": ["0", 1], "levels": [0, 1], "count": 2},
        {"knots": [], "levels": [], "count": 2},
        {"knots": [0, 1], "levels": [0], "count": 2},
    ],
)
def test_json_that_is_not_a_table(data):
    with pytest.raises(CheckpointError):
        Isotonic.from_json(data)
