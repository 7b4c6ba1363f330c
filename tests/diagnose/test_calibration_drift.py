"""The drift monitor: uniform p-values, a fair bet, Ville's inequality, detection, a saved state."""

import math

import numpy as np
import pytest

from bb_wm.diagnose.calibration import DriftMonitor
from bb_wm.durable import dump_json, load_json
from bb_wm.errors import BatchError, CheckpointError, ConfigError, DataError


def test_p_values_are_uniform_and_independent_with_ties_too():
    random = np.random.default_rng(0)
    values = []
    for seed in range(400):
        # few distinct scores, and few of them: only the randomised ties make this exact
        monitor = DriftMonitor.fit(random.integers(0, 4, 20).astype(float), seed=seed)
        row = []
        for _ in range(10):
            monitor.update(float(random.integers(0, 4)))
            row.append(monitor.p_value)
        values.append(row)
    p = np.asarray(values)
    counts = np.histogram(p, bins=10, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-squared, 9 degrees, 0.1 %
    neighbours = np.corrcoef(p[:, :-1].ravel(), p[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(p[:, 1:].size)


def test_a_bet_is_fair_whatever_the_wealth():
    """E over uniform p of the wealth after a step is the wealth before it (a martingale)."""
    u = (np.arange(1000) + 0.5) / 1000
    p, weight = u**40, 40 * u**39  # p = u^40 tames the pole at 0
    for before in (0, 1, 5):
        after = []
        for value in p:
            monitor = DriftMonitor.fit(np.arange(8.0))
            for step in range(before):
                monitor._steps += 1
                monitor._bet((step + 1) / 7)
            wealth = math.exp(monitor.log_wealth)
            monitor._steps += 1
            monitor._bet(value)
            after.append(math.exp(monitor.log_wealth))
        assert float(np.mean(np.asarray(after) * weight)) == pytest.approx(wealth, rel=1e-4)


def test_false_alarms_stay_below_alpha():
    random = np.random.default_rng(1)
    alarms = 0
    for seed in range(200):
        monitor = DriftMonitor.fit(random.standard_normal(40), alpha=0.1, seed=seed)
        alarms += any(monitor.update(x) for x in random.standard_normal(150))
    assert alarms / 200 <= 0.1  # Ville; what is found is well below


def test_a_shift_of_one_sigma_is_found_within_200():
    random = np.random.default_rng(2)
    waits = []
    for seed in range(20):
        monitor = DriftMonitor.fit(random.standard_normal(300), alpha=1e-4, seed=seed)
        assert not any(monitor.update(x) for x in random.standard_normal(500))
        shifted = 1.0 + random.standard_normal(200)
        alarms = [n for n, x in enumerate(shifted, 1) if monitor.update(x)]
        waits.append(alarms[0] if alarms else 999)
    assert max(waits) <= 200
    assert np.median(waits) < 100


def test_smaller_scores_are_no_alarm_and_nan_is_the_largest():
    random = np.random.default_rng(3)
    monitor = DriftMonitor.fit(random.standard_normal(100), alpha=1e-3)
    assert not any(monitor.update(x - 3) for x in random.standard_normal(300))
    monitor.reset()
    assert [monitor.update(math.nan) for _ in range(100)][-1]
    again = DriftMonitor.fit(random.standard_normal(100), alpha=1e-3)
    assert [again.update(math.inf) for _ in range(100)][-1]


def test_alarm_stays_until_reset():
    monitor = DriftMonitor.fit(np.arange(100.0), alpha=0.01)
    while not monitor.update(1e6):
        pass
    assert monitor.update(-1e6)
    monitor.reset()
    assert not monitor.alarmed
    assert monitor.log_wealth == 0.0
    assert monitor.steps == 0
    assert not monitor.update(50.0)


def test_a_saved_monitor_goes_on_with_the_same_bits():
    random = np.random.default_rng(4)
    monitor = DriftMonitor.fit(random.standard_normal(100), seed=5)
    monitor.reset()
    for x in random.standard_normal(30):
        monitor.update(x)
    state = load_json(dump_json(monitor.to_json()), error=CheckpointError)
    again = DriftMonitor.from_json(state)
    for x in random.standard_normal(30):
        assert monitor.update(x) == again.update(x)
        assert (monitor.p_value, monitor.log_wealth) == (again.p_value, again.log_wealth)
    assert monitor.to_json() == again.to_json()


def test_no_score_gives_infinite_numbers():
    monitor = DriftMonitor.fit(np.full(20, np.nan))
    for value in (0.0, -math.inf, math.inf, 1e300):
        monitor.update(value)
        assert 0 < monitor.p_value <= 1
        assert math.isfinite(monitor.log_wealth)


def test_refusals():
    with pytest.raises(DataError):
        DriftMonitor.fit(np.zeros(7))
    with pytest.raises(BatchError):
        DriftMonitor.fit(np.zeros((8, 2)))
    for settings in ({"alpha": 0}, {"alpha": 1.5}, {"seed": -1}, {"seed": True}, {"bins": 1}):
        with pytest.raises(ConfigError):
            DriftMonitor.fit(np.zeros(8), **settings)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 2},
        {"seed": "0"},
        {"steps": 2},
        {"counts": [0]},
        {"counts": None},
        {"running": [0.0]},
        {"running": ["x"] * 7},
        {"edges": [1.0, 0.0]},
        {"alarmed": 1},
        {"epoch": -1},
        {"epoch": 0.0},
    ],
)
def test_json_that_is_not_a_monitor(change):
    monitor = DriftMonitor.fit(np.arange(10.0))
    monitor.update(3.0)
    with pytest.raises(CheckpointError):
        DriftMonitor.from_json({**monitor.to_json(), **change})
    with pytest.raises(CheckpointError):
        DriftMonitor.from_json([])
