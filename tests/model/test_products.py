"""Products in bfloat16: only where torch allows it, only wide ones, and close to float32's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bb_wm.config import GRU, Categorical, WorldModelConfig
from bb_wm.model import products
from bb_wm.model.products import Linear, joined, kept, linear, operand, times
from bb_wm.rssm import WorldModel

WIDE = products._WIDE
ROUNDING = 2.0**-8  # half a unit in the last of bfloat16's 8 bits


@pytest.fixture
def medium(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch's switch thrown, on a processor that multiplies bfloat16 (any does, some slowly)."""
    monkeypatch.setattr(products, "_narrow", lambda device: device == "cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def test_torchs_default_multiplies_as_torch_does() -> None:
    x, weight, bias = _numbers(40, WIDE), _numbers(WIDE, WIDE), _numbers(WIDE)
    assert operand(weight) is weight
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_medium_rounds_operands_and_result_and_nothing_else(medium: None) -> None:
    x, weight, bias = _numbers(3, 40, WIDE), _numbers(WIDE + 1, WIDE), _numbers(WIDE + 1)
    found = linear(x, weight, bias)
    exact = x.bfloat16().double() @ weight.bfloat16().double().t()
    off = (found - bias).double() - exact
    assert found.dtype == torch.float32
    assert (off.abs() <= 1.01 * ROUNDING * exact.abs() + 1e-4).all()
    assert not torch.equal(found, F.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("rows", "outputs", "dtype"),
    [
        (40, WIDE - 1, torch.float32),
        (1, WIDE, torch.float32),
        (40, WIDE, torch.float64),
    ],
    ids=["a narrow weight", "a single row", "float64"],
)
def test_medium_leaves_alone(medium: None, rows: int, outputs: int, dtype: torch.dtype) -> None:
    x, weight = _numbers(rows, WIDE, dtype=dtype), _numbers(outputs, WIDE, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_what_is_prepared_is_kept_until_the_weight_changes() -> None:
    weight = torch.nn.Parameter(_numbers(3, 2))
    made: list[Tensor] = []

    def double(of: Tensor) -> Tensor:
        made.append(of)
        return 2.0 * of

    with torch.no_grad():
        assert kept(weight, "double", double) is kept(weight, "double", double)
        weight.add_(1.0)
        torch.testing.assert_close(kept(weight, "double", double), 2.0 * weight)
        assert len(made) == 2
        weight.data = weight.data.clone() + 1.0
        torch.testing.assert_close(kept(weight, "double", double), 2.0 * weight)
    found = kept(weight, "double", double)
    assert found.requires_grad
    assert len(made) == 4


def test_joined_weights_are_kept_until_one_of_them_changes() -> None:
    first, second = (torch.nn.Parameter(_numbers(rows, 2)) for rows in (3, 4))
    with torch.no_grad():
        found = joined([first, second])
        assert torch.equal(found, torch.cat([first, second]))
        assert joined([first, second]) is found
        second.mul_(2.0)
        assert torch.equal(joined([first, second]), torch.cat([first, second]))
    assert joined([first, second]).requires_grad


def test_a_plan_after_an_update_is_made_by_the_new_weights(medium: None) -> None:
    """What was kept for the plan before must not be used again."""
    config = WorldModelConfig(core=GRU(WIDE), latent=Categorical(8, 32), hidden=WIDE, budget=None)
    rows = np.random.default_rng(0).standard_normal((8, 6, 3)).astype(np.float32)
    batch = {"obs": rows, "action": rows[..., :1].clip(-1, 1), "reward": rows[..., 0]}
    batch["terminated"] = np.zeros((8, 6), bool)

    def imagined(model: WorldModel) -> Tensor:
        start = model.encode(np.resize(rows, (80, 3)))
        return model.rollout(start, lambda s: torch.ones(*s.batch_shape, 1), 3).reward

    planned, fresh = (WorldModel(3, 1, config) for _ in range(2))
    before = imagined(planned)
    for model in (planned, fresh):
        model.update(batch)
    assert torch.equal(imagined(planned), imagined(fresh))
    assert not torch.equal(imagined(planned), before)


def test_gradients_are_float32_and_close(medium: None) -> None:
    layer, x = Linear(WIDE, WIDE), _numbers(64, WIDE).requires_grad_()
    slope = _numbers(64, WIDE)
    layer(x).backward(slope)
    assert x.grad is not None
    for found, exact in (
        (x.grad, slope @ layer.weight),
        (layer.weight.grad, slope.t() @ x.detach()),
        (layer.bias.grad, slope.sum(0)),
    ):
        assert found is not None
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, atol=0.02 * float(exact.detach().std()), rtol=0.02)


def test_either_narrow_operand_narrows_the_other() -> None:
    left, right, added = _numbers(5, 6), _numbers(6, 7), _numbers(7)
    expected = (left.bfloat16() @ right.bfloat16()).float() + added
    assert torch.equal(times(left, right.bfloat16(), added), expected)
    assert torch.equal(times(left.bfloat16(), right, added), expected)


def test_a_wide_model_learns_the_same_in_medium(medium: None) -> None:
    def learnt(precision: str) -> tuple[list[float], Tensor]:
        torch.set_float32_matmul_precision(precision)
        latent = Categorical(8, WIDE // 8)
        config = WorldModelConfig(core=GRU(WIDE), latent=latent, hidden=WIDE, budget=None)
        model = WorldModel(4, 2, config)
        random = np.random.default_rng(0)
        losses = []
        for _ in range(8):
            rows = random.standard_normal((20, 6, 4)).cumsum(1).astype(np.float32)
            action = random.uniform(-1, 1, (20, 6, 2)).astype(np.float32)
            reward = rows[..., 0]
            batch = {"obs": rows, "action": action, "reward": reward, "safety": np.abs(reward)}
            losses.append(model.update(batch | {"terminated": np.zeros((20, 6), bool)})[0])
        return losses, model.state_tensors()["parameter/rssm.core.gates.weight"]

    exact, weight = learnt("highest")
    narrow, other = learnt("medium")
    assert narrow != exact
    assert other.dtype == torch.float32
    assert narrow == pytest.approx(exact, rel=0.02, abs=0.02)
    torch.testing.assert_close(other, weight, atol=0.03, rtol=0.1)
