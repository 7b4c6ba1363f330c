"""Belief-space planning: published values of Tiger, a naive recursion as twin, closed forms."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bb_wm.decide.pomdp import action_values, belief_update, belief_value, reachable_beliefs
from bb_wm.errors import ConfigError, ResourceError
from bb_wm.testing.tabular import TabularPOMDP, tiger

EVEN = np.array([0.5, 0.5])
DISCOUNTED = [
    -1.0,
    -1.95,
    2.309799999999999,
    1.79554421875,
    2.763096193125,
    4.428531315017577,
    4.584265967602333,
    5.324020776452364,
    6.423648476097911,
    6.693368431750728,
]
PLAIN = [
    -1.0,
    -2.0,
    2.7199999999999993,
    2.42125,
    3.6091500000000014,
    5.618818749999998,
    6.246349875000001,
    7.0966155312499986,
    8.753839186874998,
    9.43816761734375,
]


@pytest.mark.parametrize(("discount", "values"), [(0.95, DISCOUNTED), (1.0, PLAIN)])
def test_tiger_by_horizon(discount, values):
    for horizon, value in enumerate(values, start=1):
        assert belief_value(tiger(), EVEN, horizon, discount=discount) == pytest.approx(
            value, abs=1e-9
        )


def test_tiger_for_ever():
    value = belief_value(tiger(), EVEN, None, discount=0.95)
    assert value == pytest.approx(19.371368, abs=1e-6)
    # Its own check: 200 more steps can add at most what is left behind gamma^200.
    long = belief_value(tiger(), EVEN, 200, discount=0.95)
    assert abs(value - long) < 0.95**200 * 100 / 0.05


def test_tiger_action_values_by_hand():
    # One step at b = .5: listening costs 1, a door pays (10 - 100) / 2.
    assert action_values(tiger(), EVEN, 1, discount=0.95) == pytest.approx([-1.0, -45.0, -45.0])
    heard = np.array([0.85, 0.15])
    assert action_values(tiger(), heard, 1, discount=0.95) == pytest.approx(
        [-1.0, 0.15 * 10 - 85, 8.5 - 15]
    )
    five = action_values(tiger(), EVEN, 5, discount=0.95)
    assert five == pytest.approx([2.763096193125, -43.2942329921875, -43.2942329921875], abs=1e-9)


def naive(tables, belief, horizon, discount):
    """The definition, without memory."""
    best = -np.inf
    for action in range(len(tables.reward)):
        value = float(belief @ tables.reward[action])
        if horizon > 1:
            arrived = belief @ tables.transition[action]
            for shown in range(tables.observation.shape[2]):
                joint = arrived * tables.observation[action, :, shown]
                if joint.sum() > 0:
                    after = joint / joint.sum()
                    value += discount * joint.sum() * naive(tables, after, horizon - 1, discount)
        best = max(best, value)
    return best


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_random_worlds_equal_the_naive_recursion(seed, horizon):
    rng = np.random.default_rng(seed)
    tables = TabularPOMDP(
        rng.dirichlet(np.ones(3), size=(2, 3)),
        rng.dirichlet(np.ones(2), size=(2, 3)),
        rng.normal(size=(2, 3)),
    )
    belief = rng.dirichlet(np.ones(3))
    value = belief_value(tables, belief, horizon, discount=0.9)
    assert value == pytest.approx(naive(tables, belief, horizon, 0.9), abs=1e-10)


def test_looking_is_never_worse_than_not_and_a_useless_answer_is_worth_nothing():
    rng = np.random.default_rng(0)
    transition = np.broadcast_to(np.eye(2), (3, 2, 2)).copy()
    reward = np.array([[0.0, 0.0], [5.0, -7.0], [-4.0, 3.0]])
    blind = np.full((3, 2, 2), 0.5)
    without = belief_value(TabularPOMDP(transition, blind, reward), EVEN, 3, discount=1.0)
    gained = []
    for accuracy in (0.5, 0.6, 0.75, 0.9, 1.0):
        shown = blind.copy()
        shown[0] = [[accuracy, 1 - accuracy], [1 - accuracy, accuracy]]
        world = TabularPOMDP(transition, shown, reward)
        gained.append(belief_value(world, EVEN, 3, discount=1.0) - without)
    assert gained[0] == pytest.approx(0.0, abs=1e-12)
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(gained))
    relabelled = TabularPOMDP(transition, shown[:, :, ::-1].copy(), reward)
    assert belief_value(relabelled, EVEN, 3, discount=1.0) - without == pytest.approx(gained[-1])
    del rng


def test_updates_sum_to_one_and_impossible_answers_are_left_out():
    chance, after = belief_update(tiger(1.0), np.array([1.0, 0.0]), 0)
    assert chance.tolist() == [1.0, 0.0]
    assert after[0].tolist() == [1.0, 0.0]
    graph = reachable_beliefs(tiger(1.0), EVEN, None)
    assert graph.closed
    assert sorted(graph.beliefs[:, 0].tolist()) == [0.0, 0.5, 1.0]


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ConfigError, match="discount"):
        belief_value(tiger(), EVEN, None, discount=1.0)
    with pytest.raises(ConfigError, match="horizon"):
        belief_value(tiger(), EVEN, 0, discount=0.9)
    with pytest.raises(ConfigError, match="belief"):
        belief_value(tiger(), np.array([0.5, 0.6]), 2, discount=0.9)
    with pytest.raises(ResourceError, match="reachable"):
        belief_value(tiger(0.7), np.array([0.3, 0.7]), None, discount=0.9, most=5)
    with pytest.raises(ConfigError, match="transition"):
        TabularPOMDP(np.ones((1, 2, 2)), np.ones((1, 2, 1)), np.zeros((1, 2)))


def test_it_needs_no_torch():
    code = "import bb_wm.decide.pomdp, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
