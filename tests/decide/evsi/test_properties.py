"""Properties that hold whatever the numbers are (metamorphic), on random finite problems."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bb_wm.decide.evsi import EVSI, CrossFittedRegression, Enumeration, JointSamples, lookahead
from bb_wm.decide.evsi.samples import prune

torch.set_num_threads(1)
seeds = st.integers(0, 10_000)


def problem(seed, *, exact, states=6, candidates=4, answers=5):
    g = np.random.default_rng(seed)
    count = states if exact else 80
    table = g.dirichlet(np.ones(answers) * 0.5, states)
    index = np.arange(states) if exact else g.integers(states, size=count)
    utility = g.normal(size=(states, candidates))[index]
    weights = torch.tensor(g.dirichlet(np.ones(count))) if exact else None
    return JointSamples(
        torch.tensor(utility), likelihood=torch.tensor(table[index]), weights=weights, exact=exact
    ).validated()


def changed(samples, **fields):
    return replace(samples, **fields)


@given(seeds)
@settings(max_examples=40)
def test_info_lies_between_nothing_and_evpi(seed):
    result = EVSI().estimate(problem(seed, exact=True))
    assert -1e-12 <= result.info <= result.evpi_bound + 1e-12
    assert result.effect == 0


@given(seeds)
@settings(max_examples=40)
def test_garbling_an_answer_lowers_info(seed):
    samples = problem(seed, exact=True)
    garble = torch.tensor(np.random.default_rng(seed + 1).dirichlet(np.ones(4), 5))
    worse = changed(samples, likelihood=samples.likelihood @ garble)
    assert EVSI().estimate(worse).info <= EVSI().estimate(samples).info + 1e-12


@pytest.mark.parametrize("exact", [True, False])
@given(seed=seeds)
@settings(max_examples=20)
def test_names_copies_and_also_rans_change_nothing(exact, seed):
    samples = problem(seed, exact=exact)
    whole = EVSI().estimate(samples)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    relabelled = EVSI().estimate(changed(samples, likelihood=samples.likelihood[:, order]))
    assert relabelled.gain == pytest.approx(whole.gain, abs=1e-9)
    copy = torch.cat([samples.utility, samples.utility[:, :2]], 1)
    assert EVSI().estimate(changed(samples, utility=copy)).gain == pytest.approx(whole.gain)
    beaten = torch.cat([samples.utility[:, :1] - 0.5, samples.utility], 1)
    assert EVSI().estimate(changed(samples, utility=beaten)).gain == pytest.approx(whole.gain)
    assert 0 not in prune(beaten, None)


@pytest.mark.parametrize("exact", [True, False])
@given(seed=seeds, scale=st.floats(0.01, 1000), shift=st.floats(-1000, 1000))
@settings(max_examples=20)
def test_utility_is_affine_invariant(exact, seed, scale, shift):
    samples = problem(seed, exact=exact)
    base = EVSI().estimate(samples)
    moved = EVSI().estimate(changed(samples, utility=samples.utility * scale + shift))
    size = 1e-9 * (1 + scale + abs(shift))
    assert moved.gain == pytest.approx(scale * base.gain, abs=10 * size)
    assert moved.standard_error == pytest.approx(scale * base.standard_error, abs=10 * size)


@given(seeds, st.floats(-5, 5))
@settings(max_examples=20)
def test_costs_shift_the_net_one_for_one(seed, cost):
    samples = problem(seed, exact=False)
    free, paid = EVSI().estimate(samples), EVSI().estimate(samples, cost)
    assert paid.evsi == pytest.approx(free.evsi - cost)
    assert paid.lower == pytest.approx(free.lower - cost)
    assert paid.upper == pytest.approx(free.upper - cost)


@given(seeds)
@settings(max_examples=20)
def test_a_useless_tool_is_worth_exactly_minus_its_cost(seed):
    samples = problem(seed, exact=False)
    silent = changed(samples, likelihood=torch.ones(80, 1).double())
    assert EVSI().estimate(silent, 0.3).evsi == pytest.approx(-0.3, abs=1e-12)
    even = changed(samples, likelihood=torch.full((80, 16), 1 / 16).double())
    assert EVSI().estimate(even, 0.3).evsi == pytest.approx(-0.3, abs=1e-9)


@given(seeds)
@settings(max_examples=10)
def test_regression_is_affine_invariant_too(seed):
    g = torch.Generator().manual_seed(seed)
    theta = torch.randn(64, 1, generator=g).double()
    told = theta[:, None] + torch.randn(64, 4, 1, generator=g)
    utility = torch.cat([torch.zeros_like(theta), theta, -theta + 0.1], 1)
    method = CrossFittedRegression()
    base = method(JointSamples(utility, features=told))
    luck = torch.randn(64, 1, generator=g).double() * 50
    moved = method(JointSamples(3 * utility + luck + 7, features=told * 5 - 2))
    # What a world adds to all its candidates changes nothing either: common random numbers.
    assert moved.gain == pytest.approx(3 * base.gain, rel=1e-6, abs=1e-6)
    copied = method(JointSamples(torch.cat([utility, utility], 1), features=told))
    assert copied.gain == pytest.approx(base.gain, abs=1e-12)


def test_info_falls_as_the_tool_gets_noisier():
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(512, 1, generator=g).double()
    noise = torch.randn(512, 4, 1, generator=g).double()
    utility = torch.cat([torch.zeros_like(theta), theta], 1)
    info = [
        EVSI().estimate(JointSamples(utility, features=theta[:, None] + s * noise)).info
        for s in (0.1, 0.5, 1.0, 2.0, 5.0)
    ]
    assert info == sorted(info, reverse=True)
    expected = [0.39894 / np.sqrt(1 + s * s) for s in (0.1, 0.5, 1.0, 2.0, 5.0)]
    assert info == pytest.approx(expected, abs=0.08)


@given(seeds)
@settings(max_examples=15)
def test_two_calls_are_worth_at_least_one_and_depth_one_is_the_plain_evsi(seed):
    samples = problem(seed, exact=True, answers=3)
    other = problem(seed + 1, exact=True, answers=3).likelihood
    tools = {"a": (samples.likelihood, 0.05), "b": (other, 0.1)}
    one = lookahead(samples.utility, tools, depth=1, weights=samples.weights, exact=True)
    two = lookahead(samples.utility, tools, depth=2, weights=samples.weights, exact=True)
    plain = EVSI().estimate(samples, 0.05)
    assert one.evsi["a"] == pytest.approx(plain.evsi, abs=1e-12)
    for name in tools:
        assert two.evsi[name] >= one.evsi[name] - 1e-12


def test_enumeration_and_regression_agree_where_both_apply():
    found = {Enumeration: [], CrossFittedRegression: []}
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        state = torch.randint(2, (256,), generator=g)
        table = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)[state]
        utility = torch.stack([torch.zeros(256), 2.0 * state - 1.0], 1)
        told = (torch.rand(256, 8, 1, generator=g) < table[:, None, 1:]).double()
        found[Enumeration].append(EVSI().estimate(JointSamples(utility, likelihood=table)).gain)
        found[CrossFittedRegression].append(
            EVSI().estimate(JointSamples(utility, features=told)).gain
        )
    gaps = np.array(found[Enumeration]) - np.array(found[CrossFittedRegression])
    assert abs(gaps.mean()) < 0.02
    assert np.abs(gaps).max() < 0.06
