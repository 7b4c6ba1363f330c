"""Building blocks against numpy and by hand."""

from __future__ import annotations

import math

import numpy as np
import torch

from bb_wm.model.nets import (
    MLP,
    RangedStatistics,
    RunningScale,
    RunningShare,
    Statistics,
    masked_mean,
)


def test_statistics_merge_like_one_pass_over_all_rows() -> None:
    rows = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * 5 + 100
    statistics = Statistics(3)
    for piece in rows.split([1, 7, 500, 492]):
        statistics.update(piece)
    statistics.update(rows[:0])
    np.testing.assert_allclose(statistics.centre.numpy(), rows.double().mean(0), rtol=1e-6)
    expected = rows.double().std(0, unbiased=False)
    np.testing.assert_allclose(statistics.scale.numpy(), expected, rtol=1e-6)


def test_a_constant_dimension_has_scale_one() -> None:
    statistics = Statistics(2)
    statistics.update(torch.tensor([[7.7, 0.0], [7.7, 2.0]]).expand(50, 2, 2).reshape(-1, 2))
    assert statistics.scale.tolist() == [1.0, 1.0]
    assert statistics.centre.tolist()[1] == 1.0


def test_running_scale_is_the_likelihood_of_a_gaussian_at_its_own_error() -> None:
    """At scale^2 = mean error^2 the mean of -log p is log(scale) + (1 + log 2 pi) / 2."""
    scale = RunningScale(2, 1)
    error = torch.tensor([[[4.0], [0.25]], [[0.0], [0.75]]])  # two rows, horizons 0 and 1
    scale.update(error, torch.ones(2, 2, dtype=torch.bool), 0)
    torch.testing.assert_close(scale.scale, torch.tensor([[math.sqrt(2.0)], [math.sqrt(0.5)]]))
    mean = scale.nll(error, 0).mean(0).squeeze(-1)
    constant = (1.0 + math.log(2 * math.pi)) / 2
    expected = torch.tensor([0.5 * math.log(2.0) + constant, 0.5 * math.log(0.5) + constant])
    torch.testing.assert_close(mean, expected)


def test_running_scale_leaves_masked_rows_and_unseen_horizons_alone() -> None:
    scale = RunningScale(3, 1)
    error = torch.full((2, 2, 1), 9.0)
    scale.update(error, torch.tensor([[True, False], [True, False]]), 1)
    assert scale.variance.flatten().tolist() == [1.0, 9.0, 1.0]
    fixed = RunningScale(1, 1, fixed=True)
    fixed.update(error[:, :1], torch.ones(2, 1, dtype=torch.bool), 0)
    assert fixed.variance.item() == 1.0


def test_running_share_is_the_part_of_what_is_added_that_comes_true() -> None:
    generator = torch.Generator().manual_seed(0)
    share = RunningShare(torch.tensor([True, True, True, True, False, True]))
    assert share.value.tolist() == [1.0] * 6
    mask = torch.zeros(4, 500, dtype=torch.bool)
    mask[:, :400] = True
    for _ in range(200):
        missing = torch.randn(4, 500, 6, generator=generator)
        noise = torch.randn(4, 500, 6, generator=generator)
        added = missing + noise * torch.tensor([0.0, 1.0, 3.0, 1.0, 9.0, 1.0])
        added[..., 3], added[..., 5] = -added[..., 3], 0.0  # misleading; nothing at all
        missing[:, 400:] = float("nan")
        added[:, 400:] = 1e6
        share.update(missing.nan_to_num(), added, mask)
    # Signal / (signal + noise): all, a half, a tenth; never less than none.
    expected = torch.tensor([1.0, 0.5, 0.1, 0.0, 1.0, 1.0])
    torch.testing.assert_close(share.value, expected, atol=0.01, rtol=0)
    before = share.value.clone()
    share.update(missing.nan_to_num(), added, torch.zeros_like(mask))
    assert torch.equal(share.value, before)


def test_zero_mlp_starts_at_zero_and_learns() -> None:
    mlp = MLP(3, 2, hidden=8, layers=2, zero=True)
    x = torch.randn(5, 3)
    assert bool((mlp(x) == 0).all())
    mlp(x).sum().backward()
    assert mlp.output.weight.grad is not None
    assert bool((mlp.output.weight.grad != 0).any())


def test_masked_mean_counts_only_the_mask() -> None:
    values = torch.tensor([1.0, 5.0, 100.0])
    assert masked_mean(values, torch.tensor([True, True, False])).item() == 3.0
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)).item() == 0.0


def test_held_parameters_learn_nothing_and_inputs_do() -> None:
    net = MLP(3, 2, hidden=5, layers=2)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(net.held(x), net(x))
    (slope,) = torch.autograd.grad(net(x).square().sum(), x)
    (held,) = torch.autograd.grad(net.held(x).square().sum(), x)
    torch.testing.assert_close(held, slope)
    net.held(x).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_ranged_statistics_know_how_far_out_a_value_ever_was() -> None:
    ranged, plain = RangedStatistics(2), Statistics(2)
    far = torch.tensor([[1e30, -1e30]])
    assert torch.equal(ranged.within(far), far)  # nothing was seen yet
    for rows in ([[0.0, 5.0], [4.0, 5.0]], [[8.0, 5.0]]):
        ranged.update(torch.tensor(rows))
        plain.update(torch.tensor(rows))
    assert torch.equal(ranged.mean, plain.mean)
    assert torch.equal(ranged.scale, plain.scale)
    # 0 to 8, and a quarter of 8 more on either side; what never changed stays where it is.
    kept = ranged.centre + ranged.within(far) * ranged.scale
    torch.testing.assert_close(kept, torch.tensor([[10.0, 5.0]]))
    kept = ranged.centre + ranged.within(-far) * ranged.scale
    torch.testing.assert_close(kept, torch.tensor([[-2.0, 5.0]]))
