"""Coloured noise: unit variance, the promised spectrum, no wrap-around."""

import pytest
import torch

from bb_wm.decide.colour import colour_matrix, coloured


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("horizon", [1, 2, 12, 50])
def test_every_step_has_unit_variance(exponent, horizon):
    factor = colour_matrix(horizon, exponent)
    assert torch.allclose(factor.square().sum(-1), torch.ones(horizon).double(), atol=1e-9)


def test_white_noise_is_left_alone_bit_for_bit():
    noise = torch.randn(4, 10, 3)
    assert coloured(noise, 0.0) is noise


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_spectrum_falls_with_the_exponent(exponent):
    white = torch.randn(
        400, 512, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    noise = coloured(white, exponent)
    window = torch.hann_window(512, dtype=torch.float64)[:, None]
    power = torch.fft.rfft(noise * window, dim=1).abs().square().mean((0, 2))
    # Between the window's own width and the fold-over at half the rate.
    places = torch.arange(6, 120)
    x, y = places.double().log(), power[places].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope.item() == pytest.approx(-exponent, abs=0.08)


def test_neighbours_are_alike_and_the_ends_are_not():
    covariance = colour_matrix(20, 1.0) @ colour_matrix(20, 1.0).T
    first = covariance[0]
    assert first[1] > 0.6
    assert (first[1:] < first[:-1]).all()  # falls with distance: a circle would rise again
    assert torch.allclose(covariance[3, 10], covariance[8, 15], atol=1e-6)  # stationary
