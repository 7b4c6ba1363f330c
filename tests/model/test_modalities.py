"""Modalities: both directions are inverse, likelihoods are torch's."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Normal

from bb_wm.model.modalities import Discrete, Image, Modality, Vector, modality_of
from bb_wm.types import ObsEntry


def make(entry: ObsEntry, *, fixed: bool = False) -> Modality:
    torch.manual_seed(0)
    return modality_of(entry, 10, 3, features=6, fixed_scale=fixed)


def test_vector_look_standardises_and_show_is_its_inverse() -> None:
    vector = make(ObsEntry("x", "vector", (2, 3)))
    rows = torch.randn(500, 2, 3) * torch.tensor([1.0, 10.0, 0.1]) + 4.0
    vector.observe(rows, rows[1:] - rows[:-1])
    sight = vector.look(rows)
    torch.testing.assert_close(sight.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(sight.std(0, unbiased=False), torch.ones(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(vector.show(sight), rows)


def test_vector_nll_is_the_gaussians() -> None:
    vector = make(ObsEntry("x", "vector", (2,)))
    assert isinstance(vector, Vector)
    params, obs = torch.randn(5, 1, 2), torch.randn(5, 1, 2)
    error = vector.error(params, vector.look(obs))
    vector.track(error, torch.ones(5, 1, dtype=torch.bool), "decode", 0)
    scale = vector.decode_scale.scale[0]
    expected = -Normal(params, scale).log_prob(obs).sum(-1)
    torch.testing.assert_close(vector.nll(error, "decode", 0), expected)


def test_fixed_scale_is_the_documents_squared_error() -> None:
    """Unit variance: -log p = half the squared error plus a constant."""
    vector = make(ObsEntry("x", "vector", (2,)), fixed=True)
    error = torch.tensor([[[4.0, 0.0]]])
    vector.track(error, torch.ones(1, 1, dtype=torch.bool), "decode", 0)
    nll = vector.nll(error, "decode", 0) - vector.nll(torch.zeros_like(error), "decode", 0)
    assert nll.item() == pytest.approx(2.0)


def test_the_direct_path_mixes_a_change_and_a_value() -> None:
    vector = make(ObsEntry("x", "vector", (1,)))
    rows = torch.tensor([[0.0], [10.0]]).repeat(50, 1)
    vector.observe(rows, torch.tensor([[0.5], [-0.5]]))  # rows: deviation 5; changes: 0.5
    sight, change, value = torch.tensor([0.2]), 2.0, 3.0
    only_change = vector.advance(sight, torch.tensor([change, value, -60.0]))
    torch.testing.assert_close(only_change, torch.tensor([0.2 + 2.0 * 0.5 / 5.0]))
    only_value = vector.advance(sight, torch.tensor([change, value, 60.0]))
    torch.testing.assert_close(only_value, torch.tensor([3.0]))
    half = vector.advance(sight, torch.tensor([change, value, 2.0]))
    torch.testing.assert_close(half, (only_change + only_value) / 2)


def test_what_never_changed_is_predicted_not_to() -> None:
    vector = make(ObsEntry("x", "vector", (2,)))
    rows = torch.randn(50, 2)
    vector.observe(rows, torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    sight = torch.randn(7, 2)
    moved = vector.advance(sight, torch.randn(7, 6))
    assert torch.equal(moved[:, 0], sight[:, 0])
    assert bool((moved[:, 1] != sight[:, 1]).all())


def test_discrete_nll_is_the_categoricals_and_modes_are_indices() -> None:
    discrete = make(ObsEntry("d", "discrete", (2,), (3, 4)))
    assert isinstance(discrete, Discrete)
    params, obs = torch.randn(5, 7), torch.tensor([[0, 3], [1, 0], [2, 1], [0, 0], [2, 3]])
    expected = -Categorical(logits=params[:, :3]).log_prob(obs[:, 0])
    expected = expected - Categorical(logits=params[:, 3:]).log_prob(obs[:, 1])
    torch.testing.assert_close(
        discrete.nll(discrete.error(params, discrete.look(obs)), "decode", 0), expected
    )
    torch.testing.assert_close(discrete.show(discrete.look(obs)), obs)
    sure = 50.0 * discrete.look(obs)
    torch.testing.assert_close(discrete.decode(sure), obs)
    torch.testing.assert_close(discrete.decode(sure, torch.randn(5, 2)), obs)


def test_discrete_samples_follow_the_probabilities() -> None:
    discrete = make(ObsEntry("d", "discrete", (1,), (3,)))
    params = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, 3)
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(discrete.decode(params, noise).flatten(), minlength=3) / 20_000
    torch.testing.assert_close(counts, torch.tensor([0.1, 0.2, 0.7]), atol=0.012, rtol=0)


@pytest.mark.parametrize("shape", [(32, 32, 3), (3, 64, 64), (20, 33, 1)])
def test_image_shapes_both_ways(shape: tuple[int, ...]) -> None:
    image = make(ObsEntry("im", "image", shape))
    assert isinstance(image, Image)
    obs = torch.randint(0, 256, (2, 4, *shape), dtype=torch.uint8)
    sight = image.look(obs)
    assert sight.shape == (2, 4, 6)
    torch.testing.assert_close(image.look(obs[0, 0]), sight[0, 0], atol=1e-5, rtol=1e-4)
    params = image.head(torch.randn(2, 4, 10))
    assert image.decode(params).shape == obs.shape
    assert image.error(params, obs).shape == (2, 4, 1)


@pytest.mark.parametrize("shape", [(32, 32, 3), (3, 16, 16)])
def test_images_are_told_as_differences_from_the_mean_picture(shape: tuple[int, ...]) -> None:
    image = make(ObsEntry("im", "image", shape))
    assert isinstance(image, Image)
    obs = torch.randint(40, 200, (500, *shape), dtype=torch.uint8)
    obs[:, 0] = 250  # what never changes
    for part in obs.split(20):
        image.observe(part, part[:0])
    mean, spread = obs.double().mean(0), obs.double().std(0, unbiased=False)
    nothing = torch.zeros(1, *image.head(torch.zeros(1, 10)).shape[1:])
    torch.testing.assert_close(image.decode(nothing)[0], mean.float(), atol=1e-3, rtol=0)
    # The error is in units of one deviation for all pixels; predicting the mean scores about 1.
    unit = spread.square().mean().sqrt()
    gap = ((obs.double() - mean) / unit).square().flatten(1).mean(1)
    torch.testing.assert_close(image.error(nothing, obs)[:, 0].double(), gap, atol=1e-4, rtol=1e-4)
    assert float(gap.mean()) == pytest.approx(1.0, abs=1e-6)


def test_image_likelihood_counts_every_pixel() -> None:
    image = make(ObsEntry("im", "image", (8, 8, 1)), fixed=True)
    nll = image.nll(torch.tensor([[[0.5]]]), "decode", 0)
    per_pixel = -Normal(0.0, 1.0).log_prob(torch.tensor(0.5).sqrt())
    torch.testing.assert_close(nll, (64 * per_pixel).reshape(1, 1))
