"""The chance of a hazard within k rows and the risk to go, by hand."""

import math

import pytest
import torch

from bb_wm.errors import ConfigError
from bb_wm.imagine.hazard import hazard_within, risk_to_go
from bb_wm.imagine.rollout import reach
from bb_wm.types import Latent, Trajectory


def trajectory(safety, continuation=None):
    risk = torch.tensor(safety)
    goes_on = torch.ones_like(risk) if continuation is None else torch.tensor(continuation)
    empty = torch.zeros(*risk.shape, 1)
    latents = Latent(empty, empty, empty[..., None, :], empty)
    start = latents[..., 0] if risk.dim() > 1 else latents[0]
    return Trajectory(start, latents, empty, risk, risk, goes_on, reach(goes_on))


def test_independent_rows():
    found = hazard_within(trajectory([0.5, 0.5, 0.2]))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.75, 0.8]))  # 1 - 0.5 x 0.5 x 0.8


def test_units_and_limits():
    found = hazard_within(trajectory([1.0, 4.0, 9.0]), unit=4.0)
    torch.testing.assert_close(found, torch.tensor([0.25, 1.0, 1.0]))
    assert hazard_within(trajectory([0.0, 0.0])).tolist() == [0.0, 0.0]


def test_where_the_end_is_the_hazard_it_is_counted_once():
    # dies with 0.5 per row, and that is the harm: 1 - 0.5^k exactly
    found = hazard_within(trajectory([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.75, 0.875]))


def test_what_comes_after_the_end_does_no_harm():
    found = hazard_within(trajectory([0.0, 1.0, 1.0], [0.25, 1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.25]))


def test_risk_to_go_is_the_sum_or_the_worst_row():
    imagined = trajectory([1.0, 3.0, 2.0], [1.0, 0.5, 1.0])
    torch.testing.assert_close(risk_to_go(imagined), torch.tensor([1.0, 4.0, 5.0]))
    torch.testing.assert_close(risk_to_go(imagined, peak=True), torch.tensor([1.0, 3.0, 3.0]))


def test_nan_stays_and_rows_do_not_mix():
    found = hazard_within(trajectory([[0.1, math.nan, 0.1], [0.5, 0.5, 0.0]]))
    assert found[0, 0] == pytest.approx(0.1)
    assert found[0, 1:].isnan().all()
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.75, 0.75]))


@pytest.mark.parametrize("unit", [0.0, -1.0, math.nan, math.inf])
def test_unit(unit):
    with pytest.raises(ConfigError):
        hazard_within(trajectory([0.1]), unit=unit)
