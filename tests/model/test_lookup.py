"""One-hots that are looked up are what multiplying them gives; all else is multiplied."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bb_wm.config import Categorical, WorldModelConfig
from bb_wm.model import lookup
from bb_wm.model.lookup import affine_of_latent
from bb_wm.rssm import WorldModel

GROUPS, CLASSES = 3, 5


def hots(rows: int, before: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    index = torch.randint(CLASSES, (rows, GROUPS), generator=generator)
    z = F.one_hot(index, CLASSES).double().flatten(1)
    return torch.cat([torch.randn(rows, before, generator=generator).double(), z], dim=1)


def halves(x: torch.Tensor, before: int) -> list[torch.Tensor]:
    return list(x.tensor_split([before], dim=-1))


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every look-up."""
    seen: list[int] = []
    real = F.embedding_bag

    def spy(index: torch.Tensor, table: torch.Tensor, *offsets: torch.Tensor, mode: str) -> object:
        if not offsets:  # with them it is the table's gradient that is gathered
            seen.append(index.shape[0])
        return real(index, table, *offsets, mode=mode)

    monkeypatch.setattr(lookup.F, "embedding_bag", spy)
    return seen


@pytest.mark.parametrize("before", [0, 4])
@pytest.mark.parametrize("with_bias", [True, False])
def test_looking_up_is_multiplying(before: int, with_bias: bool, looked_up: list[int]) -> None:
    layer = nn.Linear(before + GROUPS * CLASSES, 7, bias=with_bias, dtype=torch.float64)
    layer.requires_grad_(False)
    x = hots(128, before).reshape(4, 32, -1)
    found = affine_of_latent(*halves(x, before), layer.weight, layer.bias, (GROUPS, CLASSES))
    torch.testing.assert_close(found, layer(x))
    assert looked_up == [128]


@pytest.mark.parametrize("spoil", ["zeros", "mean", "middle", "negative", "nan", "two"])
def test_what_is_not_one_hot_is_multiplied(spoil: str, looked_up: list[int]) -> None:
    x = hots(128)
    row = {"zeros": x[5] * 0, "mean": (x[5] + x[6]) / 2, "nan": x[5] * float("nan")}
    row["middle"] = torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0]).repeat(GROUPS)  # between 0 and 2
    row["negative"] = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0]).repeat(GROUPS)  # their sum is 1
    x[5] = row.get(spoil, (x[5] + x[5].roll(1)).clamp_max(1.0))
    weight = torch.randn(7, GROUPS * CLASSES).double()
    found = affine_of_latent(*halves(x, 0), weight, None, (GROUPS, CLASSES))
    torch.testing.assert_close(found, F.linear(x, weight), rtol=0, atol=0, equal_nan=True)
    assert not looked_up


@pytest.mark.parametrize("before", [0, 4])
def test_gradients_are_the_products(before: int, looked_up: list[int]) -> None:
    layer = nn.Linear(before + GROUPS * CLASSES, 7, dtype=torch.float64)
    x = hots(128, before).reshape(4, 32, -1).requires_grad_()
    slope = torch.randn(4, 32, 7, dtype=torch.float64)
    owners = [x, layer.weight, layer.bias]
    found = affine_of_latent(*halves(x, before), layer.weight, layer.bias, (GROUPS, CLASSES))
    mine = torch.autograd.grad(found, owners, slope)
    assert looked_up
    # Straight through: every column of x has its gradient, the cold ones too.
    for a, b in zip(mine, torch.autograd.grad(layer(x), owners, slope), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_held_has_no_gradient() -> None:
    x, weight = hots(128).requires_grad_(), torch.randn(7, GROUPS * CLASSES).double()
    affine_of_latent(*halves(x, 0), weight, None, (GROUPS, CLASSES)).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_a_rollout_looks_up_what_it_would_have_multiplied(
    looked_up: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = WorldModel(3, 2, WorldModelConfig(latent=Categorical(8, 8), budget=None))
    start = model.encode(torch.randn(80, 3).numpy())
    actions = torch.rand(80, 5, 2)
    found = model.rollout(start, actions)
    assert looked_up[:5] == [80] * 5  # every row's z
    assert looked_up[-1] == 400  # the heads, once for all
    monkeypatch.setattr(lookup, "_MANY", 10**9)
    expected = model.rollout(start, actions)
    for name in ("reward", "safety", "continuation"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.latents.h, expected.latents.h)


def test_what_was_drawn_is_known_until_it_is_written_to(looked_up: list[int]) -> None:
    family = Categorical(GROUPS, CLASSES)
    params = torch.randn(128, GROUPS * CLASSES, generator=torch.Generator().manual_seed(0))
    drawn = family.sample(params, torch.zeros(128, GROUPS))
    modes = (family.mode(params), family.draw(params, None)[0])
    for z in (drawn, *modes):
        index = lookup.index_of_hots(z, GROUPS, CLASSES)
        afresh = lookup.index_of_hots(z.clone(), GROUPS, CLASSES)
        assert index is not None
        assert afresh is not None
        assert torch.equal(index, afresh)
    drawn[3] = 0.5
    assert lookup.index_of_hots(drawn, GROUPS, CLASSES) is None


def test_a_straight_through_sample_is_not_taken_for_known() -> None:
    family = Categorical(GROUPS, CLASSES)
    params = torch.randn(128, GROUPS * CLASSES, requires_grad=True)
    assert "_hots" not in family.sample(params, torch.zeros(128, GROUPS)).__dict__


def test_inference_tensors_are_looked_at_each_time() -> None:
    with torch.inference_mode():
        z = Categorical(GROUPS, CLASSES).mode(torch.randn(128, GROUPS * CLASSES))
        assert lookup.index_of_hots(z, GROUPS, CLASSES) is not None
